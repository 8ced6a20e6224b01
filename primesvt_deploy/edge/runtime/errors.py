"""Errors shown to the user of the tool.

A message says in one line what was found, what was expected and what to do.
"""

from __future__ import annotations

import io
import re
import sys

__all__ = [
    "BundleError",
    "DeployError",
    "ImageError",
    "PreprocessingError",
    "is_on_one_line",
    "on_one_line",
    "print_whatever_names",
]

_MOST_HALF = 500
"""Most characters of a message before and after the part of a longer one that is left out."""


class DeployError(Exception):
    """Base of all errors the tool reports as one line, without a traceback.

    Attributes:
        exit_code: the exit status of a command that ends with this error.
    """

    exit_code: int = 2

    def __str__(self) -> str:
        """The message, on one line and not too long, whatever the names in it hold."""
        line = on_one_line(super().__str__())
        return (
            line if len(line) <= 2 * _MOST_HALF else f"{line[:_MOST_HALF]}...{line[-_MOST_HALF:]}"
        )


class ImageError(DeployError):
    """An image file is missing, damaged or of a kind that is not read."""


class BundleError(DeployError):
    """A bundle is missing, incomplete or not what its manifest says."""


class PreprocessingError(DeployError):
    """A preprocessing description, or an image given to it, is not usable."""


_BREAKING = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
"""Line ends, what terminals obey, what turns the direction of text, and halves of characters."""


def is_on_one_line(text: str) -> bool:
    """Whether a text has no line end, no control character and no half of a character."""
    return _BREAKING.search(text) is None


def on_one_line(text: str) -> str:
    """A text that may hold names of others, such as paths, with all that breaks a line escaped."""
    return _BREAKING.sub(
        lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text
    )


def print_whatever_names() -> None:
    """Have names that standard output cannot encode, of files or labels, printed with escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
