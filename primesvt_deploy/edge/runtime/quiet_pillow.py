"""Pillow without a word on standard error, in any number of threads at once."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import warnings
from collections.abc import Iterator
from typing import Any, cast

__all__ = ["quiet_libtiff", "quiet_pillow"]

_MODULE = r"PIL\b(?#while images are decoded)"
_lock = threading.Lock()
_decoding = 0


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Ignore warnings of Pillow's modules meanwhile: what makes an image unusable is raised.

    `warnings.catch_warnings` is not for threads: the last of several to leave it would restore the
    filters of another. Here the first adds one filter, and the last takes away that one.
    """
    global _decoding
    _quiet_log()
    with _lock:
        _decoding += 1
        if not _ours():  # another's `catch_warnings` may have taken it away
            warnings.filterwarnings("ignore", module=_MODULE)
    try:
        yield
    finally:
        with _lock:
            _decoding -= 1
            for entry in [] if _decoding else _ours():
                cast(list[Any], warnings.filters).remove(entry)


def _ours() -> list[Any]:
    return [entry for entry in warnings.filters if getattr(entry[3], "pattern", "") == _MODULE]


@functools.cache
def _quiet_log() -> None:
    """Have Python not print what Pillow logs where no program configured logging."""
    import logging

    logging.getLogger("PIL").addHandler(logging.NullHandler())


@functools.cache
def quiet_libtiff() -> None:
    """Have libtiff write nothing to standard error, from now on; its errors reach us by Pillow.

    Sending standard error elsewhere meanwhile would lose what other threads write.
    """
    from PIL import Image

    with contextlib.suppress(OSError, AttributeError):  # linked so that it cannot be reached
        library = ctypes.CDLL(Image.core.__file__)  # type: ignore[attr-defined]
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            function = getattr(library, name)
            function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
            function(None)
