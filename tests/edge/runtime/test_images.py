"""Reading image files: Pillow's samples, upright where requested, one-line errors."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFile

from primesvt_deploy.edge.runtime.errors import DeployError, ImageError
from primesvt_deploy.edge.runtime.images import decode_image, read_image
from primesvt_deploy.edge.runtime.pixel_limit import MAX_PIXELS

Array = npt.NDArray[np.uint8]
ORIENTATION = 0x0112
LISTED = "expected a JPEG, PNG, WebP, GIF, TIFF, BMP or PPM"


def picture() -> Image.Image:
    y, x = np.mgrid[:21, :34]
    return Image.fromarray(np.stack([x * 7, y * 11, x + y], axis=-1).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pillow_rgb(data: bytes) -> Array:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


PIXELS = np.asarray(picture())
LOSSLESS = {
    "PNG": encode(picture(), "PNG"),
    "PNG with alpha": encode(picture().convert("RGBA"), "PNG"),
    "WebP": encode(picture(), "WEBP", lossless=True),
    "TIFF": encode(picture(), "TIFF"),
    "TIFF, LZW": encode(picture(), "TIFF", compression="tiff_lzw"),
    "TIFF, Deflate": encode(picture(), "TIFF", compression="tiff_adobe_deflate"),
    "BMP": encode(picture(), "BMP"),
    "PPM": encode(picture(), "PPM"),
}
FILES = LOSSLESS | {
    "JPEG": encode(picture(), "JPEG"),
    "JPEG, grey": encode(picture().convert("L"), "JPEG"),
    "JPEG, CMYK": encode(picture().convert("CMYK"), "JPEG"),
    "JPEG, progressive": encode(picture(), "JPEG", progressive=True),
    "PNG, grey": encode(picture().convert("L"), "PNG"),
    "PNG, grey with alpha": encode(picture().convert("LA"), "PNG"),
    "PNG, bits": encode(picture().convert("1"), "PNG"),
    "PNG, palette": encode(picture().convert("P"), "PNG"),
    "WebP, lossy": encode(picture(), "WEBP"),
    "WebP, lossy with alpha": encode(picture().convert("RGBA"), "WEBP"),
    "GIF": encode(picture(), "GIF"),
    "TIFF, JPEG": encode(picture(), "TIFF", compression="jpeg"),
    "TIFF, fax": encode(picture().convert("1"), "TIFF", compression="group4"),
    "TIFF, palette": encode(picture().convert("P"), "TIFF"),
    "PGM": encode(picture().convert("L"), "PPM"),
    "PBM": encode(picture().convert("1"), "PPM"),
}
WIDE = np.arange(0, 1 << 16, 257, dtype=np.uint16).reshape(16, 16) ^ 85


@pytest.fixture(autouse=True)
def nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Neither Pillow nor the libraries it uses print anything, and nothing warns."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
    assert not warned
    assert capfd.readouterr() == ("", "")


def message(action: Callable[[], object]) -> str:
    """The text of the ImageError that `action` raises: one line, raised without a context."""
    with pytest.raises(ImageError) as caught:
        action()
    text = str(caught.value)
    assert text.isprintable()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert isinstance(caught.value, DeployError) and caught.value.exit_code == 2
    return text


def png(header: bytes, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


@pytest.mark.parametrize("name", FILES)
def test_reads_what_pillow_reads(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a picture.bin"  # contents count, not the name
    path.write_bytes(FILES[name])
    expected = pillow_rgb(FILES[name])
    for where in (path, str(path)):
        image = read_image(where)
        assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
        np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(decode_image(FILES[name]), expected)


@pytest.mark.parametrize("name", LOSSLESS)
def test_nothing_is_lost_where_nothing_was(name: str) -> None:
    np.testing.assert_array_equal(decode_image(LOSSLESS[name]), PIXELS)


@pytest.mark.parametrize("name", ["JPEG", "JPEG, CMYK", "JPEG, progressive", "WebP, lossy"])
def test_colours_are_those_of_the_picture(name: str) -> None:
    assert np.abs(decode_image(FILES[name]).astype(int) - PIXELS).mean() < 12


def test_alpha_is_dropped_not_blended() -> None:
    alpha = np.arange(21 * 34, dtype=np.uint8).reshape(21, 34)
    image = Image.fromarray(np.dstack([PIXELS, alpha]))
    for data in (encode(image, "PNG"), encode(image, "WEBP", lossless=True, exact=True)):
        np.testing.assert_array_equal(decode_image(data), PIXELS)


@pytest.mark.parametrize(("colour", "alpha"), [(0, b"\0\5"), (2, b"\0\5\0\6\0\7")])
def test_a_transparent_colour_is_a_colour(colour: int, alpha: bytes) -> None:
    channels = 3 if colour else 1
    rows = np.arange(9 * 8 * channels, dtype=np.uint8).reshape(9, -1) % 8
    data = png(
        struct.pack(">2I5B", 8, 9, 8, colour, 0, 0, 0),
        np.pad(rows, ((0, 0), (1, 0))).tobytes(),
        (b"tRNS", alpha),
    )
    pixels = rows.reshape(9, 8, channels).repeat(3 // channels, axis=2)
    np.testing.assert_array_equal(decode_image(data), pixels)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM"])
def test_16_bit_grey_keeps_its_high_byte(kind: str) -> None:
    if kind == "PGM":
        data = b"P5 16 16 65535 " + WIDE.astype(">u2").tobytes()
    else:
        data = encode(Image.fromarray(WIDE), kind)
    expected = np.repeat((WIDE >> 8).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_image(data), expected)
    np.testing.assert_array_equal(decode_image(data, upright=True), expected)


def float_tiff(values: npt.NDArray[Any]) -> bytes:
    return encode(Image.fromarray(values.astype(np.float32)), "TIFF")


@pytest.mark.parametrize("scale", [1.0, 255.0], ids=["0..1", "0..255"])
def test_floats_are_bytes_or_shares_of_255(scale: float) -> None:
    """Pillow's `convert` would take floats in 0..1 for bytes, and give a black image."""
    grey = PIXELS[..., 0]
    found = decode_image(float_tiff(grey / 255 * scale))
    np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(
        decode_image(float_tiff(grey / 255 * scale), grey=True), grey[..., None]
    )


