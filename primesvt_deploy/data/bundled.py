"""Data sets bundled with the reference models: JPEG files, end to end in one `.npz`.

Arrays: `jpeg` uint8 (all files end to end), `offsets` int64 `[n + 1]`, `labels` int64 `[n]`,
`split` uint8 `[n]` (0 train, 1 search, 2 held-out; fixed when the file was made by
`tools/embed_data.py`), `classes` str `[K]`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from primesvt_deploy.data.decoders import JpegDecoder
from primesvt_deploy.data.images import DataSet, ImageList, fingerprint
from primesvt_deploy.edge.runtime.arrays import ArrayFile
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.errors import DataError
from primesvt_deploy.model.reference_models import bundled_data

if TYPE_CHECKING:
    from primesvt_deploy.model.svit import SViT

__all__ = ["find_bundled", "open_bundled"]


def find_bundled(name: str) -> Path:
    """The file of a bundled data set.

    Args:
        name: its name, such as `cifar10`.

    Raises:
        DataError: it is not bundled.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):  # else it would lead elsewhere
        raise DataError(f"there is no bundled data set {name[:60]!r}: pass --data")
    path = bundled_data(name)
    if not path.is_file():
        raise DataError(f"data set {name!r} is not bundled with the reference models: pass --data")
    return path


def open_bundled(model: SViT, name: str) -> DataSet:
    """Open a bundled data set.

    Args:
        model: the model whose classes it must have.
        name: its name, such as `cifar10`.

    Raises:
        DataError: it is not bundled, or its classes are not the model's.
        ModelError: the reference models, which have it, are not installed.
    """
    path = find_bundled(name)
    try:
        with ArrayFile(path) as file:
            jpeg, offsets = file.read("jpeg"), file.read("offsets")
            labels, split = file.read("labels"), file.read("split")
            classes = tuple(str(c) for c in file.read("classes"))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}): install ./models again") from error
    if classes != model.labels:
        raise DataError(
            f"{name} has classes {classes[:3]}..., {model.name} has {model.labels[:3]}...: "
            "pass --data with the classes it was trained on"
        )
    blob, steps = jpeg.tobytes(), model.preprocessing
    grey = isinstance(steps, Preprocessing) and steps.channels == 1

    decode = JpegDecoder(name, blob, offsets, grey=grey)

    def chosen(code: int) -> ImageList:
        numbers = np.flatnonzero(split == code)
        return ImageList(decode, numbers, labels[numbers], model.preprocessing)

    return DataSet(
        name=name,
        digest=fingerprint(blob, labels, split.astype(np.int64)),
        train=chosen(0),
        search=chosen(1),
        held_out=chosen(2),
    )
