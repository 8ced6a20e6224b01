"""Names of classes from a data set, for a model that has only numbers for its own."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from primesvt_deploy.edge.runtime.arrays import ArrayFile
from primesvt_deploy.model.svit import SViT

__all__ = ["class_names", "named_by_data"]

_PARTS = ("train", "val", "validation", "test")
"""Directories of an ImageFolder that have a directory for each class, the one to train on first."""
_MOST_CLASSES = 2**24
"""Most bytes of the names of classes in an `.npz`."""
_SHOWN = 3


def named_by_data(model: SViT, source: Path | None) -> SViT:
    """Name the classes of a model that has none as the data set does.

    A checkpoint and a module know how many classes there are, not what they are called. Where the
    folders of an ImageFolder are as many, they are taken in sorted order, as torchvision's
    `ImageFolder` numbers them in training; where an `.npz` has `classes`, in its order. A note says
    so: labels in another order make a good model look as if it guessed.

    Args:
        model: left as it is if its classes have names, or the data set has not as many.
        source: an ImageFolder or `.npz`; None: the data bundled with the model.
    """
    numbers = tuple(map(str, range(len(model.labels))))
    if source is None or model.labels != numbers:
        return model
    names = class_names(source)
    if names is None or len(names) != len(numbers) or set(names) <= set(numbers):
        return model
    shown = ", ".join(f"{number} = {name}" for number, name in enumerate(names[:_SHOWN]))
    order = (
        "the order of its classes"
        if source.suffix == ".npz"
        else "sorted order, as torchvision's ImageFolder numbers its folders"
    )
    note = (
        f"class names are those of {source}, in {order} ({shown}"
        f"{', ...' if names[_SHOWN:] else ''}): if training numbered them otherwise, pass --labels"
    )
    return replace(model, labels=names, notes=(*model.notes, note))


def class_names(source: Path) -> tuple[str, ...] | None:
    """Names of a data set's classes, in the order that training numbers them in.

    Args:
        source: an ImageFolder directory or an `.npz`.

    Returns:
        None: it has no names, or cannot be read (opening it says why).
    """
    try:
        if os.path.isdir(source):
            parts = [source / name for name in _PARTS if os.path.isdir(source / name)]
            evaluated = [part for part in parts if part.name != "train"]
            entries = (parts[0] if evaluated else source).iterdir()
            folders = [path.name for path in entries if path.name[0] != "." and path.is_dir()]
            return tuple(sorted(folders)) or None
        with ArrayFile(source) as file:
            if "classes" not in file.names:
                return None
            return tuple(str(name) for name in file.read("classes", most=_MOST_CLASSES).ravel())
    except (OSError, ValueError, MemoryError):
        return None
