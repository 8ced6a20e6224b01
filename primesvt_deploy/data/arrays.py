"""An `.npz` of images and labels.

Arrays: `images` uint8 `[n, H, W, 3]` (0..255) or float (0..1), `labels` int `[n]`; their halves
are search and held-out; H and W are the model's input size, so nothing is resized. Optional:
`train_images`, `train_labels`, and `classes` str `[K]`. For a model of event frames: `frames` (and
`train_frames`) `[n, T, C, H, W]`, numbers of any kind.

MedMNIST's names are read as well: `val_images` are search and `test_images` held-out; of one of
them alone, the halves are. Grey images, for a model of one channel, are `[n, H, W]` or
`[n, H, W, 1]`. Channels may come first where that is clear from the shape, labels may be `[n, 1]`,
and floats may be whole numbers in 0..255.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.data.images import DataSet, ImageList, fingerprint, halves, require_enough
from primesvt_deploy.edge.runtime.errors import ImageError, PreprocessingError
from primesvt_deploy.edge.runtime.frames import FrameSteps
from primesvt_deploy.edge.runtime.images import bytes_of_floats
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.errors import DataError
from primesvt_deploy.model.svit import SViT

__all__ = ["open_arrays"]

_EVALUATION = ("", "val_", "test_")
"""Beginnings of the names of arrays to search and report on."""


def open_arrays(model: SViT, path: Path, *, seed: int) -> DataSet:
    """Open the data set in an `.npz`.

    Args:
        model: the model whose input size, kind of input and classes the arrays must have.
        path: the file.
        seed: seed of the split into search and held-out halves.

    Raises:
        DataError: arrays missing, or classes, shape or value range that do not fit the model.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except MemoryError as error:
        raise DataError(f"{path} does not fit into memory: pass an ImageFolder") from error
    except Exception as error:  # a damaged archive raises nearly everything
        raise DataError(f"{path} is not a complete .npz of plain arrays: save it again") from error
    what = "frames" if isinstance(model.preprocessing, FrameSteps) else "images"
    parts = [part for part in _EVALUATION if f"{part}{what}" in arrays]
    parts = [""] if "" in parts or not parts else parts
    evaluated = [_checked(model, path, arrays, part, what) for part in parts]
    count = sum(len(labels) for _, labels in evaluated)
    if f"train_{what}" in arrays:
        evaluated.append(_checked(model, path, arrays, "train_", what))
    everything = np.concatenate([images for images, _ in evaluated])
    classes = np.concatenate([labels for _, labels in evaluated])
    if "classes" in arrays:
        names = tuple(str(name) for name in np.atleast_1d(arrays["classes"]))
        if names != model.labels:
            raise DataError(
                f"{path}: classes are {list(names[:3])}..., {model.name} has "
                f"{list(model.labels[:3])}...: order and names must agree"
            )
    if len(parts) == 2:
        first = len(evaluated[0][1])
        search, held_out = np.arange(first), np.arange(first, count)
        require_enough(path, dict(zip(parts, (search, held_out), strict=True)))
    else:
        search, held_out = halves(classes[:count], seed=seed, source=str(path))

    def decode(number: int) -> npt.NDArray[Any]:
        sample: npt.NDArray[Any] = everything[number]
        return sample

    steps = model.preprocessing
    if not isinstance(steps, FrameSteps):
        # Arrays have the size of the model's input: nothing is left to enlarge and crop.
        steps = replace(steps, resize=max(steps.height, steps.width))

    def chosen(numbers: npt.NDArray[np.int64]) -> ImageList:
        return ImageList(decode, numbers, classes[numbers], steps)

    return DataSet(
        name=path.stem,
        digest=fingerprint(everything.tobytes(), classes, search, held_out),
        train=chosen(np.arange(count, len(everything))),
        search=chosen(search),
        held_out=chosen(held_out),
    )


def _checked(
    model: SViT, path: Path, arrays: Mapping[str, np.ndarray], part: str, what: str
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Samples and labels of one part, such as `train_`, as the model's preprocessing takes them."""
    steps, (images_key, labels_key) = model.preprocessing, (f"{part}{what}", f"{part}labels")
    missing = [key for key in (images_key, labels_key) if key not in arrays]
    if missing:
        expected = "frames [n, T, C, H, W]"
        if not isinstance(steps, FrameSteps):
            expected = "images [n, H, W, 3]" if steps.channels == 3 else "images [n, H, W]"
        raise DataError(
            f"{path} has no array {missing[0]!r} (found {sorted(arrays)}): "
            f"expected {expected} and labels [n]"
        )
    images = arrays[images_key]
    if not isinstance(steps, FrameSteps):
        images = _channels_last(path, images_key, images, steps)
    labels = _one_label_each(model, path, labels_key, arrays[labels_key], len(images))
    if isinstance(steps, FrameSteps):
        try:
            return steps.crop_batch(images), labels
        except PreprocessingError as error:
            raise DataError(f"{path}: {images_key}: {error}") from error
    return _as_bytes(path, images_key, images), labels


def _channels_last(
    path: Path, key: str, images: np.ndarray, steps: Preprocessing
) -> npt.NDArray[Any]:
    """Images of the model's size as `[n, H, W, channels]`."""
    size, channels = (steps.height, steps.width), steps.channels
    if images.ndim == 4 and images.shape[1:] == (*size, channels):
        return images
    if images.ndim == 4 and images.shape[1:] == (channels, *size):
        return np.moveaxis(images, 1, 3)
    if channels == 1 and images.ndim == 3 and images.shape[1:] == size:
        return images[..., np.newaxis]
    expected = ", ".join(map(str, ("n", *size, *((3,) if channels == 3 else ()))))
    kind = "RGB, channels last" if channels == 3 else "grey"
    raise DataError(
        f"{path}: {key} is {list(images.shape)}, expected [{expected}] ({kind}) for this model; "
        f"{_shape_advice(images, steps)}"
    )


def _shape_advice(images: np.ndarray, steps: Preprocessing) -> str:
    """Advice on images of another size, or of other channels."""
    height, width = steps.height, steps.width
    if (
        images.ndim in (3, 4)
        and len(images)
        and (height, width)
        in (
            images.shape[1:3],
            images.shape[2:4],
        )
    ):
        return "convert their colours, or pass an ImageFolder"
    return f"resize them to {height}x{width} as in training, or pass an ImageFolder"


def _one_label_each(
    model: SViT, path: Path, key: str, labels: np.ndarray, count: int
) -> npt.NDArray[np.int64]:
    """The class of each sample, int64 `[n]`."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        several = labels.ndim == 2 and len(labels) == count and labels.dtype.kind in "iu"
        advice = ": a class each, not one flag for each class" if several else ""
        raise DataError(
            f"{path}: {key} is {labels.dtype} {list(labels.shape)}, expected {count} integers"
            f"{advice}"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(model.labels)):
        raise DataError(
            f"{path}: {key} run from {labels.min()} to {labels.max()}, "
            f"{model.name} has classes 0 to {len(model.labels) - 1}"
        )
    return labels.astype(np.int64)


def _as_bytes(path: Path, key: str, images: np.ndarray) -> npt.NDArray[np.uint8]:
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise DataError(f"{path}: {key} is {images.dtype}, expected uint8 (0..255) or float (0..1)")
    try:
        return bytes_of_floats(images)
    except ImageError as error:
        raise DataError(f"{path}: {key}: {error}") from error
