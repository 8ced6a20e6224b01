"""Types of settings' fields, checked when settings are made: Python itself takes anything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from enum import Enum
from numbers import Integral, Real
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

__all__ = ["check_field_types"]

_LONGEST = 60
"""Most characters of a value that a message shows."""


def check_field_types(settings: Any) -> None:
    """Refuse a dataclass of which a field's value is of another type than the field.

    A number of numpy becomes Python's own; a field of a float takes an integer, and keeps it; a
    field of a tuple takes a list; a field of names in an `Enum` takes their text.

    Raises:
        ValueError: names the field, what was found, and what was expected.
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        kinds = get_args(hint) if NoneType in get_args(hint) else (hint,)
        if not any(_fits(value, kind) for kind in kinds):
            words = " or ".join(_words(kind) for kind in kinds)
            raise ValueError(f"{field.name} is {_shown(value)}: expected {words}")
        object.__setattr__(settings, field.name, _plain(value))


def _fits(value: object, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return isinstance(value, tuple | list) and all(_fits(one, item) for one in value)
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool) and _is_float(value)
    return isinstance(value, str if issubclass(kind, Enum) else kind)


def _is_float(value: Real) -> bool:
    """Whether a number is within the range of floats; infinity and NaN are."""
    try:
        math.isnan(value)
    except OverflowError:
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if isinstance(value, int | float):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"a tuple, each {_words(get_args(kind)[0])}"
    if issubclass(kind, Enum):
        return f"one of {', '.join(_names(kind))}"
    known = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
    return {**known, NoneType: "None"}.get(kind) or str(kind.__name__)


def _names(kind: type[Enum]) -> Iterator[str]:
    return (str(each.value) for each in kind)


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return "a number of more than 60 digits"  # which Python may refuse to print
    text = repr(value)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return f"{' '.join(text.split())} ({type(value).__name__})"
