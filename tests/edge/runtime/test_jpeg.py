"""The JPEG decoder against Pillow (libjpeg-turbo), bit for bit, and on damaged data."""

from __future__ import annotations

import io
import struct
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from primesvt_deploy.edge.runtime.errors import ImageError
from primesvt_deploy.edge.runtime.jpeg import decode_jpeg

Array = npt.NDArray[np.uint8]
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")


def noise(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(0, 256, shape, dtype=np.uint8)


def picture(height: int, width: int) -> Array:
    y, x = np.mgrid[:height, :width]
    waves = (np.sin(x / 5.0) * np.cos(y / 7.0), np.cos(x / 9.0), np.sin((x + y) / 11.0))
    image: Array = np.clip(np.stack([127 + 140 * w for w in waves], -1), 0, 255).astype(np.uint8)
    return image


def encode(image: Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def reference(data: bytes) -> Array:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def assert_as_pillow(data: bytes) -> None:
    decoded = decode_jpeg(data)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, reference(data))


def component_scans(planes: list[Array], height: int, width: int, factors: list[int]) -> bytes:
    """A colour JPEG with one scan a component, joined from grey ones."""
    files = [encode(plane, quality=80) for plane in planes]
    start, scan = files[0].index(b"\xff\xc0"), files[0].index(b"\xff\xda")
    sof = struct.pack(">2sHBHHB", b"\xff\xc0", 17, 8, height, width, 3)
    sof += b"".join(bytes([i + 1, f, 0]) for i, f in enumerate(factors))
    out = files[0][:start] + sof + files[0][start + 13 : scan]  # a grey SOF0 has 13 bytes
    for i, file in enumerate(files):
        header = struct.pack(">2sH6B", b"\xff\xda", 8, 1, i + 1, 0, 0, 63, 0)
        out += header + file[file.index(b"\xff\xda") + 10 : -2]
    return out + b"\xff\xd9"


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [1, 25, 75, 95, 100])
def test_colour_of_random_sizes(subsampling: str, quality: int) -> None:
    rng = np.random.default_rng(quality)
    for optimize in (False, True) * 6:
        height, width = rng.integers(1, 60, 2)
        options = {"subsampling": subsampling, "quality": quality, "optimize": optimize}
        assert_as_pillow(encode(noise(rng, height, width, 3), **options))
        assert_as_pillow(encode(picture(height, width), **options))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_tiny_sizes(subsampling: str) -> None:
    # The chroma planes are 1 to 5 wide: smooth upsampling starts at 3.
    rng = np.random.default_rng(1)
    for height in range(1, 10):
        for width in range(1, 10):
            assert_as_pillow(encode(noise(rng, height, width, 3), subsampling=subsampling))


@pytest.mark.parametrize("quality", [5, 90])
def test_grey(quality: int) -> None:
    rng = np.random.default_rng(2)
    for size in [(1, 1), (8, 8), (17, 23), (40, 9)]:
        assert_as_pillow(encode(noise(rng, *size), quality=quality))


def test_extremes_are_clipped() -> None:
    rng = np.random.default_rng(3)
    for quality in (1, 10, 50):
        image = noise(rng, 33, 31, 3) // 128 * 255
        assert_as_pillow(encode(image, quality=quality))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_restart_intervals(subsampling: str) -> None:
    rng = np.random.default_rng(4)
    for blocks in (1, 2, 3, 7, 50):
        image = noise(rng, 45, 38, 3)
        data = encode(image, subsampling=subsampling, restart_marker_blocks=blocks)
        assert b"\xff\xdd" in data
        assert_as_pillow(data)
    assert_as_pillow(encode(picture(70, 50), subsampling=subsampling, restart_marker_rows=1))


def test_rgb_without_colour_transform() -> None:
    data = encode(picture(21, 34), keep_rgb=True)
    assert_as_pillow(data)
    assert np.abs(decode_jpeg(data).astype(int) - picture(21, 34)).mean() < 8


@pytest.mark.parametrize("size", [1, 2, 5, 16, 33])
def test_440(size: int) -> None:
    # A square 4:2:2 file has as many blocks in 4:4:0: only the header differs.
    data = bytearray(encode(picture(size, size), subsampling="4:2:2"))
    data[data.index(b"\xff\xc0") + 11] = 0x12
    assert_as_pillow(bytes(data))


