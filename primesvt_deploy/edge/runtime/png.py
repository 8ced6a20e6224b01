"""A PNG decoder for images without interlacing (PNG specification, third edition)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import ImageError
from .jpeg import MAX_PIXELS

__all__ = ["SIGNATURE", "decode_png"]

Samples = npt.NDArray[np.uint8]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_SIDE = 65_535  # as in a JPEG; bounds the steps of `_unfilter`

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_BAND = 256  # rows unfiltered at a time


def _corrupt(found: str) -> ImageError:
    return ImageError(
        f"found a truncated or corrupt PNG ({found}), expected a complete one; "
        "copy the file again or re-save it"
    )


@dataclass(frozen=True)
class _Header:
    """The fields of the IHDR chunk that matter for decoding."""

    width: int
    height: int
    depth: int
    colour: int

    @property
    def bits(self) -> int:
        """Bits of one pixel."""
        return self.depth * _CHANNELS[self.colour]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, without its filter byte."""
        return -(-self.width * self.bits // 8)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (type, contents) up to IEND; the check sums of critical chunks are checked."""
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        body = data[position + 8 : end - 4]
        if kind[:1].isupper() and zlib.crc32(kind + body) != int.from_bytes(data[end - 4 : end]):
            raise _corrupt("a chunk's check sum is wrong")
        yield kind, body
        if kind == b"IEND":
            return
        position = end
    raise _corrupt("no IEND chunk")


def _header(body: bytes) -> _Header:
    if len(body) != 13:
        raise _corrupt("IHDR is not 13 bytes")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">2I5B", body)
    if not width or not height or depth not in _DEPTHS.get(colour, ()) or compression or filtering:
        raise _corrupt("the values of IHDR are not valid")
    if interlace:
        raise ImageError(
            "found an unsupported PNG (interlaced), expected one without interlacing; "
            "install Pillow (pip install pillow) or re-save it without interlacing"
        )
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"found a PNG of {width}x{height} pixels, expected at most {MAX_PIXELS} in all "
            f"and {MAX_SIDE} a side; scale it down"
        )
    return _Header(width, height, depth, colour)


def _inflate(packed: bytes, size: int) -> Samples:
    """Decompress exactly `size` bytes; never more, whatever the data hold."""
    try:
        raw = zlib.decompressobj().decompress(packed, size)
    except zlib.error:
        raise _corrupt("the compressed data are damaged") from None
    if len(raw) != size:
        raise _corrupt(f"{len(raw)} of {size} bytes of image data")
    return np.frombuffer(raw, np.uint8)


def _predict(
    kinds: npt.NDArray[np.int16],
    left: npt.NDArray[np.int16],
    above: npt.NDArray[np.int16],
    corner: npt.NDArray[np.int16],
) -> npt.NDArray[np.int16]:
    """The filters' predictions (PNG, section 9.2) for rows [n, bytes] of types [n, 1]."""
    to_left = np.abs(above - corner)
    to_above = np.abs(left - corner)
    to_corner = np.abs(left + above - 2 * corner)
    paeth = np.where(to_above <= to_corner, above, corner)
    paeth = np.where((to_left <= to_above) & (to_left <= to_corner), left, paeth)
    return np.choose(kinds, (np.int16(0), left, above, (left + above) >> 1, paeth))


def _unfilter(raw: Samples, step: int) -> Samples:
    """Undo the row filters: [rows, 1 + bytes] with the types first -> [rows, bytes].

    A byte depends on its left, upper and upper left neighbours only, so each diagonal
    of a band of rows is done at once: `band[t, y]` holds pixel t - y of row y.
    """
    kinds, rows = raw[:, 0], raw[:, 1:].reshape(len(raw), -1, step)
    if kinds.max() > 4:
        raise _corrupt(f"row filter {kinds.max()}")
    if not kinds.any():
        return raw[:, 1:]
    pixels = rows.shape[1]
    out = np.zeros(rows.shape, np.uint8)
    previous = np.zeros((pixels, step), np.int16)
    for first in range(0, len(rows), _BAND):
        count = min(_BAND, len(rows) - first)
        # Row 0 is the row before the band; pixel 0 of every row is the zero left of it.
        band = np.zeros((pixels + count + 1, count + 1, step), np.int16)
        band[1 : pixels + 1, 0] = previous
        for y in range(count):
            band[y + 2 : y + 2 + pixels, y + 1] = rows[first + y]
        types = kinds[first : first + count, None].astype(np.int16)
        for t in range(2, pixels + count + 1):
            low, high = max(1, t - pixels), min(count, t - 1) + 1
            near = slice(low - 1, high - 1)
            left, above, corner = band[t - 1, low:high], band[t - 1, near], band[t - 2, near]
            band[t, low:high] += _predict(types[near], left, above, corner)
            band[t, low:high] &= 0xFF
        for y in range(count):
            out[first + y] = band[y + 2 : y + 2 + pixels, y + 1]
        previous = out[first + count - 1].astype(np.int16)
    return out.reshape(len(rows), -1)


def _unpack(rows: Samples, header: _Header) -> Samples:
    """Split rows of bytes into samples [H, W, channels]; 16 bits keep their high byte."""
    channels = _CHANNELS[header.colour]
    if header.depth == 16:
        rows = rows[:, ::2]
    elif header.depth < 8:
        bits = np.unpackbits(rows, axis=1).reshape(len(rows), -1, header.depth)
        places = 1 << np.arange(header.depth - 1, -1, -1, dtype=np.uint8)
        rows = (bits * places).sum(axis=2, dtype=np.uint8)[:, : header.width]
    return rows.reshape(header.height, header.width, channels)


def _to_rgb(samples: Samples, header: _Header, palette: bytes) -> Samples:
    """Look up palette colours, spread grey to three channels, drop alpha."""
    if header.colour == 3:
        if not palette or len(palette) % 3 or len(palette) > 768:
            raise _corrupt("no valid palette")
        # Pillow shows an index behind the palette's end as black.
        table = np.frombuffer(palette.ljust(768, b"\0"), np.uint8).reshape(256, 3)
        return table[samples[..., 0]]
    if header.colour in (0, 4):
        scale = 255 // ((1 << header.depth) - 1) if header.depth < 8 else 1
        return np.repeat(samples[..., :1] * np.uint8(scale), 3, axis=2)
    return np.ascontiguousarray(samples[..., :3])


def decode_png(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode a PNG without interlacing to 8-bit RGB (PNG specification, third edition).

    Agrees with Pillow's `Image.open(...).convert("RGB")`: alpha and transparency are
    dropped, not blended. 16-bit samples keep their high byte.

    Args:
        data: the whole file.

    Returns:
        RGB samples, uint8 [height, width, 3]; grey is repeated three times.

    Raises:
        ImageError: `data` is no PNG, is truncated or corrupt, or is interlaced.
    """
    if not data.startswith(SIGNATURE):
        raise _corrupt("no PNG signature")
    header: _Header | None = None
    palette = b""
    packed: list[bytes] = []
    for kind, body in _chunks(data):
        if header is None:
            if kind != b"IHDR":
                raise _corrupt("IHDR is not the first chunk")
            header = _header(body)
        elif kind == b"PLTE":
            palette = body
        elif kind == b"IDAT":
            packed.append(body)
    if header is None:
        raise _corrupt("no IHDR chunk")
    size = header.height * (1 + header.row_bytes)
    raw = _inflate(b"".join(packed), size).reshape(header.height, -1)
    rows = _unfilter(raw, max(1, header.bits // 8))
    return _to_rgb(_unpack(rows, header), header, palette)
