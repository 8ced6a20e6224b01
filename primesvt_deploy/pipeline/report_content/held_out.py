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
    before, after = (
        np.bincount(labels * classes + found.classes, minlength=classes * classes)
        for found in (dense, shipped)
    )
    pairs = np.flatnonzero(before + after)
    right = pairs // classes == pairs % classes
    if classes > FEW_CLASSES:
        wrong = pairs[~right]
        by_count = np.argsort(-(before + after)[wrong], kind="stable")
        pairs = np.sort(np.concatenate([pairs[right], wrong[by_count[:MOST_PAIRS]]]))
    return tuple(
        ConfusedPair(
            label=int(pair) // classes,
            predicted=int(pair) % classes,
            dense=int(before[pair]),
            shipped=int(after[pair]),
        )
        for pair in pairs
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
