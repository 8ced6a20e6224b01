"""Class names of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from primesvt_deploy.errors import ModelError

__all__ = ["checked_labels"]


def checked_labels(labels: Sequence[str] | None, classes: int, path: Path) -> tuple[str, ...]:
    """Class names in the order of the logits: those given, or `0`, `1`, ...

    Args:
        labels: as given; None: numbers.
        classes: number of classes, K.
        path: file of the model, for messages.

    Raises:
        ModelError: there is not one name for each class.
    """
    names = tuple(str(i) for i in range(classes)) if labels is None else tuple(labels)
    if len(names) != classes:
        raise ModelError(
            f"{path}: {len(names)} labels for a model of {classes} classes: give one a class"
        )
    return names
