"""Images with labels, in three disjoint splits: train, search and held-out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from primesvt_deploy.data.arrays import open_arrays
from primesvt_deploy.data.bundled import open_bundled
from primesvt_deploy.data.check import is_image_folder
from primesvt_deploy.data.image_folder import open_image_folder
from primesvt_deploy.data.images import DataSet, ImageList
from primesvt_deploy.errors import DataError

if TYPE_CHECKING:
    from primesvt_deploy.model.svit import SViT

__all__ = ["DataSet", "ImageList", "open_data"]


def open_data(
    model: SViT, source: str | os.PathLike[str] | None = None, *, seed: int = 0
) -> DataSet:
    """Open the data set at `source` and check that it fits `model`.

    Args:
        model: gives preprocessing and class names.
        source: an ImageFolder directory, an `.npz` file, or None for the data bundled with a
            reference model.
        seed: seed of the split, where the source has no splits of its own.

    Returns:
        Three disjoint splits; images are decoded as they are used.

    Raises:
        DataError: no such source, too small to split, or classes, shapes or values that do not
            fit the model.
    """
    if source is None:
        if model.data is None:
            raise DataError(
                f"{model.name} comes with no data: pass --data, an ImageFolder directory or .npz"
            )
        return open_bundled(model, model.data)
    if not os.fspath(source):
        raise DataError("the path of the data is empty: expected an ImageFolder directory or .npz")
    path = Path(source)
    if is_image_folder(path):
        return open_image_folder(model, path, seed=seed)
    return open_arrays(model, path, seed=seed)
