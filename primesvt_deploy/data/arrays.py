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

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from primesvt_deploy.data.decoders import ArrayDecoder
from primesvt_deploy.data.images import DataSet, ImageList, fingerprint, halves, require_enough
from primesvt_deploy.edge.runtime.arrays import ArrayFile, available_memory
from primesvt_deploy.edge.runtime.errors import ImageError, PreprocessingError
from primesvt_deploy.edge.runtime.files import reason_of
from primesvt_deploy.edge.runtime.frames import FrameSteps
from primesvt_deploy.edge.runtime.images import bytes_of_floats
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.edge.runtime.steps import InputSteps
from primesvt_deploy.errors import DataError
from primesvt_deploy.model.locate import KnownModel

if TYPE_CHECKING:
    from primesvt_deploy.model.svit import SViT

    _Model: TypeAlias = "SViT | _Described"

__all__ = ["check_arrays", "has_train", "open_arrays"]

_EVALUATION = ("", "val_", "test_")
"""Beginnings of the names of arrays to search and report on."""
_MOST_CLASSES = 2**24
"""Most bytes of the names of classes: each becomes an object."""
_Part = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]
"""Samples, and the class of each."""
_SHOWN = 12
"""Most names of arrays in a message."""


def open_arrays(model: SViT, path: Path, *, seed: int) -> DataSet:
    """Open the data set in an `.npz`.

    Args:
        model: the model whose input size, kind of input and classes the arrays must have.
        path: the file.
        seed: seed of the split into search and held-out halves.

    Raises:
        DataError: arrays missing, or classes, shape or value range that do not fit the model.
    """
    parts, evaluated, names = _read_parts(model, path)
    count = sum(len(labels) for _, labels in evaluated[: len(parts)])
    everything = _joined(path, [images for images, _ in evaluated])
    classes = np.concatenate([labels for _, labels in evaluated])
    _refuse_other_names(path, names, model)
    if len(parts) == 2:
        first = len(evaluated[0][1])
        search, held_out = np.arange(first), np.arange(first, count)
        require_enough(path, dict(zip(parts, (search, held_out), strict=True)))
    else:
        search, held_out = halves(classes[:count], seed=seed, source=str(path))

    decode, steps = ArrayDecoder(everything), model.preprocessing
    if not isinstance(steps, FrameSteps):
        # Arrays have the size of the model's input: nothing is left to enlarge and crop.
        steps = replace(steps, resize=max(steps.height, steps.width))

    def chosen(numbers: npt.NDArray[np.int64]) -> ImageList:
        return ImageList(decode, numbers, classes[numbers], steps)

    return DataSet(
        name=path.stem,
        digest=fingerprint(everything, classes, search, held_out),
        train=chosen(np.arange(count, len(everything))),
        search=chosen(search),
        held_out=chosen(held_out),
    )


