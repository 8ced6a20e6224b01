"""Reading image files with and without Pillow: same samples, one-line errors."""

from __future__ import annotations

import io
import os
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from primesvt_deploy.edge.runtime.errors import DeployError, ImageError
from primesvt_deploy.edge.runtime.images import decode_image, read_image

Array = npt.NDArray[np.uint8]


def picture() -> Image.Image:
    y, x = np.mgrid[:21, :34]
    return Image.fromarray(np.stack([x * 7, y * 11, x + y], axis=-1).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pillow_rgb(data: bytes) -> Array:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


# Made before a test hides Pillow.
FILES = {
    f"{kind} {mode}": encode(picture().convert(mode), kind)
    for kind, mode in [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "P"), ("PPM", "RGB")]
}
EXPECTED = {name: pillow_rgb(data) for name, data in FILES.items()}
WIDE = np.arange(0, 1 << 16, 257, dtype=np.uint16).reshape(16, 16) ^ 85
WIDE_PNG = encode(Image.fromarray(WIDE), "PNG")
GIF = encode(picture(), "GIF")
EXIF = Image.Exif()
EXIF[0x0112] = 6  # to be shown turned by 90 degrees
ROTATED = encode(picture(), "JPEG", exif=EXIF.tobytes())
PROGRESSIVE = encode(picture(), "JPEG", progressive=True)


@pytest.fixture(params=["with Pillow", "without Pillow"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with Pillow, and again as if it were not installed."""
    if request.param == "without Pillow":
        monkeypatch.setitem(sys.modules, "PIL", None)


@pytest.fixture
def no_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)


def message(action: Callable[[], object]) -> str:
    """The text of the ImageError that `action` raises: one line, told without a context."""
    with pytest.raises(ImageError) as caught:
        action()
    text = str(caught.value)
    assert text.isprintable()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert isinstance(caught.value, DeployError) and caught.value.exit_code == 2
    return text


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("name", FILES)
def test_reads_what_pillow_reads(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a picture.bin"  # contents count, not the name
    path.write_bytes(FILES[name])
    for where in (path, str(path)):
        image = read_image(where)
        assert image.dtype == np.uint8 and image.flags.c_contiguous
        np.testing.assert_array_equal(image, EXPECTED[name])
    np.testing.assert_array_equal(decode_image(FILES[name]), EXPECTED[name])


@pytest.mark.usefixtures("either")
def test_16_bit_grey_is_read_alike() -> None:
    expected = np.repeat((WIDE >> 8).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_image(WIDE_PNG), expected)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("largest", [1, 100, 255, 256, 1000, 65535])
def test_ppm_values_are_scaled_as_pillow_does(largest: int) -> None:
    rng = np.random.default_rng(largest)
    values = rng.integers(0, largest + 1, (5, 7, 3))
    header = b"P6 # made by hand\n7\t5\n# more\n%d\n" % largest
    data = header + values.astype(np.uint8 if largest < 256 else ">u2").tobytes()
    expected = np.rint(values / largest * 255)
    np.testing.assert_array_equal(decode_image(data), expected)


@pytest.mark.usefixtures("either")
def test_exif_orientation_is_not_applied() -> None:
    np.testing.assert_array_equal(decode_image(ROTATED), EXPECTED["JPEG RGB"])


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("name", FILES)
def test_truncated_files_name_the_file(name: str) -> None:
    data = FILES[name]
    for length in {1, 3, 10, len(data) // 3, len(data) // 2, len(data) - 40}:
        text = message(partial(decode_image, data[:length], name="cat.img"))
        assert text.startswith("cat.img: found ")
        assert "expected" in text


@pytest.mark.usefixtures("either")
def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.jpg"
    text = message(lambda: read_image(path))
    assert text.startswith(f"{path}: found no such file, expected a JPEG, a PNG or a binary PPM")


@pytest.mark.usefixtures("either")
def test_directory_and_empty_file(tmp_path: Path) -> None:
    assert "found a directory" in message(lambda: read_image(tmp_path))
    (tmp_path / "empty.png").touch()
    assert "empty.png: found an empty file" in message(lambda: read_image(tmp_path / "empty.png"))


@pytest.mark.skipif(not hasattr(os, "mkfifo") or os.geteuid() == 0, reason="root may read all")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "locked.png"
    path.write_bytes(FILES["PNG RGB"])
    path.chmod(0)
    assert "Permission denied" in message(lambda: read_image(path))


def test_unusable_names_stay_on_one_line(tmp_path: Path) -> None:
    assert "unreadable" in message(lambda: read_image("a\0b.png"))
    assert "unreadable" in message(lambda: read_image("x" * 5000))
    assert "two\\nlines" in message(lambda: read_image(tmp_path / "two\nlines.png"))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"%PDF-1.7 ...", "a PDF"),
        (b"<svg xmlns=''/>", "an SVG, XML or HTML file"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08\x09", "first bytes 01 02 03 04 05 06 07 08"),
        (b"hello", "first bytes 68 65 6c 6c 6f"),
    ],
)
def test_other_files_are_named(data: bytes, found: str) -> None:
    text = message(lambda: decode_image(data, name="dir/thing.jpg"))
    assert text.startswith("dir/thing.jpg: found ")
    assert found in text
    assert "expected a JPEG, a PNG or a binary PPM (P6)" in text


def test_other_formats_need_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode_image(GIF).shape == (21, 34, 3)
    assert decode_image(PROGRESSIVE).shape == (21, 34, 3)
    monkeypatch.setitem(sys.modules, "PIL", None)
    for data, found in [(GIF, "a GIF"), (PROGRESSIVE, "progressive")]:
        text = message(partial(decode_image, data, name="anim"))
        assert found in text and "install Pillow (pip install pillow)" in text


@pytest.mark.usefixtures("no_pillow")
@pytest.mark.parametrize(
    "data",
    [b"P6", b"P6 0 5 255 ", b"P6 5 5 0 ", b"P6 5 5 65536 ", b"P6 99999999999 1 255 ", b"P6 a b c "],
)
def test_damaged_ppm_headers(data: bytes) -> None:
    assert "PPM with a damaged header" in message(lambda: decode_image(data + bytes(75)))


@pytest.mark.usefixtures("no_pillow")
def test_hostile_ppm_headers_end_soon() -> None:
    start = time.monotonic()
    message(lambda: decode_image(b"P6" + b" \n" * 100_000))
    message(lambda: decode_image(b"P6" + b"#\n" * 100_000))
    assert "999999999x999999999" in message(lambda: decode_image(b"P6 999999999 999999999 255 "))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", ["JPEG RGB", "PNG P", "PPM RGB"])
def test_pillow_errors_do_not_leak(name: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(FILES[name])
        for _ in range(int(rng.integers(1, 6))):
            damaged[rng.integers(min(len(damaged), 700))] = rng.integers(256)
        try:
            image = decode_image(bytes(damaged))
        except ImageError as error:
            assert str(error).isprintable()
        else:
            assert image.dtype == np.uint8 and image.shape[2] == 3


def test_palette_transparency_raises_no_warning() -> None:
    image = picture().convert("P")
    data = encode(image, "PNG", transparency=bytes(range(0, 250, 10)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode_image(data), np.asarray(image.convert("RGB")))
