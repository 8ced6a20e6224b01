"""Images with labels, in three disjoint splits: train, search and held-out."""

from __future__ import annotations

import os
from pathlib import Path

from primesvt_deploy.data.arrays import open_arrays
from primesvt_deploy.data.bundled import open_bundled
from primesvt_deploy.data.image_folder import open_image_folder
from primesvt_deploy.data.images import DataSet, ImageList
from primesvt_deploy.errors import DataError
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
    path = Path(source)
    if os.path.isdir(path):  # false for a path that no file can have, where Path.is_dir raises
        return open_image_folder(model, path, seed=seed)
    if path.suffix == ".npz" and os.path.exists(path):
        return open_arrays(model, path, seed=seed)
    if not os.path.exists(path):
        raise DataError(f"no data at {path}: expected an ImageFolder directory or an .npz file")
    raise DataError(f"{path} is neither a directory of class folders nor an .npz file")
