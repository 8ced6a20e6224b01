"""How much the tags of a TIFF, or of an EXIF block, hold: Pillow makes objects of all numbers."""

from __future__ import annotations

import struct

__all__ = ["tags_fit"]

_MOST_TAGS = 4096
_MOST_NUMBERS = 2 * 2**20
"""Most bytes of numbers: those of the largest image in tiles of 16 x 16."""
_TEXT = (1, 2, 7)
"""Types whose values stay bytes."""
_WIDTHS = {
    **dict.fromkeys((1, 2, 6, 7), 1),
    **dict.fromkeys((3, 8), 2),
    **dict.fromkeys((4, 9, 11, 13), 4),
    **dict.fromkeys((5, 10, 12, 16, 17, 18), 8),
}


def tags_fit(block: bytes) -> bool:
    """Whether the first directory of a TIFF or EXIF block can be read in little memory.

    Its tags must not hold more in all than the block (each may claim all of it), nor too many
    numbers. What is no such block fits: it is left to Pillow.
    """
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return True
    wide = 43 in block[2:4]
    entry = struct.Struct(f"{order}HHQQ" if wide else f"{order}HHII")
    try:
        place = struct.unpack_from(f"{order}Q" if wide else f"{order}I", block, 8 if wide else 4)[0]
        count = struct.unpack_from(f"{order}Q" if wide else f"{order}H", block, place)[0]
    except (struct.error, OverflowError):
        return True
    place += 8 if wide else 2
    if count > _MOST_TAGS:
        return False
    total = numbers = 0
    for _ in range(count):
        if place + entry.size > len(block):
            break
        _, kind, items, where = entry.unpack_from(block, place)
        size = items * _WIDTHS.get(kind, 0)
        if where + size <= len(block):  # else the tag is passed over
            total += size
            numbers += 0 if kind in _TEXT else size
        place += entry.size
    return total <= len(block) and numbers <= _MOST_NUMBERS
