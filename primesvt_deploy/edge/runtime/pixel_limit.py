"""Most pixels of an image: memory and time to decode one grow with them."""

from __future__ import annotations

import os

from .errors import ImageError, on_one_line

__all__ = ["MAX_PIXELS", "PIXELS_VARIABLE", "max_pixels"]

MAX_PIXELS = 2**26
"""Most pixels of an image, unless the environment says otherwise: a camera has up to 64 million."""

PIXELS_VARIABLE = "PRIMESVT_MAX_PIXELS"
"""Environment variable that raises or lowers the limit."""

_MOST = 178_956_970
"""Pillow, too, takes a larger file for a decompression bomb."""


def max_pixels() -> int:
    """Most pixels of an image, as the environment says.

    Raises:
        ImageError: the variable is not a whole number within its bounds; one line.
    """
    text = os.environ.get(PIXELS_VARIABLE, "")
    if not text:
        return MAX_PIXELS
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and 1 <= int(text) <= _MOST):
        raise ImageError(
            f"{PIXELS_VARIABLE} is {on_one_line(text[:40])!r}, expected a whole number of pixels "
            f"from 1 to {_MOST}; correct it or leave it out"
        )
    return int(text)
