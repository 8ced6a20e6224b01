"""The command line as it was typed, with some options changed: what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import click
from click.core import ParameterSource

__all__ = ["repeated"]


def repeated(context: click.Context, changes: Mapping[str, str | bool | None]) -> str:
    """A command that can be typed: that of `context`, with other options.

    Args:
        context: of the command; options that were not typed are left out.
        changes: value by name of the parameter; True for a flag; None leaves it out.
    """
    words = ["primesvt-deploy", context.command.name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in changes:
            words += _words(parameter, changes[name])
        elif context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            # The file of settings is no parameter of the command.
            value = context.params.get(name, context.meta.get(f"primesvt_deploy.{name}"))
            values: tuple[object, ...] = tuple(value or ()) if parameter.multiple else (value,)
            for each in values:
                words += _words(parameter, each)
    return shlex.join(words)


def _words(parameter: click.Parameter, value: object) -> list[str]:
    """Words of one option or argument."""
    if value is None:
        return []
    if not isinstance(parameter, click.Option):
        return list(map(str, value)) if isinstance(value, tuple) else [str(value)]
    if parameter.is_flag:
        names = parameter.opts if value else parameter.secondary_opts
        return names[:1]
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return [max(parameter.opts, key=len), shown]
