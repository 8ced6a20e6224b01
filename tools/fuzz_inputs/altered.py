"""Alter the bytes of a file as accidents and people do, by a seed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from weakref import WeakKeyDictionary

from hostile_json import mutations

__all__ = ["altered_bytes", "altered_json"]

_begun: WeakKeyDictionary[Random, dict[bytes, Iterator[tuple[str, bytes]]]] = WeakKeyDictionary()
"""Alterations of a content that were not drawn yet: to list them all each time takes long."""


def altered_bytes(content: bytes, random: Random) -> bytes:
    """Bits flipped, bytes put in, left out, moved or repeated, the end cut, numbers made huge."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        if not changed:
            break
        place, length = random.randrange(len(changed)), random.choice((1, 2, 4, 8, 64, 1000))
        kind = random.randrange(8)
        if kind <= 1:
            changed[place] ^= 1 << random.randrange(8)
        elif kind == 2:
            changed[place : place + length] = random.randbytes(length)
        elif kind == 3:
            changed[place:place] = random.randbytes(length)
        elif kind == 4:
            del changed[place : place + length]
        elif kind == 5:
            del changed[place:]
        elif kind == 6:
            other = random.randrange(len(changed))
            changed[place:place] = changed[other : other + length]
        else:
            extreme = random.choice((b"\0", b"\xff", b"\x7f", b"\x80"))
            changed[place : place + length] = extreme * length
    return bytes(changed)


def altered_json(content: bytes, random: Random) -> bytes:
    """Another value, name or order in a JSON file, or its bytes altered."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return altered_bytes(content, random)
    if random.random() < 0.1:
        return altered_bytes(content, random)
    kept = _begun.setdefault(random, {})
    while True:
        if content not in kept:
            kept[content] = mutations(parsed, seed=random.randrange(2**32), count=10**9)
        for _, text in kept[content]:
            return text
        del kept[content]  # all were drawn
