"""Check in a moment, before a model is loaded, that a source of data can be one of its.

Nothing is decoded and no whole list of images is made: an ImageFolder of a million is checked by
its class folders. What needs the images themselves is found when the source is opened.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from primesvt_deploy.data.arrays import check_arrays, has_train
from primesvt_deploy.data.image_folder import (
    FRAMES,
    IMAGES,
    class_folders,
    evaluation_parts,
    refuse_empty,
    refuse_unknown_classes,
)
from primesvt_deploy.edge.runtime.frames import FrameSteps
from primesvt_deploy.edge.runtime.steps import InputSteps
from primesvt_deploy.errors import DataError
from primesvt_deploy.model.locate import KnownModel

__all__ = ["check_data", "check_train", "is_image_folder"]


def is_image_folder(path: Path) -> bool:
    """Whether a source is a directory; otherwise it is an `.npz`.

    Raises:
        DataError: there is no such source, or it is neither.
    """
    if os.path.isdir(path):  # false for a path that no file can have, where Path.is_dir raises
        return True
    if not os.path.exists(path):
        raise DataError(f"no data at {path}: expected an ImageFolder directory or an .npz file")
    if path.suffix != ".npz":
        raise DataError(f"{path} is neither a directory of class folders nor an .npz file")
    return False


def check_data(source: Path, model: KnownModel) -> None:
    """Check a source of data by its names, and the headers of its arrays.

    Args:
        source: an ImageFolder directory or an `.npz` file.
        model: what is known of the model.

    Raises:
        DataError: it cannot be read, holds no images, or does not fit the model.
    """
    if not is_image_folder(source):
        check_arrays(source, model)
        return
    parts = evaluation_parts(source, model.labels)
    with_train = parts and os.path.isdir(source / "train")
    suffixes = _suffixes(model.preprocessing)
    for part in [*parts, *(["train"] if with_train else [])] or ["."]:
        folders = class_folders(source / part)
        if model.labels is not None:
            refuse_unknown_classes(source, folders, model.name, model.labels)
        refuse_empty({folder: _holds(folder, suffixes) for folder in folders}, suffixes)


def check_train(source: Path, purpose: str) -> None:
    """Refuse a source of data without a train split.

    Args:
        source: an ImageFolder directory or an `.npz` file that `check_data` has accepted.
        purpose: what needs the split, for the message.

    Raises:
        DataError: it has none.
    """
    there = (
        bool(evaluation_parts(source, None)) and os.path.isdir(source / "train")
        if is_image_folder(source)
        else has_train(source)
    )
    if not there:
        raise DataError(
            f"{source} has no images to train on: {purpose} needs some; pass an ImageFolder with "
            "train/ beside val/, or an .npz with train_images and train_labels"
        )


def _suffixes(steps: InputSteps | None) -> Collection[str]:
    if steps is None:
        return IMAGES | FRAMES
    return FRAMES if isinstance(steps, FrameSteps) else IMAGES


def _holds(folder: Path, suffixes: Collection[str]) -> bool:
    """Whether a directory has a file of these endings; it is listed up to the first."""
    try:
        with os.scandir(folder) as entries:
            return any(os.path.splitext(entry.name)[1].lower() in suffixes for entry in entries)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be listed ({error.strerror}): check its permissions"
        ) from error
