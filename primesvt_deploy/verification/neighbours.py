"""Check that an artifact computes each image by itself, whatever stands beside it in a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["changed_by_neighbours", "difference_alone"]

_Logits = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
_WATCHED = 4
"""Images that are watched, each in a place of its own in the batch."""


def changed_by_neighbours(
    logits: _Logits, samples: npt.NDArray[Any], fixed_batch: int | None
) -> int:
    """Number of images whose logits change when those beside them in the batch are replaced.

    Every other place of a batch gets another sample. Nothing else differs, neither shapes nor the
    order of sums, so logits must be equal to the bit.

    Args:
        logits: runs the artifact on a batch.
        samples: `[n, ...]`, as the artifact takes them.
        fixed_batch: size of its batches; None: any. With 1 there is no neighbour.
    """
    if fixed_batch == 1:
        return 0
    size = fixed_batch or 2 * min(_WATCHED, len(samples))
    batch = np.resize(samples, (size, *samples.shape[1:]))
    # Each watched image keeps its place; the places between get something unlike any image.
    batch[0::2] = samples[np.arange(len(batch[0::2])) % len(samples)]
    otherwise = batch.copy()
    otherwise[1::2] = _unlike(batch[1::2])
    first, second = logits(batch)[0::2], logits(otherwise)[0::2]
    equal = (first == second) | (np.isnan(first) & np.isnan(second))
    return int((~equal.all(axis=1)).sum())


def difference_alone(logits: _Logits, samples: npt.NDArray[Any], fixed_batch: int | None) -> float:
    """Largest logit difference between an image in a batch and alone, median over some images.

    Kernels may sum in another order for a batch of one, which can flip a spike of an image, but
    hardly of most.

    Args:
        logits: runs the artifact on a batch.
        samples: `[n, ...]`, as the artifact takes them.
        fixed_batch: size of its batches; None: any, else an image cannot be alone.
    """
    watched = samples[:_WATCHED]
    if fixed_batch is not None or len(watched) < 2:
        return 0.0
    together = logits(watched)
    alone = np.concatenate([logits(watched[i : i + 1]) for i in range(len(watched))])
    return float(np.median(np.abs(together - alone).max(axis=1)))


def _unlike(samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if samples.dtype.kind == "u":
        return np.iinfo(samples.dtype).max - samples
    return (1.0 - 3.0 * samples).astype(samples.dtype)
