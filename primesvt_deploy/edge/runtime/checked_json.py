"""Read JSON that others may have written, and check it before anything is computed with it.

A check is called with a value and where it stands; it raises ValueError in one line. Checks are
put together as the content is: `fields({"name": text(), "batch": whole(1)})`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from .errors import is_on_one_line
from .files import read_regular

__all__ = [
    "Check",
    "by_name",
    "fields",
    "flag",
    "list_of",
    "null_or",
    "number",
    "one_of",
    "parse_json",
    "read_json",
    "text",
    "whole",
]

Check = Callable[[Any, str], None]
"""Raises ValueError where a value, at a place such as `variants[0].name`, is not as it must be."""

_MOST_BYTES = 64 * 2**20
_MOST_DEPTH = 50
_MOST_TEXT = 20_000
_NAME = 500
"""Most characters of a name."""
_LARGEST = 2**53
"""Whole numbers up to it are exact in every JSON reader."""


def read_json(path: str | os.PathLike[str]) -> Any:
    """Content of a JSON file; see `parse_json`.

    Raises:
        OSError: there is no such file, it is no regular one, too large, or cannot be read.
        ValueError: it is not JSON as `parse_json` takes it.
    """
    return parse_json(read_regular(path, most=_MOST_BYTES))


def parse_json(content: str | bytes, *, infinity: bool = False) -> Any:
    """Parse JSON strictly: finite numbers of 64 bits, whole Unicode, each key once, not too deep.

    Args:
        content: the JSON.
        infinity: accept `Infinity` as a number.

    Raises:
        ValueError: it is something else; the message says in one line what.
    """
    try:
        if isinstance(content, bytes):
            content = content.decode("utf-8")
        found = json.loads(
            content,
            parse_constant=_infinity if infinity else _no_constant,
            parse_float=_finite,
            parse_int=_bounded,
            object_pairs_hook=_each_once,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 from byte {error.start} on") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not complete JSON (line {error.lineno}: {error.msg})") from None
    _check_plain(found)
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, expected finite numbers")


def _infinity(name: str) -> float:
    return math.inf if name == "Infinity" else _no_constant(name)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"it holds the number {digits[:20]}, which is too large")
    return value


def _bounded(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) >= 2**63:
        raise ValueError(f"it holds the number {digits[:20]}..., which is too large")
    return int(digits)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {_shown(twice)} stands twice")
    return found


def _check_plain(content: Any) -> None:
    """Refuse depth, and text that cannot be written anywhere, in all of a parsed content."""
    level = [content]
    for _ in range(_MOST_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, dict):
                inner += value.keys()
                inner += value.values()
        level = inner
    if level:
        raise ValueError("it is nested too deeply")


def _check_text(value: str) -> None:
    if len(value) > _MOST_TEXT:
        raise ValueError(f"it holds a text of {len(value)} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"it holds half of a character in {_shown(value)}") from None


def _shown(value: Any) -> str:
    """A value in a message: on one line, and short."""
    if isinstance(value, dict | list):
        return f"a {'table' if isinstance(value, dict) else 'list'} of {len(value)}"
    found = repr(value) if value is not None else "null"
    return found if len(found) <= 40 else f"{found[:40]}..."


def _wrong(value: Any, where: str, expected: str) -> ValueError:
    return ValueError(f"{where or 'the content'} is {_shown(value)}, expected {expected}")


def text(
    pattern: str = r"", *, least: int = 1, most: int = _NAME, expected: str = "a name"
) -> Check:
    """Text of so many characters, none of control, that matches `pattern` as a whole."""
    compiled = re.compile(pattern) if pattern else None

    def check(value: Any, where: str) -> None:
        plain = isinstance(value, str) and least <= len(value) <= most and is_on_one_line(value)
        if not plain or (compiled is not None and not compiled.fullmatch(value)):
            raise _wrong(value, where, expected)

    return check


def whole(least: int = 0, most: int = _LARGEST) -> Check:
    """A whole number, no boolean, within these bounds."""

    def check(value: Any, where: str) -> None:
        if type(value) is not int or not least <= value <= most:
            raise _wrong(value, where, f"a whole number from {least} to {most}")

    return check


def number(least: float = -1e15, most: float = 1e15) -> Check:
    """A number, no boolean, within these bounds."""

    def check(value: Any, where: str) -> None:
        if type(value) not in (int, float) or not least <= value <= most:
            raise _wrong(value, where, f"a number from {least:g} to {most:g}")

    return check


def flag() -> Check:
    """True or false."""

    def check(value: Any, where: str) -> None:
        if type(value) is not bool:
            raise _wrong(value, where, "true or false")

    return check


def one_of(*values: str | int) -> Check:
    """One of these values."""

    def check(value: Any, where: str) -> None:
        if type(value) not in (str, int) or value not in values:
            raise _wrong(value, where, " or ".join(map(str, values)))

    return check


def null_or(inner: Check) -> Check:
    """Null, or what passes `inner`."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return check


def list_of(inner: Check, *, least: int = 0, most: int = 1_000_000) -> Check:
    """A list of `least` to `most` entries that all pass `inner`."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise _wrong(value, where, f"a list of {least} entries or more")
        for index, entry in enumerate(value):
            inner(entry, f"{where}[{index}]")

    return check


def by_name(inner: Check, *, name: Check | None = None) -> Check:
    """A table whose values all pass `inner`, by names that pass `name`."""
    name = name or text()

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(value, where, "a table")
        for key, entry in value.items():
            name(key, f"a name in {where}")
            inner(entry, f"{where}[{_shown(key)}]")

    return check


def fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """A table with these keys; those that are optional may be missing, others may be there."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(value, where, "a table")
        prefix = f"{where}." if where else ""
        missing = [key for key in required if key not in value]
        if missing:
            raise ValueError(f"{prefix}{missing[0]} is missing")
        for key, inner in {**required, **(optional or {})}.items():
            if key in value:
                inner(value[key], f"{prefix}{key}")

    return check
