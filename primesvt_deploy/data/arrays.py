"""An `.npz` of images and labels.

Arrays: `images` uint8 `[n, H, W, 3]` (0..255) or float (0..1), `labels` int `[n]`; their halves
are search and held-out; H and W are the model's input size, so nothing is resized. Optional:
`train_images`, `train_labels`, and `classes` str `[K]`. For a model of event frames: `frames` (and
`train_frames`) `[n, T, C, H, W]`, numbers of any kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.data.images import DataSet, ImageList, fingerprint, halves
from primesvt_deploy.edge.runtime.errors import PreprocessingError
from primesvt_deploy.edge.runtime.frames import FrameSteps
from primesvt_deploy.errors import DataError
from primesvt_deploy.model.svit import SViT

__all__ = ["open_arrays"]


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
    images, labels = _checked(model, path, arrays, what, "labels")
    if f"train_{what}" in arrays:
        more, more_labels = _checked(model, path, arrays, f"train_{what}", "train_labels")
    else:
        more, more_labels = images[:0], labels[:0]
    if "classes" in arrays:
        names = tuple(str(name) for name in np.atleast_1d(arrays["classes"]))
        if names != model.labels:
            raise DataError(
                f"{path}: classes are {list(names[:3])}..., {model.name} has "
                f"{list(model.labels[:3])}...: order and names must agree"
            )
    search, held_out = halves(labels, seed=seed, source=str(path))
    everything = np.concatenate([images, more])
    classes = np.concatenate([labels, more_labels])

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
        train=chosen(np.arange(len(images), len(everything))),
        search=chosen(search),
        held_out=chosen(held_out),
    )


def _checked(
    model: SViT, path: Path, arrays: Mapping[str, np.ndarray], images_key: str, labels_key: str
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    steps = model.preprocessing
    frames = isinstance(steps, FrameSteps)
    missing = [key for key in (images_key, labels_key) if key not in arrays]
    if missing:
        raise DataError(
            f"{path} has no array {missing[0]!r} (found {sorted(arrays)}): "
            f"expected {'frames [n, T, C, H, W]' if frames else 'images [n, H, W, 3]'} and "
            "labels [n]"
        )
    images, labels = arrays[images_key], arrays[labels_key]
    height, width = steps.height, steps.width
    if not frames and (images.ndim != 4 or images.shape[1:] != (height, width, 3)):
        raise DataError(
            f"{path}: {images_key} is {list(images.shape)}, expected [n, {height}, {width}, 3] "
            "(RGB, channels last) for this model; resize them, or pass an ImageFolder"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: {labels_key} is {labels.dtype} {list(labels.shape)}, expected "
            f"{len(images)} integers"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(model.labels)):
        raise DataError(
            f"{path}: {labels_key} run from {labels.min()} to {labels.max()}, "
            f"{model.name} has classes 0 to {len(model.labels) - 1}"
        )
    if isinstance(steps, FrameSteps):
        try:
            return steps.crop_batch(images), labels.astype(np.int64)
        except PreprocessingError as error:
            raise DataError(f"{path}: {images_key}: {error}") from error
    return _as_bytes(path, images_key, images), labels.astype(np.int64)


def _as_bytes(path: Path, key: str, images: np.ndarray) -> npt.NDArray[np.uint8]:
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise DataError(f"{path}: {key} is {images.dtype}, expected uint8 (0..255) or float (0..1)")
    low, high = (float(images.min()), float(images.max())) if len(images) else (0.0, 0.0)
    if not (low >= 0.0 and high <= 1.0):
        raise DataError(
            f"{path}: {key} are floats from {low:.3g} to {high:.3g}, expected 0 to 1: "
            "pass pixels before normalisation"
        )
    return np.rint(images * 255.0).astype(np.uint8)
