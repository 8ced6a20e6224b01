"""JSON as others may have altered it: one change at a time, of every kind, at every place."""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["VALUES", "mutations"]

_MARK = "<the changed place>"
"""Stands for a changed value or name until the content is JSON text."""
_SHOWN_ENTRIES = 3
"""Entries of a list that are changed: the first ones, which stand for all."""

VALUES: Mapping[str, str] = {
    "null": "null",
    "true": "true",
    "a list": "[]",
    "a list of lists": "[[], [[]], {}]",
    "a table": "{}",
    "a table of null": '{"": null}',
    "empty text": '""',
    "text": '"other"',
    "digits as text": '"7"',
    "zero": "0",
    "minus zero": "-0.0",
    "minus one": "-1",
    "a fraction": "0.5",
    "a tiny number": "5e-324",
    "2**53 + 1": str(2**53 + 1),
    "2**63": str(2**63),
    "1e308": "1e308",
    "-1e308": "-1e308",
    "10**400": "1" + "0" * 400,
    "1e400": "1e400",
    "5000 digits": "7" * 5000,
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "5000 lists": "[" * 5000 + "]" * 5000,
    "5000 tables": '{"a":' * 5000 + "1" + "}" * 5000,
    "100,000 characters": '"' + "x" * 100_000 + '"',
    "a lone surrogate": r'"a\ud800b"',
    "a newline": r'"first\nsecond"',
    "an escape character": r'"\u001b[2J\u001b]0;title\u0007"',
    "a null character": r'"a\u0000b"',
    "text that turns around": r'"\u202eabc"',
    "a path upwards": '"../../../etc/passwd"',
    "markup": '"[/bold][red]${x}$<b>"',
}
"""JSON texts that replace a value, by what they are."""

_NAMES = (
    "empty text", "text", "100,000 characters", "a lone surrogate", "a newline",
    "an escape character", "a null character", "markup",
)  # fmt: skip
"""Those of `VALUES` that replace a name."""


def _flipped(text: bytes, random_: random.Random) -> bytes:
    changed = bytearray(text)
    for _ in range(random_.randint(1, 4)):
        changed[random_.randrange(len(changed))] ^= 1 << random_.randrange(8)
    return bytes(changed)


_OF_THE_FILE: Mapping[str, Callable[[bytes, random.Random], bytes]] = {
    "empty": lambda text, _: b"",
    "blanks alone": lambda text, _: b" \n\t",
    "truncated": lambda text, random_: text[: random_.randrange(1, len(text))],
    "twice": lambda text, _: text + text,
    "a bit flipped": _flipped,
    "a few bits flipped": _flipped,
    "bytes that are no UTF-8": lambda text, _: text.replace(b'"', b'"\xff\xfe', 1),
    "UTF-16": lambda text, _: text.decode().encode("utf-16"),
    "UTF-32": lambda text, _: text.decode().encode("utf-32-le"),
    "UTF-8 with BOM": lambda text, _: b"\xef\xbb\xbf" + text,
    "a surrogate as bytes": lambda text, _: text.replace(b'"', b'"\xed\xa0\x80', 1),
    "null bytes": lambda text, _: b"\0" * len(text),
    "no JSON": lambda text, _: b"<html>502 Bad Gateway</html>",
}


def mutations(content: Any, *, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Altered forms of a JSON content, in an order drawn by a seed.

    Each has one change: a value replaced by one of `VALUES`, a name replaced, dropped or there
    twice, a list emptied or doubled, or the file as a whole damaged. Write it by `write_bytes`.

    Args:
        content: what the JSON holds.
        seed: of the order, and of which bits are flipped and where a text ends.
        count: how many, at most; there are no more than the kinds of changes at all places.

    Yields:
        What is changed and where, and the altered JSON as a file has it.
    """
    random_ = random.Random(seed)
    changes: list[tuple[str, Callable[[], bytes]]] = [
        (f"{kind}", lambda change=change: change(json.dumps(content).encode(), random_))
        for kind, change in _OF_THE_FILE.items()
    ]
    for path in _paths(content, ()):
        changes += _at(content, path)
    random_.shuffle(changes)
    made = ((description, change()) for description, change in changes)
    original = json.dumps(content).encode()
    yield from itertools.islice((pair for pair in made if pair[1] != original), count)


def _paths(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Places of all values; of a list's entries, the first ones."""
    yield path
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value[:_SHOWN_ENTRIES]):
            yield from _paths(inner, (*path, index))


def _at(content: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Changes of the value at a place, and of its name."""
    where = "".join(f"[{part!r}]" for part in path) or "the content"
    for kind, raw in VALUES.items():
        yield f"{where} is {kind}", lambda raw=raw: _written(_replaced(content, path), raw)
    value = _found(content, path)
    if isinstance(value, list) and value:
        yield f"{where} is doubled", lambda: _written(_replaced(content, path, value * 2))
    if not path:
        return
    *above, last = path
    table = _found(content, above)
    if isinstance(table, list):
        left = [entry for index, entry in enumerate(table) if index != last]
        yield f"{where} is dropped", lambda: _written(_replaced(content, above, left))
        return
    kept = {key: entry for key, entry in table.items() if key != last}
    yield f"{where} is dropped", lambda: _written(_replaced(content, above, kept))
    twice = {**table, _MARK: value}
    name = json.dumps(last)
    yield f"{where} is there twice", lambda: _written(_replaced(content, above, twice), name)
    renamed = {_MARK if key == last else key: entry for key, entry in table.items()}
    for kind in _NAMES:
        yield (
            f"the name {where} is {kind}",
            lambda raw=VALUES[kind]: _written(_replaced(content, above, renamed), raw),
        )


def _found(content: Any, path: Any) -> Any:
    for part in path:
        content = content[part]
    return content


def _replaced(content: Any, path: Any, value: Any = _MARK) -> Any:
    """A copy of a content with another value at a place."""
    if not path:
        return value
    changed = copy.deepcopy(content)
    _found(changed, path[:-1])[path[-1]] = value
    return changed


def _written(content: Any, raw: str = "") -> bytes:
    return json.dumps(content).replace(json.dumps(_MARK), raw).encode()
