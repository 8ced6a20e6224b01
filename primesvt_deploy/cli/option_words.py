"""Options in words: names, what they take, and which name was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, time
from difflib import get_close_matches

import click

__all__ = ["expected", "flag_of", "in_words", "is_plain_flag", "key_of", "nearest"]

_WORDS = {
    click.types.IntParamType: "a whole number",
    click.types.FloatParamType: "a number",
    click.types.BoolParamType: "true or false",
    click.types.StringParamType: "text",
    click.Path: "a path",
}
_LONGEST = 80
"""Most characters of a value that a message shows."""


def flag_of(parameter: click.Parameter) -> str:
    """An option's longest name, such as `--budget-mb`; an argument's as the usage line has it."""
    if isinstance(parameter, click.Argument):
        return parameter.metavar or str(parameter.name).upper()
    return max(parameter.opts, key=len)


def key_of(option: click.Option) -> str:
    """An option's name in a file of settings: its flag without the dashes."""
    return flag_of(option).lstrip("-")


def is_plain_flag(option: click.Option) -> bool:
    """Whether an option is on where it is given, and has no other name to turn it off."""
    return bool(option.is_flag) and not option.secondary_opts


def nearest(name: str, names: Iterable[str]) -> str:
    """The question which of `names` was meant by a wrong one; empty where none is like it."""
    # The dashes that all options have in common make none of them like another.
    known, name = {each.lstrip("-"): each for each in names}, name[:_LONGEST].lstrip("-")
    found = get_close_matches(name, known, 2, 0.7) or get_close_matches(name, known, 1)
    return f"did you mean {' or '.join(known[each] for each in found)}?" if found else ""


def in_words(value: object) -> str:
    """A value that was found, as a message shows it: on one line, and not too long."""
    if isinstance(value, bool):
        return str(value).lower()
    kinds = {dict: "a table", list: "an array"}
    words = next((word for kind, word in kinds.items() if isinstance(value, kind)), None)
    if words is not None:
        return words
    if isinstance(value, date | time):
        return value.isoformat()
    text = repr(value[:_LONGEST] if isinstance(value, str) else value)
    return text if len(text) <= _LONGEST + 2 else f"{text[:_LONGEST]}..."


def expected(parameter: click.Parameter) -> str:
    """Values that it takes, such as `a whole number, 1 or more`; empty: only its type knows."""
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return f"one of {', '.join(map(str, kind.choices))}"
    if isinstance(kind, click.IntRange | click.FloatRange):
        whole = "whole " if isinstance(kind, click.IntRange) else ""
        return f"a {whole}number{_limits(kind)}"
    return next((_WORDS[base] for base in type(kind).__mro__ if base in _WORDS), "")


def _limits(kind: click.IntRange | click.FloatRange) -> str:
    parts = []
    if kind.min is not None:
        parts.append(f"more than {kind.min}" if kind.min_open else f"{kind.min} or more")
    if kind.max is not None:
        parts.append(f"less than {kind.max}" if kind.max_open else f"at most {kind.max}")
    return f", {' and '.join(parts)}" if parts else ""