@pytest.mark.parametrize(
    ("across", "down"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 2), (1, 4), (3, 1)]
)
def test_one_scan_a_component(across: int, down: int) -> None:
    rng = np.random.default_rng(5)
    for height, width in [(17, 23), (40, 9), (5, 3)]:
        chroma = (-(-height // down), -(-width // across))
        planes = [noise(rng, height, width), noise(rng, *chroma), noise(rng, *chroma)]
        factors = [across << 4 | down, 0x11, 0x11]
        assert_as_pillow(component_scans(planes, height, width, factors))


def test_extended_sequential_and_16_bit_quantisers() -> None:
    data = encode(picture(20, 20), quality=50)
    assert_as_pillow(data.replace(b"\xff\xc0", b"\xff\xc1", 1))
    at = data.index(b"\xff\xdb")
    wide = struct.pack(">2sHB", b"\xff\xdb", 131, 0x10) + b"".join(
        bytes([0, value]) for value in data[at + 5 : at + 69]
    )
    assert_as_pillow(data[:at] + wide + data[at + 69 :])


def test_comments_fill_bytes_and_trailing_data() -> None:
    data = encode(picture(20, 20))
    comment = b"\xff\xff\xff\xfe\x00\x08\xff\xd9hi\xff\xda"
    changed = data[:2] + comment + data[2:-2] + b"\xff\xff\xd9 trailing"
    np.testing.assert_array_equal(decode_jpeg(changed), reference(data))


@pytest.mark.parametrize(
    ("marker", "kind"),
    [(0xC2, "progressive"), (0xC3, "lossless"), (0xC9, "arithmetic"), (0xC6, "hierarchical")],
)
def test_other_processes_are_named(marker: int, kind: str) -> None:
    data = encode(picture(16, 16)).replace(b"\xff\xc0", bytes([0xFF, marker]), 1)
    with pytest.raises(ImageError, match=rf"{kind}.*install Pillow \(pip install pillow\) or re-s"):
        decode_jpeg(data)


def test_a_real_progressive_file_is_refused() -> None:
    with pytest.raises(ImageError, match="progressive"):
        decode_jpeg(encode(picture(16, 16), progressive=True))


def test_cmyk_and_12_bit_are_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(16, 16)).convert("CMYK").save(buffer, "JPEG")
    with pytest.raises(ImageError, match=r"CMYK.*install Pillow"):
        decode_jpeg(buffer.getvalue())
    data = bytearray(encode(picture(16, 16)))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(ImageError, match=r"12-bit.*install Pillow"):
        decode_jpeg(bytes(data))


def test_every_truncation_is_refused() -> None:
    data = encode(picture(20, 27), subsampling="4:2:0", restart_marker_blocks=1)
    for length in range(len(data)):
        with pytest.raises(ImageError) as caught:
            decode_jpeg(data[:length])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("restart", [0, 2])
def test_damaged_data_give_an_array_or_an_image_error(restart: int) -> None:
    rng = np.random.default_rng(6)
    data = encode(noise(rng, 20, 27, 3), subsampling="4:2:0", restart_marker_blocks=restart)
    header = data.index(b"\xff\xda") + 14
    places = [*range(header), *rng.integers(header, len(data), 600).tolist()]
    flips = [(at, int(bit)) for at in places for bit in rng.permutation(8)[:2]]
    decoded = 0
    start = time.monotonic()
    for at, bit in flips:
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        try:
            image = decode_jpeg(bytes(damaged))
        except ImageError as error:
            assert "\n" not in str(error)
        else:
            decoded += 1
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert decoded  # damage in the samples need not show
    assert time.monotonic() - start < 60


def test_random_bytes_after_the_header_end_soon() -> None:
    rng = np.random.default_rng(7)
    data = encode(picture(24, 24))
    for _ in range(200):
        cut = int(rng.integers(2, len(data)))
        try:
            decode_jpeg(data[:cut] + rng.bytes(400) + b"\xff\xd9")
        except ImageError:
            continue


def test_long_runs_of_fill_bytes_take_linear_time() -> None:
    data = encode(picture(16, 16))
    start = time.monotonic()
    for tail in (b"\x00\xff\xd9", b"\xd0\xff\xd9", b""):
        with pytest.raises(ImageError):
            decode_jpeg(data[:2] + b"\xff" * 500_000 + tail)
    image = decode_jpeg(data[:-2] + b"\xff" * 500_000 + b"\xd9")
    np.testing.assert_array_equal(image, reference(data))
    assert time.monotonic() - start < 5


def test_a_huge_frame_in_a_small_file_takes_no_memory() -> None:
    for side in (8000, 65535):
        data = bytearray(encode(picture(16, 16)))
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", side, side)
        start = time.monotonic()
        with pytest.raises(ImageError):
            decode_jpeg(bytes(data))
        assert time.monotonic() - start < 5
