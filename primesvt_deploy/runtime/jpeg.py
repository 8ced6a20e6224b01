"""A sequential Huffman JPEG decoder that agrees with libjpeg-turbo bit for bit.

Reads 8-bit baseline and extended-sequential JPEGs (ITU-T T.81) with one (grey) or
three (YCbCr, RGB) components, any integral sampling ratio, restart intervals and
one or several scans. Huffman decoding is plain Python, the rest is NumPy.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .errors import ImageError

__all__ = ["MAX_PIXELS", "decode_jpeg"]

Plane = npt.NDArray[np.uint8]
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


def _zigzag() -> npt.NDArray[np.intp]:
    """Zigzag position of each coefficient, stored column by column (T.81, figure A.6)."""
    cells = [(row, column) for row in range(8) for column in range(8)]
    # Diagonals in turn; odd ones run downwards, even ones upwards.
    cells.sort(key=lambda cell: (sum(cell), cell[0] if sum(cell) % 2 else cell[1]))
    order = np.empty(64, np.intp)
    for position, (row, column) in enumerate(cells):
        order[column * 8 + row] = position
    return order


_ZIGZAG = _zigzag()


def _idct_matrix() -> npt.NDArray[np.float64]:
    """The islow 1-D IDCT as an [output, input] matrix of integers scaled by 2**13.

    The factorisation of Loeffler, Ligtenberg and Moschytz (1989) with 13-bit constants,
    multiplied out: before its final rounding it is linear over the integers, so the
    rounded constants of the fast form add up to exactly these entries.
    """
    even = np.array(  # rows: sums for outputs 0..3; columns: inputs 0, 2, 4, 6
        [
            [8192, 10703, 8192, 4433],
            [8192, 4433, -8192, -10704],
            [8192, -4433, -8192, 10704],
            [8192, -10703, 8192, -4433],
        ]
    )
    odd = np.array(  # columns: inputs 1, 3, 5, 7
        [
            [11363, 9633, 6437, 2260],
            [9633, -2259, -11362, -6436],
            [6437, -11362, 2261, 9633],
            [2260, -6436, 9633, -11363],
        ]
    )
    matrix = np.empty((8, 8))
    matrix[:4, 0::2], matrix[:4, 1::2] = even, odd
    matrix[7:3:-1, 0::2], matrix[7:3:-1, 1::2] = even, -odd
    return matrix


_IDCT = _idct_matrix()


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


@dataclass
class _Component:
    """A colour component of the frame and, once its scan is read, its samples."""

    identifier: int
    horizontal: int
    vertical: int
    quantiser: int
    height: int = 0
    width: int = 0
    plane: Plane | None = None


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


def _inverse_dct(blocks: npt.NDArray[np.int16], quantiser: npt.NDArray[np.float64]) -> Plane:
    """Dequantise and transform zigzag blocks [n, 64] to uint8 samples [n, 8, 8]."""
    samples = np.empty((len(blocks), 8, 8), np.uint8)
    for start in range(0, len(blocks), 4096):  # bounds the memory for the float64 steps
        part = blocks[start : start + 4096]
        # float64 holds all these integers exactly and has a fast matrix product.
        columns = (part * quantiser)[:, _ZIGZAG].reshape(-1, 8)
        half = np.floor(columns @ _IDCT.T * 2.0**-11 + 0.5)
        rows = half.reshape(-1, 8, 8).swapaxes(1, 2).reshape(-1, 8)
        full = np.floor(rows @ _IDCT.T * 2.0**-18 + 128.5)
        samples[start : start + 4096] = np.clip(full, 0, 255).reshape(-1, 8, 8)
    return samples


def _blend(samples: npt.NDArray[np.int32], axis: int) -> tuple[npt.NDArray[np.int32], ...]:
    """3/4 own + 1/4 neighbour sums (times 4), before and after each sample along `axis`."""
    last = samples.shape[axis] - 1
    index = np.arange(last + 1)
    before = samples.take(np.maximum(index - 1, 0), axis)  # edges replicate
    after = samples.take(np.minimum(index + 1, last), axis)
    return 3 * samples + before, 3 * samples + after


def _upsample(plane: Plane, down: int, across: int) -> Plane:
    """Upsample as libjpeg-turbo does: triangle filter for factors of 2, else replication."""
    smooth = across == 1 or (across == 2 and plane.shape[1] > 2)
    if (down, across) == (1, 1):
        return plane
    if down > 2 or not smooth:
        return plane.repeat(down, 0).repeat(across, 1)
    rows, columns = plane.shape
    fine = np.empty((rows, down, columns, across), np.int32)
    wide = plane.astype(np.int32)
    if across == 1:
        above, below = _blend(wide, 0)
        fine[:, 0, :, 0], fine[:, 1, :, 0] = (above + 1) >> 2, (below + 2) >> 2
    elif down == 1:
        left, right = _blend(wide, 1)
        fine[:, 0, :, 0], fine[:, 0, :, 1] = (left + 1) >> 2, (right + 2) >> 2
    else:
        for half, sums in enumerate(_blend(wide, 0)):
            left, right = _blend(sums, 1)
            fine[:, half, :, 0], fine[:, half, :, 1] = (left + 8) >> 4, (right + 7) >> 4
    return fine.reshape(rows * down, columns * across).astype(np.uint8)


def _ycc_to_rgb(luma: Plane, blue: Plane, red: Plane) -> Plane:
    """Convert to RGB [H, W, 3] by JFIF's equations in 16-bit fixed point."""
    chroma = np.arange(-128, 128, dtype=np.int32)
    half = 1 << 15
    y = luma.astype(np.int32)
    green = (-22554 * chroma + half)[blue] + (-46802 * chroma)[red]
    rgb = np.empty((*luma.shape, 3), np.uint8)
    rgb[..., 0] = np.clip(y + ((91881 * chroma + half) >> 16)[red], 0, 255)
    rgb[..., 1] = np.clip(y + (green >> 16), 0, 255)
    rgb[..., 2] = np.clip(y + ((116130 * chroma + half) >> 16)[blue], 0, 255)
    return rgb


