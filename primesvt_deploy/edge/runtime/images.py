"""Image files to RGB arrays: with Pillow where it is installed, without it elsewhere."""

from __future__ import annotations

import io
import os
import re
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ImageError
from .jpeg import MAX_PIXELS, decode_jpeg
from .png import SIGNATURE, decode_png

__all__ = ["decode_image", "read_image"]

Rgb = npt.NDArray[np.uint8]

_JPEG = b"\xff\xd8"
_READ = "a JPEG, a PNG or a binary PPM (P6)"
# What else people hand over, by leading bytes; "." stands for any byte.
_KNOWN = (
    (re.compile(rb"GIF8"), "a GIF"),
    (re.compile(rb"BM"), "a BMP"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "a WebP"),
    (re.compile(rb"II\*\0|MM\0\*"), "a TIFF"),
    (re.compile(rb"....ftypavi", re.DOTALL), "an AVIF"),
    (re.compile(rb"....ftyp(?:hei|mif)", re.DOTALL), "a HEIF"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "a JPEG XL"),
    (re.compile(rb"\0\0\0\x0cjP"), "a JPEG 2000"),
    (re.compile(rb"P[1-57]\s"), "a Netpbm file other than P6"),
    (re.compile(rb"%PDF"), "a PDF"),
    (re.compile(rb"\s*<"), "an SVG, XML or HTML file"),
    (re.compile(rb"PK"), "a zip archive"),
    (re.compile(rb"\x93NUMPY"), "a NumPy array"),
)
# Magic, then width, height and largest value, with comments between, then one blank.
_PPM = re.compile(rb"P6" + rb"(?:\s|#[^\n]*\n)+(\d{1,9})" * 3 + rb"\s")


def read_image(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Read an image file as `decode_image` does.

    Args:
        path: the file.

    Returns:
        RGB samples, uint8 [height, width, 3]; the EXIF orientation is not applied.

    Raises:
        ImageError: there is no such file, or it is not an image that can be read; the
            message is one line that starts with the path.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except IsADirectoryError:
        raise _error(name, f"found a directory, expected {_READ}; name a file in it") from None
    except FileNotFoundError:
        raise _error(name, f"found no such file, expected {_READ}; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        hint = "check the path and its permissions"
        raise _error(name, f"found it unreadable ({reason}), expected {_READ}; {hint}") from None
    return decode_image(data, name=name)


def decode_image(data: bytes, *, name: str = "image") -> npt.NDArray[np.uint8]:
    """Decode the contents of an image file.

    With Pillow any format it knows is read, as `Image.open(...).convert("RGB")` gives it
    (16-bit grey keeps its high byte, where `convert` would clip it). Without Pillow,
    sequential JPEG, PNG without interlacing and binary PPM are read, to the same values.
    The EXIF orientation is not applied: the samples are in the order they are stored in.

    Args:
        data: the whole file.
        name: what error messages call it.

    Returns:
        RGB samples, uint8 [height, width, 3]; alpha is dropped, grey repeated.

    Raises:
        ImageError: the data are empty, truncated, corrupt or of a format that is not read.
    """
    if not data:
        raise _error(name, f"found an empty file, expected {_READ}; copy it again")
    pillow = _pillow()
    try:
        if pillow is not None:
            return _decode_with_pillow(data, pillow)
        if data.startswith(_JPEG):
            return decode_jpeg(data)
        if data.startswith(SIGNATURE):
            return decode_png(data)
        if data.startswith(b"P6"):
            return _decode_ppm(data)
    except ImageError as error:
        raise _error(name, str(error)) from None
    hint = "install Pillow (pip install pillow) or convert it"
    raise _error(name, f"found {_describe(data)}, expected {_READ}; {hint}")


def _error(name: str, message: str) -> ImageError:
    printable = name.encode("unicode_escape").decode() if not name.isprintable() else name
    return ImageError(f"{printable}: {message}")


def _pillow() -> ModuleType | None:
    """Pillow's Image module, or None where it is not installed."""
    try:
        from PIL import Image
    except ImportError:
        return None
    return Image


def _decode_with_pillow(data: bytes, pillow: ModuleType) -> Rgb:
    try:
        with pillow.open(io.BytesIO(data)) as image:
            image.load()
            if image.mode.startswith("I;16"):
                high = (np.asarray(image) >> 8).astype(np.uint8)
                return np.repeat(high[..., None], 3, axis=2)
            # Dropped with the alpha anyway; `convert` would warn about it.
            image.info.pop("transparency", None)
            rgb = image if image.mode == "RGB" else image.convert("RGB")
            return np.array(rgb, dtype=np.uint8)
    except pillow.UnidentifiedImageError:
        raise ImageError(
            f"found {_describe(data)} that Pillow cannot identify, expected {_READ}; "
            "copy the file again or convert it"
        ) from None
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(
            f"found {_describe(data)} that is truncated, corrupt or too large ({reason}), "
            "expected a complete one; copy the file again or re-save it"
        ) from None


def _describe(data: bytes) -> str:
    """Name the format, or quote the first bytes."""
    readable = ((_JPEG, "a JPEG"), (SIGNATURE, "a PNG"), (b"P6", "a binary PPM"))
    for magic, kind in readable:
        if data.startswith(magic):
            return kind
    for pattern, kind in _KNOWN:
        if pattern.match(data):
            return kind
    return f"an unknown format (first bytes {data[:8].hex(' ')})"


def _decode_ppm(data: bytes) -> Rgb:
    """Decode a binary PPM; values are scaled to 255 with Pillow's rounding."""
    header = _PPM.match(data)
    width, height, largest = map(int, header.groups()) if header else (0, 0, 0)
    if header is None or not (width and height and 0 < largest < 1 << 16):
        raise ImageError("found a PPM with a damaged header, expected a whole one; re-save it")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"found a PPM of {width}x{height} pixels, expected at most {MAX_PIXELS} in all; "
            "scale it down"
        )
    sample: np.dtype[Any] = np.dtype("u1" if largest < 256 else ">u2")
    count = width * height * 3
    available = (len(data) - header.end()) // sample.itemsize
    if available < count:
        raise ImageError(
            f"found a truncated PPM ({available} of {count} samples), expected a complete one; "
            "copy the file again or re-save it"
        )
    values = np.frombuffer(data, sample, count, header.end()).reshape(height, width, 3)
    if largest != 255:
        values = np.minimum(np.rint(values / largest * 255), 255)
    rgb: Rgb = values.astype(np.uint8)
    return rgb
