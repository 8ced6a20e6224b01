"""Image files to RGB arrays, by Pillow, which is imported when an image is read."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import ImageError, on_one_line
from .files import read_regular, reason_of
from .pixel_limit import PIXELS_VARIABLE, max_pixels
from .quiet_pillow import quiet_libtiff, quiet_pillow
from .tiff_tags import tags_fit

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["bytes_of_floats", "decode_image", "read_image"]

_PIECE = 2**20
"""Pixels that are converted at once."""
_MOST_SCANS = 64
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_EXIF = re.compile(rb"(\xff\xe1..)Exif\0\0", re.DOTALL)
_COMMENT = re.compile(rb"#[^\r\n]*[\r\n]?")
_READ = "a JPEG, PNG, WebP, GIF, TIFF, BMP or PPM"
# Leading bytes ("." stands for any byte), name for messages, Pillow's name.
_FORMATS = tuple(
    (re.compile(magic, re.DOTALL), kind, format_)
    for magic, kind, format_ in (
        (rb"\xff\xd8", "a JPEG", "JPEG"),
        (rb"\x89PNG\r\n\x1a\n", "a PNG", "PNG"),
        (rb"RIFF....WEBP", "a WebP", "WEBP"),
        (rb"GIF8", "a GIF", "GIF"),
        (rb"II[*+]\0|MM\0[*+]", "a TIFF", "TIFF"),
        (rb"BM", "a BMP", "BMP"),
        (rb"P[1-6][\s#]", "a PPM, PGM or PBM", "PPM"),
        # Not read, only named.
        (rb"....ftypavi", "an AVIF", None),
        (rb"....ftyp(?:he[iv]|mif)", "a HEIF (.heic)", None),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL", None),
        (rb"\0\0\0\x0cjP", "a JPEG 2000", None),
        (rb"%!PS", "a PostScript file", None),
        (rb"%PDF", "a PDF", None),
        (rb"\s*<", "an SVG, XML or HTML file", None),
        (rb"PK", "a zip archive", None),
        (rb"\x93NUMPY", "a NumPy array", None),
    )
)


def read_image(
    path: str | os.PathLike[str], *, upright: bool = False, grey: bool = False
) -> npt.NDArray[np.uint8]:
    """Read an image file as `decode_image` does.

    Args:
        path: the file; its name's ending does not matter.
        upright: see `decode_image`.
        grey: see `decode_image`.

    Returns:
        RGB samples, uint8 [height, width, 3], or grey ones, [height, width, 1].

    Raises:
        ImageError: there is no such file, it is not an image that can be read, or Pillow is
            not installed; the message is one line that starts with the path.
    """
    name = os.fspath(path)
    # What the samples of the largest image take without any compression, 16 bits each.
    most = max(8 * max_pixels(), 2**28)
    try:
        data = read_regular(path, most=most)
    except IsADirectoryError:
        raise _error(name, f"found a directory, expected {_READ}; name a file in it") from None
    except FileNotFoundError:
        raise _error(name, f"found no such file, expected {_READ}; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = reason_of(error)
        if isinstance(error, OSError) and error.errno in (errno.EINVAL, errno.EFBIG):
            raise _error(name, f"found that {reason}, expected {_READ}; name another") from None
        hint = "check the path and its permissions"
        raise _error(name, f"found it unreadable ({reason}), expected {_READ}; {hint}") from None
    return decode_image(data, name=name, upright=upright, grey=grey)


def decode_image(
    data: bytes, *, name: str = "image", upright: bool = False, grey: bool = False
) -> npt.NDArray[np.uint8]:
    """Decode the contents of an image file as Pillow's `Image.open(...).convert("RGB")` does.

    JPEG, PNG, WebP, GIF and TIFF (the first image of several), BMP and PPM are read. Alpha is
    dropped, not blended; 16-bit grey keeps its high byte, where `convert` would clip it. Floats (a
    TIFF may hold them) are read as `bytes_of_floats` does.

    Args:
        data: the whole file.
        name: what error messages call it.
        upright: turn the image as its EXIF orientation says; False: the samples in the order
            that they are stored in (except in a TIFF, which Pillow turns as it loads it).
        grey: turn colours into grey, as torchvision's `Grayscale` does it.

    Returns:
        RGB samples, uint8 [height, width, 3], where grey is repeated three times; or grey ones,
        [height, width, 1].

    Raises:
        ImageError: the data are empty, truncated, corrupt, of another format or of more than
            `max_pixels()` pixels, or Pillow is not installed; the message is one line.
    """
    if not data:
        raise _error(name, f"found an empty file, expected {_READ}; copy it again")
    kind, format_ = _identified(data)
    if format_ is None:
        raise _error(name, f"found {kind}, expected {_READ}; convert it to one of these")
    try:
        return _decoded(data, kind, format_, upright=upright, grey=grey)
    except ImageError as error:
        raise _error(name, str(error)) from None


def _error(name: str, message: str) -> ImageError:
    return ImageError(f"{on_one_line(name)}: {on_one_line(message)}")


def _identified(data: bytes) -> tuple[str, str | None]:
    """Name of the format for messages, and Pillow's name of it; None for one that is not read."""
    for pattern, kind, format_ in _FORMATS:
        if pattern.match(data):
            return kind, format_
    return f"an unknown format (first bytes {data[:8].hex(' ')})", None