class _Decoder:
    """The state that marker segments build up (T.81, annex B)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.quantisers: dict[int, npt.NDArray[np.float64]] = {}
        self.lookups: dict[int, Lookup] = {}
        self.components: list[_Component] = []
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
            self.components.append(_Component(identifier, h, v, quantiser))
        self.h_max = max(c.horizontal for c in self.components)
        self.v_max = max(c.vertical for c in self.components)
        for c in self.components:
            if self.h_max % c.horizontal or self.v_max % c.vertical:
                raise _unsupported("fractionally sampled")
            c.height = -(-self.height * c.vertical // self.v_max)
            c.width = -(-self.width * c.horizontal // self.h_max)

    def plan(self, payload: bytes) -> tuple[list[_Component], Plan]:
        """Read a scan header: its components and the tables of each block of an MCU."""
        known = {c.identifier: c for c in self.components}
        chosen: list[_Component] = []
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
            samples = _inverse_dct(
                blocks.swapaxes(1, 2).reshape(-1, 64), self.quantisers[c.quantiser]
            )
            tiles = samples.reshape(rows * v, columns * h, 8, 8).swapaxes(1, 2)
            c.plane = tiles.reshape(rows * v * 8, columns * h * 8)[: c.height, : c.width]
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
        planes: list[Plane] = []
        for c in self.components:
            if c.plane is None:
                raise _corrupt("a component without a scan")
            full = _upsample(c.plane, self.v_max // c.vertical, self.h_max // c.horizontal)
            planes.append(full[: self.height, : self.width])
        if not planes:
            raise _corrupt("no frame header")
        if len(planes) == 1:
            return np.repeat(planes[0][..., None], 3, axis=2)
        names = bytes(c.identifier for c in self.components)
        rgb = self.adobe_transform == 0 if self.adobe_transform is not None else names == b"RGB"
        if rgb and not self.jfif:
            return np.stack(planes, axis=2)
        return _ycc_to_rgb(*planes)


def decode_jpeg(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode a sequential Huffman JPEG to the samples libjpeg-turbo (Pillow) gives.

    Follows ITU-T T.81, with libjpeg-turbo's islow IDCT (Loeffler, Ligtenberg and
    Moschytz 1989), its "fancy" chroma upsampling and its integer colour conversion.

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
