"""Mistakes on a command line, each told on one line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import click

from primesvt_deploy.cli.option_words import expected, flag_of, in_words, is_plain_flag, nearest
from primesvt_deploy.edge.runtime.errors import on_one_line

__all__ = [
    "bad_value",
    "extra_arguments",
    "missing_arguments",
    "no_such_command",
    "refuse_no_numbers",
    "refuse_repeated",
    "usage_line",
    "wrong_value",
]


def usage_line(error: click.ClickException) -> str:
    """The message of an error of click: what was found, what was expected, where help is."""
    return on_one_line(_message(error))


def _message(error: click.ClickException) -> str:
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    if ctx is None or isinstance(error, _Told):
        return error.format_message()
    if isinstance(error, click.NoSuchOption):
        return _no_such_option(error, ctx)
    if isinstance(error, click.BadOptionUsage):
        option = next((p for p in ctx.command.params if error.option_name in p.opts), None)
        if option is not None and "requires" in error.message:
            what = expected(option) or "a value"
            return f"{error.option_name}: found nothing after it, expected {what}"
    if isinstance(error, click.BadOptionUsage) and "does not take a value" in error.message:
        return f"{error.option_name}: found a value after it, expected none: it is on or off"
    text = error.format_message().rstrip(".")
    return f"{text[:1].lower()}{text[1:]}: see `{ctx.command_path} --help`"


class _Told(click.UsageError):
    """A mistake whose message is complete."""


def _no_such_option(error: click.NoSuchOption, ctx: click.Context) -> str:
    name = error.option_name
    known = [
        name for option in ctx.command.params for name in (*option.opts, *option.secondary_opts)
    ]
    message = f"{ctx.command_path} has no option {name}"
    if isinstance(ctx.command, click.Group):
        for command in ctx.command.commands.values():
            if any(name in option.opts for option in command.params):
                example = f"`{ctx.command_path} {command.name} {name}`"
                return f"{message}: put it after the command, as in {example}"
    return f"{message}: {nearest(name, known) or f'see `{ctx.command_path} --help`'}"


def no_such_command(ctx: click.Context, name: str) -> click.UsageError:
    """A mistake that names the commands that are like the one that was typed."""
    known = ctx.command.list_commands(ctx) if isinstance(ctx.command, click.Group) else []
    ask = nearest(name, known) or f"expected one of {', '.join(known)}"
    return _Told(f"{ctx.command_path} has no command {in_words(name)}: {ask}", ctx)


def refuse_repeated(order: Iterable[click.Parameter], ctx: click.Context) -> None:
    """Refuse an option that is given twice but keeps one value; a flag may be repeated.

    Args:
        order: the options as they were given.
        ctx: the command's context.

    Raises:
        click.UsageError: one is repeated.
    """
    for option, times in Counter(order).items():
        if times < 2 or not isinstance(option, click.Option):
            continue
        if not (option.multiple or option.count or is_plain_flag(option)):
            names = ", ".join((*option.opts, *option.secondary_opts))
            often = "twice" if times == 2 else f"{times} times"
            raise _Told(f"{names}: found {often}, expected once: keep the one you mean", ctx)


def refuse_no_numbers(ctx: click.Context) -> None:
    """Refuse infinity and NaN, which Python reads as numbers, of options that take one.

    Args:
        ctx: the command's context, with the values of its options.

    Raises:
        click.UsageError: one is not finite.
    """
    for option in ctx.command.params:
        value = ctx.params.get(option.name or "")
        if isinstance(value, float) and not math.isfinite(value):
            raise _Told(f"{flag_of(option)}: found '{value}', expected {expected(option)}", ctx)


def extra_arguments(ctx: click.Context, words: Iterable[str]) -> click.UsageError:
    """A mistake that names the words which no argument takes."""
    found = ", ".join(map(in_words, words))
    names = [flag_of(p) for p in ctx.command.params if isinstance(p, click.Argument)]
    usage = " ".join((ctx.command_path, *names))
    hint = "; quote a path that has spaces" if names else " and options"
    return _Told(f"found {found} as well, expected `{usage}`{hint}", ctx)


def missing_arguments(ctx: click.Context, error: click.MissingParameter) -> click.UsageError:
    """A mistake that names all that is missing, not the first alone."""
    required = [p for p in ctx.command.params if p.required and isinstance(p, click.Argument)]
    if error.param not in required:
        what = flag_of(error.param) if error.param is not None else "an option"
        return _Told(f"{what} is missing: see `{ctx.command_path} --help`", ctx)
    # Words fill the arguments from the first to the last.
    names = [flag_of(argument) for argument in required[required.index(error.param) :]]
    verb = "is" if len(names) == 1 else "are"
    usage = " ".join(flag_of(argument) for argument in required)
    return _Told(f"{' and '.join(names)} {verb} missing: {ctx.command_path} {usage}", ctx)


def wrong_value(
    name: str, option: click.Parameter, value: object, error: click.BadParameter
) -> str:
    """Mistake of a value, in words of a known type, else in those of the option's own.

    Args:
        name: how the user named the option.
        option: the option.
        value: as the user gave it.
        error: of the option's type.
    """
    what = expected(option)
    if not what or option.multiple:
        return f"{name}: {error.message}"
    choices = option.type.choices if isinstance(option.type, click.Choice) else ()
    ask = nearest(str(value), map(str, choices))
    return f"{name}: found {in_words(value)}, expected {what}{f': {ask}' if ask else ''}"


def bad_value(
    ctx: click.Context, error: click.BadParameter, given: Mapping[str, Any]
) -> click.UsageError:
    """The mistake of a value that an option's type refuses.

    Args:
        ctx: the command's context.
        error: of the type.
        given: values as they were typed, by the options' names.
    """
    option = error.param
    if option is None or option.name not in given:
        return error
    return _Told(wrong_value(flag_of(option), option, given[option.name], error), ctx)
