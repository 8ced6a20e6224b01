"""Confusions of the dense and the shipped model, and held-out images that pruning lost."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.measure.accuracy import Predictions
from primesvt_deploy.pipeline.report_content.pictures import picture
from primesvt_deploy.report.content import ClassifiedImage, ConfusedPair

__all__ = ["MOST_PAIRS", "confused_pairs", "lost_images"]

MOST_PAIRS = 2000
"""Pairs of different classes that are kept of a model of more than `FEW_CLASSES`."""
FEW_CLASSES = 100
"""Classes up to which every pair that occurred is kept."""
_MOST_LOST = 12
_LARGEST_PICTURE = 128


def confused_pairs(
    labels: npt.NDArray[np.int64], dense: Predictions, shipped: Predictions, classes: int
) -> tuple[ConfusedPair, ...]:
    """Pairs of a label and a predicted class that occurred, sorted by them.

    Of more than `FEW_CLASSES` classes the `MOST_PAIRS` most frequent pairs of different classes
    are kept, by either model's images; images that were classified rightly are all counted.

    Args:
        labels: of the images, `[n]`.
        dense: the dense model's predictions for them.
        shipped: the shipped model's.
        classes: number of classes, K.
    """
    coded = [labels * classes + found.classes for found in (dense, shipped)]
    pairs, where = np.unique(np.concatenate(coded), return_inverse=True)
    before, after = (np.bincount(x, minlength=len(pairs)) for x in np.split(where, 2))
    right = pairs // classes == pairs % classes
    kept = np.arange(len(pairs))
    if classes > FEW_CLASSES:
        wrong = kept[~right]
        by_count = np.argsort(-(before + after)[wrong], kind="stable")
        kept = np.sort(np.concatenate([kept[right], wrong[by_count[:MOST_PAIRS]]]))
    return tuple(
        ConfusedPair(
            label=int(pairs[i]) // classes,
            predicted=int(pairs[i]) % classes,
            dense=int(before[i]),
            shipped=int(after[i]),
        )
        for i in kept
    )


def lost_images(
    images: ImageList, dense: Predictions, shipped: Predictions, classes: tuple[str, ...]
) -> tuple[ClassifiedImage, ...]:
    """Up to a dozen images that only the dense model gets right, the surest of them first.

    Args:
        images: the held-out images.
        dense: the dense model's predictions for them.
        shipped: the shipped model's.
        classes: names of the classes.
    """
    labels = images.labels
    lost = np.flatnonzero((dense.classes == labels) & (shipped.classes != labels))
    surest = lost[np.argsort(-dense.probabilities[lost], kind="stable")][:_MOST_LOST]
    return tuple(
        ClassifiedImage(
            index=int(index),
            image=picture(images, int(index), most=_LARGEST_PICTURE),
            label=on_one_line(classes[labels[index]]),
            dense_probability=round(float(dense.probabilities[index]), 6),
            predicted=on_one_line(classes[shipped.classes[index]]),
            shipped_probability=round(float(shipped.probabilities[index]), 6),
        )
        for index in surest
    )
