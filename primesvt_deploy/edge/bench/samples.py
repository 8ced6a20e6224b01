"""Samples that workers run: images of the bundle, or noise where there are none.

How long the native runtime takes depends on how many neurons fire: noise stands for images only
where there are none. In a module of its own, as a worker imports nothing before its stage.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from primesvt_deploy.edge.bench.configurations import Subject
from primesvt_deploy.edge.runtime.check import CHECK_FILE, read_stored
from primesvt_deploy.edge.runtime.steps import steps_from_dict

__all__ = ["write_samples"]

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
    if subject.bundle is None or CHECK_FILE not in subject.bundle:
        return None
    images, _ = read_stored(subject.bundle)
    steps = steps_from_dict(subject.bundle.manifest["model"]["preprocessing"])
    count = max(1, _MOST_BYTES // steps.normalise(images[:1]).nbytes)
    np.save(path, steps.normalise(images[:count]))
    return path
