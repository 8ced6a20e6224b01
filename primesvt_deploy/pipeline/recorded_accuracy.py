"""Refuse to search with a model that is far from the accuracy that its own file records."""

from __future__ import annotations

from primesvt_deploy.errors import ModelError
from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.model.svit import SViT

__all__ = ["check_recorded_accuracy"]

_MARGIN = 5.0
"""Points beyond the interval that another split of the data explains."""


def check_recorded_accuracy(model: SViT, dense: Accuracy) -> None:
    """Compare the accuracy of the dense model with the one that its training script stored.

    Weights do not show how they are meant to be used: with another forward pass under the same
    keys, other preprocessing or other labels a network runs, and guesses.

    Args:
        model: a SViT whose file may record an accuracy.
        dense: its top-1 on the search split.

    Raises:
        ModelError: it is lower by more than the interval and 5 points.
    """
    recorded = model.recorded_accuracy
    if recorded is None or dense.interval[1] + _MARGIN >= recorded:
        return
    low, high = dense.interval
    raise ModelError(
        f"{model.name} gets {dense.percent:.1f}% [{low:.1f}, {high:.1f}] of {dense.n} search "
        f"images right, its file records {recorded:.1f}%: is it of another network with the same "
        "keys (--family), are --mean and --std, or the order of --labels, others than in training? "
        "To search with it all the same pass --ignore-args"
    )