def _read_parts(model: SViT, path: Path) -> tuple[list[str], list[_Part], tuple[str, ...] | None]:
    """Parts to search and report on, samples and labels of these and of `train_`, and classes."""
    try:
        opened = ArrayFile(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    with opened as file:
        what = "frames" if isinstance(model.preprocessing, FrameSteps) else "images"
        parts, train = _parts_of(path, file, what)
        sizes = [_check_header(model, path, file, part, what) for part in (*parts, *train)]
        if sum(sizes) * min(len(sizes), 2) > available_memory():  # several are joined, in a copy
            raise _too_large(path)
        evaluated = [_read_part(model, path, file, part, what) for part in (*parts, *train)]
        names = _class_names(path, file)
    return parts, evaluated, names


def _parts_of(path: Path, file: ArrayFile, what: str) -> tuple[list[str], list[str]]:
    """Beginnings of the names of arrays to search and report on, and of those to train on."""
    parts = [part for part in _EVALUATION if f"{part}{what}" in file.names]
    parts = [""] if "" in parts or not parts else parts
    if file.names == ("",):
        raise _damaged(path, ValueError("it is one array, an .npy"))
    return parts, ["train_"] if f"train_{what}" in file.names else []


def _class_names(path: Path, file: ArrayFile) -> tuple[str, ...] | None:
    """Names of the classes; None: the file has none."""
    if "classes" not in file.names:
        return None
    found = _read(path, file, "classes", most=_MOST_CLASSES)
    return tuple(str(name) for name in found.ravel())


def _refuse_other_names(path: Path, names: tuple[str, ...] | None, model: _Model) -> None:
    if names is not None and names != model.labels:
        raise DataError(
            f"{path}: classes are {list(names[:3])}..., {model.name} has "
            f"{list(model.labels[:3])}...: order and names must agree"
        )


@dataclass(frozen=True)
class _Described:
    """A model that is known by its description."""

    name: str
    labels: tuple[str, ...]
    preprocessing: InputSteps


def check_arrays(path: Path, known: KnownModel) -> None:
    """Check the headers of an `.npz`, and its labels, before its model is loaded.

    Args:
        path: the file.
        known: what is known of the model; where that is little, names of arrays alone are checked.

    Raises:
        DataError: as `open_arrays`, as far as it can be known.
    """
    try:
        opened = ArrayFile(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    with opened as file:
        if known.preprocessing is None or known.labels is None:
            _check_names(path, file)
            return
        model = _Described(known.name, known.labels, known.preprocessing)
        what = "frames" if isinstance(model.preprocessing, FrameSteps) else "images"
        parts, train = _parts_of(path, file, what)
        for part in (*parts, *train):
            _check_header(model, path, file, part, what)
            _in_range(model, path, f"{part}labels", _read(path, file, f"{part}labels"))
        _refuse_other_names(path, _class_names(path, file), model)


def has_train(path: Path) -> bool:
    """Whether an `.npz` that can be read has samples to train on."""
    with ArrayFile(path) as file:
        return any(f"train_{what}" in file.names for what in ("images", "frames"))


def _check_names(path: Path, file: ArrayFile) -> None:
    """Refuse an `.npz` without samples or their labels, whatever the model takes."""
    for what in ("images", "frames"):
        parts, _ = _parts_of(path, file, what)
        if f"{parts[0]}{what}" in file.names and f"{parts[0]}labels" in file.names:
            return
    names = sorted(file.names)
    raise DataError(
        f"{path} has no images with labels (found {names[:_SHOWN]}"
        f"{', ...' if len(names) > _SHOWN else ''}): expected arrays images [n, H, W, 3] and "
        "labels [n], or frames [n, T, C, H, W]"
    )


def _damaged(path: Path, error: Exception, key: str = "") -> DataError:
    where = f"{key}: " if key else ""
    return DataError(
        f"{path} is not a complete .npz of plain arrays ({where}{reason_of(error)}): save it again"
    )


def _read(path: Path, file: ArrayFile, key: str, *, most: int | None = None) -> npt.NDArray[Any]:
    try:
        return file.read(key, most=most)
    except MemoryError as error:
        raise _too_large(path) from error
    except (OSError, ValueError) as error:
        raise _damaged(path, error, key) from error


def _joined(path: Path, parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    if len(parts) == 1:
        return np.ascontiguousarray(parts[0])
    try:
        return np.concatenate(parts)
    except MemoryError as error:
        raise _too_large(path) from error


def _too_large(path: Path) -> DataError:
    return DataError(f"{path} does not fit into memory: pass an ImageFolder")


def _check_header(model: _Model, path: Path, file: ArrayFile, part: str, what: str) -> int:
    """Bytes of one part, such as `train_`, whose samples and labels fit by their headers."""
    steps, (images_key, labels_key) = model.preprocessing, (f"{part}{what}", f"{part}labels")
    missing = [key for key in (images_key, labels_key) if key not in file.names]
    if missing:
        expected = "frames [n, T, C, H, W]"
        if not isinstance(steps, FrameSteps):
            expected = "images [n, H, W, 3]" if steps.channels == 3 else "images [n, H, W]"
        names = sorted(file.names)
        raise DataError(
            f"{path} has no array {missing[0]!r} (found {names[:_SHOWN]}"
            f"{', ...' if len(names) > _SHOWN else ''}): expected {expected} and labels [n]"
        )
    (shape, dtype), (labels_shape, labels_dtype) = (
        _header(path, file, key) for key in (images_key, labels_key)
    )
    if isinstance(steps, FrameSteps):
        try:
            steps.check_form(shape, dtype)
        except PreprocessingError as error:
            raise DataError(f"{path}: {images_key}: {error}") from error
    else:
        _check_size(path, images_key, shape, steps)
        if dtype != np.uint8 and dtype.kind != "f":
            raise DataError(
                f"{path}: {images_key} is {dtype}, expected uint8 (0..255) or float (0..1)"
            )
    _check_labels(path, labels_key, labels_shape, labels_dtype, shape[0])
    return math.prod(shape) * dtype.itemsize


def _header(path: Path, file: ArrayFile, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        return file.shape_and_dtype(key)
    except (OSError, ValueError) as error:
        raise _damaged(path, error, key) from error


def _read_part(model: SViT, path: Path, file: ArrayFile, part: str, what: str) -> _Part:
    """Samples and labels of one part as the model's preprocessing takes them."""
    steps, key = model.preprocessing, f"{part}{what}"
    labels = _in_range(model, path, f"{part}labels", _read(path, file, f"{part}labels"))
    images = _read(path, file, key)
    try:
        if isinstance(steps, FrameSteps):
            return steps.crop_batch(images), labels
        images = _channels_last(images, steps)
        return images if images.dtype == np.uint8 else bytes_of_floats(images), labels
    except (ImageError, PreprocessingError) as error:
        raise DataError(f"{path}: {key}: {error}") from error


def _check_size(path: Path, key: str, shape: tuple[int, ...], steps: Preprocessing) -> None:
    """Refuse images of another size or of other channels than the model's."""
    size, channels = (steps.height, steps.width), steps.channels
    allowed = [(*size, channels), (channels, *size), *([size] if channels == 1 else [])]
    if shape[1:] in allowed:
        return
    expected = ", ".join(map(str, ("n", *size, *((3,) if channels == 3 else ()))))
    kind = "RGB, channels last" if channels == 3 else "grey"
    same_size = len(shape) in (3, 4) and shape[0] and size in (shape[1:3], shape[2:4])
    advice = (
        "convert their colours"
        if same_size
        else f"resize them to {size[0]}x{size[1]} as in training"
    )
    raise DataError(
        f"{path}: {key} is {list(shape)}, expected [{expected}] ({kind}) for this model; "
        f"{advice}, or pass an ImageFolder"
    )


def _channels_last(images: npt.NDArray[Any], steps: Preprocessing) -> npt.NDArray[Any]:
    """Images of the model's size, in whichever order of axes, as `[n, H, W, channels]`."""
    if images.ndim == 3:
        return images[..., np.newaxis]
    last = images.shape[1:] == (steps.height, steps.width, steps.channels)
    return images if last else np.moveaxis(images, 1, 3)


def _check_labels(
    path: Path, key: str, shape: tuple[int, ...], dtype: np.dtype[Any], count: int
) -> None:
    """Refuse labels that are not one integer a sample, `[n]` or `[n, 1]`."""
    whole = dtype.kind in "iu"
    if not whole or shape not in ((count,), (count, 1)):
        found = shape[:1] if len(shape) == 2 and shape[1] == 1 else shape
        several = len(shape) == 2 and shape[1] != 1 and shape[0] == count and whole
        advice = ": a class each, not one flag for each class" if several else ""
        raise DataError(
            f"{path}: {key} is {dtype} {list(found)}, expected {count} integers{advice}"
        )


def _in_range(
    model: _Model, path: Path, key: str, labels: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """The class of each sample, int64 `[n]`."""
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(model.labels)):
        raise DataError(
            f"{path}: {key} run from {labels.min()} to {labels.max()}, "
            f"{model.name} has classes 0 to {len(model.labels) - 1}"
        )
    return labels.reshape(-1).astype(np.int64)
