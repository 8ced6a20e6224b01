"""Errors shown to the user of the tool.

A message says in one line what was found, what was expected and what to do.
"""

from __future__ import annotations

__all__ = ["BundleError", "DeployError", "ImageError", "PreprocessingError", "on_one_line"]


class DeployError(Exception):
    """Base of all errors the tool reports as one line, without a traceback.

    Attributes:
        exit_code: the exit status of a command that ends with this error.
    """

    exit_code: int = 2

    def __str__(self) -> str:
        """The message, on one line whatever the names in it hold."""
        return on_one_line(super().__str__())


class ImageError(DeployError):
    """An image file is missing, damaged or of a kind that is not read."""


class BundleError(DeployError):
    """A bundle is missing, incomplete or not what its manifest says."""


class PreprocessingError(DeployError):
    """A preprocessing description, or an image given to it, is not usable."""


def on_one_line(text: str) -> str:
    """A text that may hold a user's names, such as paths, with what is not printable escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