def _decoded(
    data: bytes, kind: str, format_: str, *, upright: bool, grey: bool
) -> npt.NDArray[np.uint8]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImageError(
            f"found {kind} and no Pillow to read it with ({error}), expected Pillow 10 or newer; "
            "pip install pillow"
        ) from None
    most = max_pixels()
    try:
        if format_ == "TIFF":
            quiet_libtiff()
        with (
            quiet_pillow(),
            # One format, so that no other of Pillow's many decoders sees the data.
            Image.open(io.BytesIO(_harmless(data, format_)), formats=(format_,)) as image,
        ):
            if _decoded_pixels(image) > most:  # whatever limit Pillow was given
                raise Image.DecompressionBombError
            return _samples(image, upright=upright, grey=grey)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(
            f"found {kind} of more than {most} pixels, expected fewer; scale it down, or set "
            f"{PIXELS_VARIABLE}"
        ) from None
    except MemoryError:
        raise ImageError(
            f"found {kind} that does not fit into memory, expected a smaller one; scale it down"
        ) from None
    except UnidentifiedImageError:
        reason = "no complete header"
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
    raise ImageError(
        f"found {kind} that is truncated or corrupt ({reason}), expected a complete one; "
        "copy the file again or re-save it"
    )


def _harmless(data: bytes, format_: str) -> bytes:
    """An image file without what costs Pillow far more than the samples do.

    Raises:
        ImageError: it cannot be left out.
    """
    if format_ == "TIFF" and not tags_fit(data):
        raise ImageError("found a TIFF with tags of too much content, expected fewer; re-save it")
    if format_ == "JPEG":
        if data.count(b"\xff\xda") > _MOST_SCANS:
            raise ImageError(
                f"found a JPEG of more than {_MOST_SCANS} scans, expected fewer; re-save it"
            )
        first = _EXIF.search(data)
        if first and _EXIF.search(data, first.end()):
            # Pillow joins several, and the first, of up to 64 kB, says how to turn the image.
            rest = _EXIF.sub(rb"\g<1>none\0\0", data[first.end() :])
            return data[: first.end()] + rest
    if format_ == "PPM" and data[1:2] in b"123":
        return _COMMENT.sub(b"", data)  # text: Pillow copies the rest for each
    return data


def _decoded_pixels(image: Image.Image) -> int:
    """Pixels that decoding an opened image makes, at most."""
    rows = image.height
    # A packed BMP may skip 255 rows, of which older Pillows make pixels although it has fewer.
    if image.width > 2**18 and any(part[0] == "bmp_rle" for part in getattr(image, "tile", ())):
        rows = max(rows, 256)
    # Tiles of a TIFF are decoded whole, also where the image is smaller.
    tags = getattr(image, "tag_v2", {})
    sides = [tags.get(tag, 1) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    tile = sides[0] * sides[1] if all(isinstance(side, int) for side in sides) else 1
    return max(image.width * rows, tile)


def _samples(image: Image.Image, *, upright: bool, grey: bool) -> npt.NDArray[np.uint8]:
    """Samples [height, width, 3] of an opened image, or [height, width, 1] if `grey`."""
    image.load()
    # Pillow opens 16-bit PGM, and before version 11 PNG too, as 32-bit integers.
    of_16_bits = image.mode.startswith("I;16") or (image.mode, image.format) in (
        ("I", "PNG"),
        ("I", "PPM"),
    )
    if upright and image.format != "TIFF":  # which Pillow turns as it loads it
        image = _turned(image)
    # Dropped with the alpha anyway; `convert` would warn about it.
    image.info.pop("transparency", None)
    out = np.empty((image.height, image.width, 1 if grey else 3), np.uint8)
    if image.mode == "F":
        values = np.empty((image.height, image.width), np.float32)
        for rows, band in _bands(image):
            values[rows] = np.asarray(band)
        out[:] = bytes_of_floats(values)[..., np.newaxis]
        return out
    for rows, band in _bands(image):
        if of_16_bits:
            out[rows] = (np.asarray(band) >> 8).astype(np.uint8)[..., np.newaxis]
            continue
        colours = band if band.mode == "RGB" else band.convert("RGB")
        found = np.asarray(colours.convert("L") if grey else colours)
        out[rows] = found[..., np.newaxis] if grey else found
    return out


def _bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Parts of an image, from top to bottom: converted as a whole it takes several times more."""
    height = max(1, _PIECE // image.width)
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def bytes_of_floats(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Bytes of floats in 0..1, rounded to the nearest, or of whole numbers in 0..255.

    Where no value exceeds 1 they are in 0..1, as whole numbers would be black.

    Raises:
        ImageError: they are neither.
    """
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    scale = 255.0 if high <= 1.0 else 1.0
    usable = low >= 0.0 and high <= 255.0  # false for NaN, too
    out = np.empty(values.shape, np.uint8)
    rows = max(1, _PIECE * max(len(values), 1) // max(values.size, 1))
    for start in range(0, len(values) if usable else 0, rows):
        piece = values[start : start + rows]
        rounded = np.rint(piece * scale)
        usable = usable and (scale != 1.0 or bool((piece == rounded).all()))
        out[start : start + rows] = rounded
    if usable:
        return out
    raise ImageError(
        f"found floats from {low:.3g} to {high:.3g}, expected 0 to 1, or whole numbers from 0 to "
        "255: pass pixels before normalisation"
    )


def _turned(image: Image.Image) -> Image.Image:
    """Turn a decoded image as its EXIF orientation says; a damaged EXIF block is ignored."""
    from PIL import ExifTags, ImageOps

    try:
        if not tags_fit(image.info.get("exif", b"")):
            return image
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as above
        return image
    if orientation not in range(2, 9):
        return image
    image.info.clear()  # else the rest of the block is written anew, which fails on odd ones
    return ImageOps.exif_transpose(image)
