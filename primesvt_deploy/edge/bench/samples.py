"""Samples that workers run: images of the bundle, or noise where there are none.

How long the native runtime takes depends on how many neurons fire: noise stands for images only
where there are none. In a module of its own, as a worker imports nothing before its stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.edge.bench.configurations import Subject
from primesvt_deploy.edge.runtime.arrays import ArrayFile
from primesvt_deploy.edge.runtime.errors import BundleError
from primesvt_deploy.edge.runtime.files import reason_of
from primesvt_deploy.edge.runtime.steps import steps_from_dict

__all__ = ["stored_images", "write_samples"]

_MOST_BYTES = 2_000_000
"""Bytes of all samples, at most: they count as memory of the worker."""


def write_samples(subject: Subject, path: Path) -> Path | None:
    """Write preprocessed images that a bundle has stored, as many as 2 MB hold and at least one.

    Args:
        subject: the bundle or model file.
        path: the `.npy` to write: `[n, C, H, W]` or `[n, T, C, H, W]`, float32; uint8 where the
            model takes pixels.

    Returns:
        That path; None where there are no images.
    """
    stored = subject.path / "check.npz"
    if subject.manifest is None or not stored.is_file():
        return None
    images = stored_images(subject.path)
    steps = steps_from_dict(subject.manifest["model"]["preprocessing"])
    count = max(1, _MOST_BYTES // steps.normalise(images[:1]).nbytes)
    np.save(path, steps.normalise(images[:count]))
    return path


def stored_images(bundle: Path) -> npt.NDArray[Any]:
    """Images that a bundle has stored, before normalisation: `[n, H, W, C]`, or frames.

    Raises:
        BundleError: they are missing or damaged.
    """
    path = bundle / "check.npz"
    try:
        with ArrayFile(path) as file:
            return file.read("images")
    except (OSError, ValueError, KeyError, MemoryError) as error:
        raise BundleError(
            f"{path}: found no stored images ({reason_of(error)}); copy the bundle again"
        ) from error
