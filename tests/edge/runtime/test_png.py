"""The PNG decoder against Pillow, bit for bit, and on damaged data."""

from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from primesvt_deploy.edge.runtime.errors import ImageError
from primesvt_deploy.edge.runtime.png import decode_png

Array = npt.NDArray[np.uint8]
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (2, 8), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16)]
KINDS += [(3, 1), (3, 2), (3, 4), (3, 8)]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def build(
    rng: np.random.Generator,
    size: tuple[int, int],
    colour: int,
    depth: int,
    *,
    row_filter: int | None = None,
    interlace: int = 0,
    extra: bytes = b"",
) -> bytes:
    """A PNG of random bytes, each row with `row_filter` or a random one."""
    height, width = size
    row = -(-width * depth * CHANNELS[colour] // 8)
    raw = b"".join(
        bytes([rng.integers(5) if row_filter is None else row_filter]) + rng.bytes(row)
        for _ in range(height)
    )
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, interlace)
    palette = chunk(b"PLTE", rng.bytes(3 << depth)) if colour == 3 else b""
    packed = zlib.compress(raw)
    half = len(packed) // 2  # in two chunks
    data = chunk(b"IDAT", packed[:half]) + chunk(b"IDAT", packed[half:])
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return head + palette + extra + data + chunk(b"IEND", b"")


def saved(image: Array | Image.Image) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def reference(data: bytes) -> Array:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(("colour", "depth"), KINDS)
def test_all_kinds_with_random_filters(colour: int, depth: int) -> None:
    rng = np.random.default_rng(colour * 16 + depth)
    for _ in range(12):
        height, width = rng.integers(1, 40, 2).tolist()
        data = build(rng, (height, width), colour, depth)
        np.testing.assert_array_equal(decode_png(data), reference(data))


@pytest.mark.parametrize("row_filter", range(5))
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (300, 5), (515, 2)])
def test_each_filter(row_filter: int, size: tuple[int, int]) -> None:
    data = build(np.random.default_rng(row_filter), size, 2, 8, row_filter=row_filter)
    np.testing.assert_array_equal(decode_png(data), reference(data))


def test_16_bit_grey_keeps_the_high_byte() -> None:
    values = np.random.default_rng(0).integers(0, 1 << 16, (13, 7), dtype=np.uint16)
    expected = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_png(saved(Image.fromarray(values))), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_files_pillow_saves(mode: str) -> None:
    y, x = np.mgrid[:31, :45]
    colours = np.stack([x * 5, y * 8, (x * y) % 256, 255 - x], axis=-1).astype(np.uint8)
    data = saved(Image.fromarray(colours).convert("RGB").convert(mode))
    if mode == "RGBA":
        data = saved(colours)  # with alpha that varies
    np.testing.assert_array_equal(decode_png(data), reference(data))


@pytest.mark.parametrize(("colour", "alpha"), [(0, b"\0\5"), (2, b"\0\5\0\6\0\7")])
def test_transparency_is_dropped(colour: int, alpha: bytes) -> None:
    data = build(np.random.default_rng(1), (9, 8), colour, 8, extra=chunk(b"tRNS", alpha))
    np.testing.assert_array_equal(decode_png(data), reference(data))


def test_an_index_behind_the_palette_is_black() -> None:
    header = chunk(b"IHDR", struct.pack(">2I5B", 3, 1, 8, 3, 0, 0, 0))
    palette = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
    image = chunk(b"IDAT", zlib.compress(bytes([0, 1, 0, 200])))
    data = b"\x89PNG\r\n\x1a\n" + header + palette + image + chunk(b"IEND", b"")
    assert decode_png(data).tolist() == [[[40, 50, 60], [10, 20, 30], [0, 0, 0]]]
    np.testing.assert_array_equal(decode_png(data), reference(data))


def test_interlaced_is_refused() -> None:
    data = build(np.random.default_rng(2), (8, 8), 2, 8, interlace=1)
    with pytest.raises(ImageError, match=r"interlaced.*install Pillow \(pip install pillow\)"):
        decode_png(data)


@pytest.mark.parametrize("depth_and_colour", [(3, 0), (16, 3), (4, 2), (8, 5), (0, 0)])
def test_invalid_headers_are_refused(depth_and_colour: tuple[int, int]) -> None:
    header = chunk(b"IHDR", struct.pack(">2I5B", 4, 4, *depth_and_colour, 0, 0, 0))
    image = chunk(b"IDAT", zlib.compress(bytes(200)))
    with pytest.raises(ImageError, match="IHDR"):
        decode_png(b"\x89PNG\r\n\x1a\n" + header + image + chunk(b"IEND", b""))


def test_unknown_row_filter_is_refused() -> None:
    data = build(np.random.default_rng(3), (4, 4), 2, 8, row_filter=7)
    with pytest.raises(ImageError, match="row filter 7"):
        decode_png(data)


def test_huge_images_are_refused_before_they_are_unpacked() -> None:
    for width, height in [(1 << 31, 1 << 31), (30000, 30000), (100000, 1)]:
        header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
        image = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        with pytest.raises(ImageError, match=f"{width}x{height}"):
            decode_png(b"\x89PNG\r\n\x1a\n" + header + image + chunk(b"IEND", b""))


def test_every_truncation_is_refused() -> None:
    data = build(np.random.default_rng(4), (9, 8), 6, 8)
    for length in range(len(data)):
        with pytest.raises(ImageError) as caught:
            decode_png(data[:length])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("colour", "depth"), [(2, 8), (3, 4)])
def test_bit_flips_give_the_image_or_an_image_error(colour: int, depth: int) -> None:
    data = build(np.random.default_rng(5), (9, 8), colour, depth)
    start = time.monotonic()
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            try:
                image = decode_png(bytes(damaged))
            except ImageError as error:
                assert "\n" not in str(error)
            else:  # only where a chunk turned into an ancillary one
                assert image.shape == (9, 8, 3) and image.dtype == np.uint8
    assert time.monotonic() - start < 60


def test_damage_with_valid_check_sums_gives_an_image_or_an_image_error() -> None:
    rng = np.random.default_rng(6)
    header = struct.pack(">2I5B", 8, 9, 8, 2, 0, 0, 0)
    packed = zlib.compress(b"".join(bytes([4]) + rng.bytes(24) for _ in range(9)))
    for _ in range(600):
        damaged_header, damaged = bytearray(header), bytearray(packed)
        if rng.integers(2):
            damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        else:
            damaged_header[rng.integers(13)] ^= 1 << int(rng.integers(8))
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(damaged_header))
        try:
            image = decode_png(data + chunk(b"IDAT", bytes(damaged)) + chunk(b"IEND", b""))
        except ImageError:
            continue
        assert image.dtype == np.uint8 and image.shape[2] == 3
