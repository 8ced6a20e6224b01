"""A sequential Huffman JPEG decoder that agrees with libjpeg-turbo bit for bit.

Reads 8-bit baseline and extended-sequential JPEGs (ITU-T T.81) with one (grey) or
three (YCbCr, RGB) components, any integral sampling ratio, restart intervals and
one or several scans. Huffman decoding is plain Python, the rest (`jpeg_samples`) NumPy.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .errors import ImageError
from .jpeg_samples import Component, Plane, to_rgb

__all__ = ["MAX_PIXELS", "decode_jpeg"]

# One entry per 16-bit look-ahead: (code length + extra bits, zero run, extra bits).
Lookup = list[tuple[int, int, int]]

MAX_PIXELS = 178_956_970  # above this Pillow, too, takes a file for a decompression bomb

_OTHER_PROCESSES = {0xC2: "progressive", 0xC3: "lossless", 0xC5: "hierarchical"}
_OTHER_PROCESSES |= {0xC6: "hierarchical", 0xC7: "hierarchical", 0xC9: "arithmetic-coded"}
_OTHER_PROCESSES |= {0xCA: "arithmetic-coded progressive", 0xCB: "arithmetic-coded lossless"}
_OTHER_PROCESSES |= dict.fromkeys((0xCD, 0xCE, 0xCF), "arithmetic-coded hierarchical")

# Markers other than the stuffed FF00 and RSTn, which live inside scans. Fill bytes (FF)
# before a marker stay behind the data, where they do no harm.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")

_INVALID_CODE = (0, 99, 0)
_MASKS = [(1 << bits) - 1 for bits in range(33)]


def _unsupported(found: str) -> ImageError:
    return ImageError(
        f"found an unsupported JPEG ({found}), expected baseline with 8-bit grey or colour; "
        "install Pillow (pip install pillow) or re-save it as baseline JPEG"
    )


def _corrupt(found: str) -> ImageError:
    return ImageError(
        f"found a truncated or corrupt JPEG ({found}), expected a complete one; "
        "copy the file again or re-save it"
    )


@lru_cache(maxsize=16)
def _huffman_lookup(counts: bytes, symbols: bytes) -> Lookup:
    """Expand a Huffman table for 16-bit look-ahead (T.81, annex C)."""
    lengths = [length for length, count in enumerate(counts, start=1) for _ in range(count)]
    if sum(1 << (16 - length) for length in lengths) > 1 << 16:
        raise _corrupt("a Huffman table has too many codes")
    table: Lookup = []
    for length, symbol in zip(lengths, symbols, strict=True):
        run, size = symbol >> 4, symbol & 15
        table += [(length + size, run, size)] * (1 << (16 - length))
    return table + [_INVALID_CODE] * ((1 << 16) - len(table))


Plan = Sequence[tuple[Lookup, Lookup, int]]  # for each block of an MCU: DC, AC, predictor


def _decode_interval(data: bytes, mcus: int, plan: Plan, out: array[int], base: int) -> None:
    """Huffman-decode one restart interval into `out`, 64 zigzag values a block (T.81, F.2).

    Raises ImageError for an invalid code, IndexError where the data end early and
    OverflowError where a coefficient leaves 16 bits.
    """
    padded = data + bytes(8 - len(data) % 4)  # at least one look-ahead word behind the data
    words: list[int] = np.frombuffer(padded, ">u4").tolist()
    masks = _MASKS
    predictors = [0] * len(plan)
    bits = count = position = 0  # the low `count` bits of `bits` are still unread
    for _ in range(mcus):
        for dc_table, ac_table, component in plan:
            if count < 32:  # 32 bits hold the longest code with its extra bits
                bits = (bits & masks[count]) << 32 | words[position]
                position += 1
                count += 32
            used, run, size = dc_table[bits >> (count - 16) & 0xFFFF]
            if run:
                raise _corrupt("an invalid Huffman code")
            count -= used
            if size:
                value = bits >> count & masks[size]
                predictors[component] += value if value >> (size - 1) else value - masks[size]
            out[base] = predictors[component]
            k = 1
            while k < 64:
                if count < 32:
                    bits = (bits & masks[count]) << 32 | words[position]
                    position += 1
                    count += 32
                used, run, size = ac_table[bits >> (count - 16) & 0xFFFF]
                count -= used
                k += run
                if size:
                    value = bits >> count & masks[size]
                    out[base + k] = value if value >> (size - 1) else value - masks[size]
                elif run < 15:  # end of block
                    break
                k += 1
            if k > 64:
                raise _corrupt("an invalid Huffman code")
            base += 64
    if 32 * position - count > 8 * len(data):
        raise IndexError


class _Decoder:
    """The state that marker segments build up (T.81, annex B)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.quantisers: dict[int, npt.NDArray[np.float64]] = {}
        self.lookups: dict[int, Lookup] = {}
        self.components: list[Component] = []
        self.height = self.width = self.h_max = self.v_max = self.interval = 0
        self.jfif = False
        self.adobe_transform: int | None = None

    def run(self) -> Plane:
        """Read all segments up to the end-of-image marker; return RGB [H, W, 3]."""
        handlers = {0xDB: self.quantisation, 0xC4: self.huffman, 0xC0: self.frame}
        handlers |= {0xC1: self.frame, 0xDD: self.restarts, 0xE0: self.app0, 0xEE: self.app14}
        position = 2
        while match := _MARKER.search(self.data, position):
            marker, position = match[1][0], match.end()
            if marker == 0xD9:
                return self.image()
            if marker in (0x01, 0xD8):  # no parameters
                continue
            if marker in _OTHER_PROCESSES:
                raise _unsupported(_OTHER_PROCESSES[marker])
            (length,) = struct.unpack_from(">H", self.data, position)
            payload = self.data[position + 2 : position + length]
            if length < 2 or len(payload) != length - 2:
                raise _corrupt("a header segment is cut")
            position += length
            if marker == 0xDA:
                position = self.scan(payload, position)
            elif marker in handlers:
                handlers[marker](payload)
        raise _corrupt("no end-of-image marker")

    def app0(self, payload: bytes) -> None:
        self.jfif = self.jfif or (len(payload) >= 14 and payload.startswith(b"JFIF\0"))

    def app14(self, payload: bytes) -> None:
        if len(payload) >= 12 and payload.startswith(b"Adobe"):
            self.adobe_transform = payload[11]

    def restarts(self, payload: bytes) -> None:
        (self.interval,) = struct.unpack(">H", payload)

    def quantisation(self, payload: bytes) -> None:
        while payload:
            wide, number = payload[0] >> 4, payload[0] & 15
            end = 129 if wide else 65
            if len(payload) < end:
                raise _corrupt("a quantisation table is cut")
            values = np.frombuffer(payload[1:end], ">u2" if wide else ">u1")
            self.quantisers[number] = values.astype(np.float64)
            payload = payload[end:]

    def huffman(self, payload: bytes) -> None:
        while payload:
            counts = payload[1:17]
            end = 17 + sum(counts)
            if len(payload) < end:
                raise _corrupt("a Huffman table is cut")
            self.lookups[payload[0]] = _huffman_lookup(counts, payload[17:end])
            payload = payload[end:]

    def frame(self, payload: bytes) -> None:
        precision, self.height, self.width, count = struct.unpack_from(">BHHB", payload)
        if precision != 8:
            raise _unsupported(f"{precision}-bit")
        if count not in (1, 3):
            raise _unsupported("four-component (CMYK)" if count == 4 else f"{count}-component")
        if self.components or not self.height or not self.width or len(payload) < 6 + 3 * count:
            raise _corrupt("the frame header is not valid")
        if self.height * self.width > MAX_PIXELS:
            raise ImageError(
                f"found a JPEG of {self.width}x{self.height} pixels, expected at most "
                f"{MAX_PIXELS} in all; scale it down"
            )
        for identifier, factors, quantiser in struct.iter_unpack("3B", payload[6 : 6 + 3 * count]):
            h, v = factors >> 4, factors & 15
            if not (1 <= h <= 4 and 1 <= v <= 4):
                raise _corrupt("a sampling factor is not in 1..4")
            self.components.append(Component(identifier, h, v, quantiser))
        self.h_max = max(c.horizontal for c in self.components)
        self.v_max = max(c.vertical for c in self.components)
        for c in self.components:
            if self.h_max % c.horizontal or self.v_max % c.vertical:
                raise _unsupported("fractionally sampled")
            c.fit(self.height, self.width, self.v_max // c.vertical, self.h_max // c.horizontal)

    def plan(self, payload: bytes) -> tuple[list[Component], Plan]:
        """Read a scan header: its components and the tables of each block of an MCU."""
        known = {c.identifier: c for c in self.components}
        chosen: list[Component] = []
        plan: list[tuple[Lookup, Lookup, int]] = []
        for identifier, tables in struct.iter_unpack("2B", payload[1 : 1 + 2 * payload[0]]):
            if identifier not in known:
                raise _corrupt("a scan names an unknown component")
            c = known.pop(identifier)
            dc, ac = self.lookups.get(tables >> 4), self.lookups.get(tables & 15 | 16)
            if dc is None or ac is None or c.quantiser not in self.quantisers:
                raise _corrupt("a scan names a table that is not there")
            blocks = 1 if payload[0] == 1 else c.horizontal * c.vertical
            plan += [(dc, ac, len(chosen))] * blocks
            chosen.append(c)
        if not chosen:
            raise _corrupt("a scan of no components")
        return chosen, plan

    def scan(self, payload: bytes, position: int) -> int:
        """Decode one scan, whose data start at `position`; return where they end."""
        chosen, plan = self.plan(payload)
        end = _MARKER.search(self.data, position)
        if end is None:
            raise _corrupt("no end-of-image marker")
        if len(plan) == 1:  # not interleaved, or no difference (T.81, A.2.2)
            rows, columns = -(-chosen[0].height // 8), -(-chosen[0].width // 8)
        else:
            rows = -(-self.height // (8 * self.v_max))
            columns = -(-self.width // (8 * self.h_max))
        coefficients = self.entropy(self.data[position : end.start()], rows * columns, plan)
        grid = coefficients.reshape(rows, columns, len(plan), 64)
        offset = 0
        for c in chosen:
            h, v = (1, 1) if len(plan) == 1 else (c.horizontal, c.vertical)
            blocks = grid[:, :, offset : offset + h * v].reshape(rows, columns, v, h, 64)
            c.transform(blocks, self.quantisers[c.quantiser])
            offset += h * v
        return end.start()

    def entropy(self, data: bytes, mcus: int, plan: Plan) -> npt.NDArray[np.int16]:
        """Decode the entropy-coded data of a scan: int16 [mcus * blocks per MCU * 64]."""
        intervals = _RESTART.split(data)
        step = self.interval or mcus
        blocks = mcus * len(plan)
        # A block takes two bits or more, which also bounds the memory a short file can ask for.
        if len(intervals) != -(-mcus // step) or 8 * len(data) < 2 * blocks:
            raise _corrupt("a scan with missing data")
        out = array("h", [0]) * (64 * blocks)
        try:
            for number, part in enumerate(intervals):
                first = number * step
                base = first * len(plan) * 64
                part = part.replace(b"\xff\x00", b"\xff")
                _decode_interval(part, min(step, mcus - first), plan, out, base)
        except (IndexError, OverflowError):
            raise _corrupt("a scan with missing or damaged data") from None
        return np.frombuffer(out, np.int16)

    def image(self) -> Plane:
        """Bring the components to full size and convert them to RGB [H, W, 3]."""
        if not self.components:
            raise _corrupt("no frame header")
        if any(c.plane is None for c in self.components):
            raise _corrupt("a component without a scan")
        names = bytes(c.identifier for c in self.components)
        rgb = self.adobe_transform == 0 if self.adobe_transform is not None else names == b"RGB"
        return to_rgb(self.components, self.height, self.width, ycc=self.jfif or not rgb)


def decode_jpeg(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode a sequential Huffman JPEG to the samples libjpeg-turbo (Pillow) gives.

    Args:
        data: the whole file.

    Returns:
        RGB samples, uint8 [height, width, 3]; grey is repeated three times.

    Raises:
        ImageError: `data` is no JPEG, is truncated or corrupt, or is progressive,
            arithmetic-coded, lossless, not 8-bit or CMYK.
    """
    if not data.startswith(b"\xff\xd8"):
        raise _corrupt("no start-of-image marker")
    try:
        return _Decoder(data).run()
    except (IndexError, struct.error):  # a header shorter than its fields
        raise _corrupt("a header segment is cut") from None
