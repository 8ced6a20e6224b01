"""Class names of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from primesvt_deploy.edge.runtime.errors import is_on_one_line
from primesvt_deploy.errors import ModelError

__all__ = ["checked_labels"]


def checked_labels(labels: Sequence[str] | None, classes: int, path: Path) -> tuple[str, ...]:
    """Class names in the order of the logits: those given, or `0`, `1`, ...

    Args:
        labels: as given; None: numbers.
        classes: number of classes, K.
        path: file of the model, for messages.

    Raises:
        ModelError: there is not one name for each class, or one is empty or has several lines.
    """
    names = tuple(str(i) for i in range(classes)) if labels is None else tuple(labels)
    if len(names) != classes:
        raise ModelError(
            f"{path}: {len(names)} labels for a model of {classes} classes: give one a class"
        )
    odd = next((name for name in names if not name or not is_on_one_line(name)), None)
    if odd is not None:
        raise ModelError(f"{path}: a label is {odd!r:.60}: expected names, each on one line")
    return names