@pytest.mark.parametrize("values", [[0.0, 300.0], [-0.1, 1.0], [0.5, 1.5], [0.0, np.nan]])
def test_other_floats_are_refused(values: list[float]) -> None:
    with pytest.raises(ImageError, match=r"^x: found floats from .*expected 0 to 1, or whole"):
        decode_image(float_tiff(np.array([values])), name="x")


@pytest.mark.parametrize("name", FILES)
def test_grey_is_what_pillow_makes_of_the_colours(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(FILES[name])
    found = read_image(tmp_path / "x", grey=True)
    colours = Image.fromarray(read_image(tmp_path / "x"))
    assert found.shape == (*found.shape[:2], 1)
    np.testing.assert_array_equal(found[..., 0], np.asarray(colours.convert("L")))


def test_16_bit_colour_keeps_its_high_byte() -> None:
    samples = np.random.default_rng(0).integers(0, 1 << 16, (5, 7, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    data = png(struct.pack(">2I5B", 7, 5, 16, 2, 0, 0, 0), rows)
    np.testing.assert_array_equal(decode_image(data), samples >> 8)


def test_an_index_behind_the_palette_costs_no_more_than_its_pixel() -> None:
    """Black, from Pillow 10.1 on."""
    data = png(
        struct.pack(">2I5B", 3, 1, 8, 3, 0, 0, 0),
        bytes([0, 1, 0, 200]),
        (b"PLTE", bytes([10, 20, 30, 40, 50, 60])),
    )
    image = decode_image(data)
    assert image[0, :2].tolist() == [[40, 50, 60], [10, 20, 30]]
    np.testing.assert_array_equal(image, pillow_rgb(data))


def test_an_interlaced_png_is_read() -> None:
    # The passes of Adam7 that a row of three pixels has: columns 0, then 2, then 1.
    rows = bytes([0, 10, 0, 30, 0, 20])
    data = png(struct.pack(">2I5B", 3, 1, 8, 0, 0, 0, 1), rows)
    assert decode_image(data)[..., 0].tolist() == [[10, 20, 30]]


@pytest.mark.parametrize("largest", [1, 100, 255, 256, 1000, 65535])
def test_ppm_values_are_scaled(largest: int) -> None:
    rng = np.random.default_rng(largest)
    values = rng.integers(0, largest + 1, (5, 7, 3))
    header = b"P6 # made by hand\n7\t5\n# more\n%d\n" % largest
    data = header + values.astype(np.uint8 if largest < 256 else ">u2").tobytes()
    expected = np.rint(values / largest * 255)
    np.testing.assert_array_equal(decode_image(data), expected)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP", "MPO"])
def test_the_first_image_of_several_is_read(kind: str) -> None:
    """An MPO is a JPEG with further images behind it, as some phones write."""
    others = [Image.new("RGB", (34, 21), "red")]
    single = {"MPO": "JPEG"}.get(kind, kind)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(picture(), kind, save_all=True, append_images=others, **options)
    expected = pillow_rgb(encode(picture(), single, **options))
    np.testing.assert_array_equal(decode_image(data), expected)


def turned(image: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """What a viewer shows of stored samples (EXIF 2.3, 4.6.4)."""
    ways: dict[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }
    return ways[orientation](image)


def with_orientation(image: Image.Image, kind: str, orientation: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(image, kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied_where_requested(kind: str, orientation: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = with_orientation(picture(), kind, orientation, **options)
    stored = pillow_rgb(encode(picture(), kind, **options))
    np.testing.assert_array_equal(decode_image(data), stored)
    upright = decode_image(data, upright=True)
    np.testing.assert_array_equal(upright, turned(stored, orientation))
    assert upright.flags.c_contiguous


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("wide", [False, True])
def test_a_tiff_is_turned_once(orientation: int, wide: bool) -> None:
    """By Pillow, as it loads one."""
    image, pixels = picture(), PIXELS
    if wide:
        image, pixels = Image.fromarray(WIDE[:9]), (WIDE[:9, :, None] >> 8).repeat(3, axis=2)
    data = encode(image, "TIFF", tiffinfo={ORIENTATION: orientation})
    for upright in (False, True):
        found = decode_image(data, upright=upright)
        np.testing.assert_array_equal(found, turned(pixels, orientation))


def test_orientation_survives_an_exif_block_that_cannot_be_written_anew() -> None:
    """A camera's entry of a type that it should not have."""
    body = b"II*\0" + struct.pack("<IH", 8, 2)
    body += struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0)
    body += struct.pack("<HHII", 0x0111, 2, 4, 0x41414141) + bytes(4)
    data = encode(picture(), "JPEG", exif=b"Exif\0\0" + body)
    expected = turned(pillow_rgb(encode(picture(), "JPEG")), 6)
    np.testing.assert_array_equal(decode_image(data, upright=True), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damage_in_exif_does_not_cost_the_image(kind: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010F] = "a maker"
    block = exif.tobytes()
    rng = np.random.default_rng(0)
    stored = decode_image(encode(picture(), kind))
    for number in range(150):
        damaged = bytearray(block[: len(block) if number % 2 else int(rng.integers(len(block)))])
        for _ in range(int(rng.integers(1, 4)) if damaged else 0):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        data = encode(picture(), kind, exif=bytes(damaged))
        np.testing.assert_array_equal(decode_image(data), stored)
        upright = decode_image(data, upright=True)
        assert any(np.array_equal(upright, turned(stored, way)) for way in range(1, 9))


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_refused_or_loses_nothing(name: str) -> None:
    """Some files end with what is no part of the image: check sums, end markers, padding."""
    data = FILES[name]
    whole, same = decode_image(data), 0
    for length in range(1, len(data), 1 if len(data) < 1000 else 3):
        try:
            image = decode_image(data[:length], name="cat.img")
        except ImageError as error:
            text = str(error)
            assert text.startswith("cat.img: found ") and "expected" in text
            assert text.isprintable() and "0x" not in text
        else:
            np.testing.assert_array_equal(image, whole)
            same += 1
    assert same <= 25


@pytest.mark.parametrize("name", FILES)
def test_damaged_data_give_an_image_or_an_image_error(name: str) -> None:
    rng = np.random.default_rng(0)
    refused = 0
    start = time.monotonic()
    for number in range(250):
        damaged = bytearray(FILES[name])
        for _ in range(int(rng.integers(1, 6))):
            damaged[rng.integers(min(len(damaged), 700))] ^= int(rng.integers(1, 256))
        try:
            image = decode_image(bytes(damaged), upright=bool(number % 2))
        except ImageError as error:
            refused += 1
            assert str(error).isprintable()
        else:
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert refused
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("depth_and_colour", [(3, 0), (16, 3), (4, 2), (8, 5), (0, 0)])
def test_invalid_png_headers_are_refused(depth_and_colour: tuple[int, int]) -> None:
    data = png(struct.pack(">2I5B", 4, 4, *depth_and_colour, 0, 0, 0), bytes(200))
    assert "found a PNG that is truncated or corrupt" in message(lambda: decode_image(data))


def test_wrong_check_sums_are_refused() -> None:
    data = bytearray(LOSSLESS["PNG"])
    data[data.index(b"IHDR") + 17] ^= 1
    assert "found a PNG that is truncated or corrupt" in message(lambda: decode_image(bytes(data)))


def huge(kind: str, width: int, height: int) -> bytes:
    """A small file that claims many pixels."""
    data = bytearray(encode(picture(), "TIFF" if kind == "TIFF" else kind))
    if kind == "PNG":
        return png(struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0), bytes(1 << 20))
    if kind == "JPEG":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    elif kind == "GIF":
        struct.pack_into("<HH", data, 6, width, height)
    elif kind == "BMP":
        struct.pack_into("<II", data, 18, width, height)
    elif kind == "PPM":
        return b"P6 %d %d 255 " % (width, height) + bytes(100)
    elif kind == "TIFF":
        for tag, value in ((0x0100, width), (0x0101, height)):
            at = data.index(struct.pack("<HHI", tag, 4, 1))
            struct.pack_into("<I", data, at + 8, value)
    else:
        frame = bytes(data[12:])
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + canvas + frame
        return b"RIFF" + struct.pack("<I", len(body)) + body
    return bytes(data)


@pytest.mark.parametrize("limit", [MAX_PIXELS // 2, None])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF"])
def test_huge_images_are_refused_before_they_are_decoded(
    kind: str, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever limit of its own Pillow has, `None` being what some programs set."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)

    def never(_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    sides = [(65535, 65535), (MAX_PIXELS // 2750, 2751)]
    sides += [(30000, 30000), (100000, 2000)] if kind in ("PNG", "PPM", "TIFF", "BMP") else []
    for width, height in sides:
        data = huge(kind, width, height)
        text = message(partial(decode_image, data, name="big"))
        assert text.startswith(f"big: found a {kind}")
        assert f"of more than {MAX_PIXELS} pixels, expected fewer; scale it down, or set " in text


def test_a_huge_webp_in_a_small_file_ends_soon() -> None:
    start = time.monotonic()
    for side in (16384, 1 << 24):
        assert "found a WebP" in message(partial(decode_image, huge("WEBP", side, side)))
    assert time.monotonic() - start < 5


def test_many_pixels_below_the_limit_do_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow refuses from twice its limit on, and warns below."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert 500 < PIXELS[..., 0].size < 1000
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(FILES["PNG"]))
    np.testing.assert_array_equal(decode_image(FILES["PNG"]), PIXELS)


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.jpg"
    text = message(lambda: read_image(path))
    assert text.startswith(f"{path}: found no such file, {LISTED}")


def test_directory_and_empty_file(tmp_path: Path) -> None:
    assert "found a directory" in message(lambda: read_image(tmp_path))
    (tmp_path / "empty.png").touch()
    assert "empty.png: found an empty file" in message(lambda: read_image(tmp_path / "empty.png"))


@pytest.mark.skipif(not hasattr(os, "mkfifo") or os.geteuid() == 0, reason="root may read all")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "locked.png"
    path.write_bytes(FILES["PNG"])
    path.chmod(0)
    assert "Permission denied" in message(lambda: read_image(path))


def test_unusable_names_stay_on_one_line(tmp_path: Path) -> None:
    assert "unreadable" in message(lambda: read_image("a\0b.png"))
    assert "unreadable" in message(lambda: read_image("x" * 5000))
    assert "two\\nlines" in message(lambda: read_image(tmp_path / "two\nlines.png"))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"%PDF-1.7 ...", "a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript file"),
        (b"<svg xmlns=''/>", "an SVG, XML or HTML file"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIF (.heic)"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF"),
        (b"P7\nWIDTH 3\n", "first bytes 50 37 0a"),
        (b"Pf\n3 3\n-1.0\n", "first bytes 50 66 0a"),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08\x09", "first bytes 01 02 03 04 05 06 07 08"),
        (b"hello", "first bytes 68 65 6c 6c 6f"),
    ],
)
def test_other_files_are_named(data: bytes, found: str) -> None:
    text = message(lambda: decode_image(data, name="dir/thing.jpg"))
    assert text.startswith("dir/thing.jpg: found ")
    assert found in text
    assert LISTED in text


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PCX", "TGA", "SGI", "PDF", "DDS", "JPEG2000"])
def test_formats_that_are_not_listed_are_never_tried(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow reads most of these, and would start Ghostscript for an EPS."""
    data = encode(picture(), kind)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was asked"))
    assert LISTED in message(lambda: decode_image(data))


@pytest.mark.parametrize("name", FILES)
def test_one_decoder_sees_the_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = Image.open

    def recorded(*arguments: Any, formats: tuple[str, ...]) -> Image.Image:
        asked.append(formats)
        return real(*arguments, formats=formats)

    monkeypatch.setattr(Image, "open", recorded)
    decode_image(FILES[name])
    kind = name.partition(",")[0].partition(" ")[0].upper()
    assert asked == [("PPM" if kind in ("PGM", "PBM") else kind,)]


def test_without_pillow_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    text = message(lambda: decode_image(FILES["JPEG"], name="cat.jpg"))
    assert text.startswith("cat.jpg: found a JPEG and no Pillow to read it with")
    assert text.endswith("pip install pillow")


def test_what_pillow_logs_is_not_shown(tmp_path: Path) -> None:
    """Where no program configured logging, Python prints errors that are logged."""
    data = bytearray(LOSSLESS["TIFF"])
    struct.pack_into("<H", data, data.index(struct.pack("<HHI", 0x0115, 3, 1)) + 8, 300)
    (tmp_path / "cat.tif").write_bytes(data)
    code = (
        "import sys\n"
        "from primesvt_deploy.edge.runtime.images import ImageError, read_image\n"
        "try:\n"
        "    read_image(sys.argv[1])\n"
        "except ImageError as error:\n"
        "    print(error)\n"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "cat.tif")]
    found = subprocess.run(line, capture_output=True, text=True, check=True)
    assert found.stderr == ""
    assert "cat.tif: found a TIFF that is truncated or corrupt" in found.stdout


def test_pillow_is_imported_when_an_image_is_read_not_before(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(FILES["PNG"])
    code = (
        "import sys\n"
        "import primesvt_deploy.edge.runtime.predict\n"
        "from primesvt_deploy.edge.runtime.images import read_image\n"
        "assert 'PIL' not in sys.modules\n"
        "read_image(sys.argv[1])\n"
        "assert 'PIL' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "cat.png")], check=True)


@pytest.mark.parametrize(
    "data",
    [b"P6 ", b"P6 0 5 255 ", b"P6 5 5 0 ", b"P6 5 5 65536 ", b"P6 -5 5 255 ", b"P6 a b c "],
)
def test_damaged_ppm_headers(data: bytes) -> None:
    text = message(lambda: decode_image(data + bytes(75)))
    assert "found a PPM, PGM or PBM that is truncated or corrupt" in text


def test_hostile_headers_end_soon() -> None:
    start = time.monotonic()
    message(lambda: decode_image(b"P6" + b" \n" * 100_000))
    message(lambda: decode_image(b"P6" + b"#\n" * 100_000))
    message(lambda: decode_image(b"P6 99999999999 1 255 " + bytes(75)))
    for tail in (b"\x00\xff\xd9", b"\xd0\xff\xd9", b""):
        message(partial(decode_image, FILES["JPEG"][:2] + b"\xff" * 500_000 + tail))
    message(lambda: decode_image(b"\n" * 500_000))
    assert time.monotonic() - start < 5


def test_palette_transparency_raises_no_warning() -> None:
    image = picture().convert("P")
    data = encode(image, "PNG", transparency=bytes(range(0, 250, 10)))
    np.testing.assert_array_equal(decode_image(data), np.asarray(image.convert("RGB")))
