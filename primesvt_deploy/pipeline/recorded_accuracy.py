"""Doubts about a dense model: far from the accuracy that its file records, or near guessing."""

from __future__ import annotations

from primesvt_deploy.errors import ModelError
from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.model.svit import SViT

__all__ = ["chance_warning", "check_recorded_accuracy"]

_MARGIN = 5.0
"""Points beyond the interval that another split of the data explains."""
_BETTER_THAN_GUESSING = 0.05
"""Share of what guessing leaves wrong that a trained network gets right at least."""


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


def chance_warning(model: SViT, dense: Accuracy, split: str) -> str | None:
    """One line on a dense model that classifies hardly better than guessing would.

    A network under which labels stand in another order, or that gets images in another range than
    in training, runs without an error.

    Args:
        model: the dense model.
        dense: its top-1.
        split: where that was measured, such as `search`.

    Returns:
        The line; None where its 95% interval lies above chance, 1 / classes, by a twentieth of
        what chance leaves.
    """
    chance = 1.0 / len(model.labels)
    nearly = 100.0 * (chance + _BETTER_THAN_GUESSING * (1.0 - chance))
    low, high = dense.interval
    if not dense.n or low > nearly:
        return None
    return (
        f"WARNING: the dense model gets {dense.percent:.1f}% [{low:.1f}, {high:.1f}] of "
        f"{dense.n} {split} images right, guessing {100.0 * chance:.3g}%: what is pruned and "
        "reported with that says nothing. Usual causes: the order of --labels is another than in "
        "training, --mean and --std are others, images came in another range (0..1 or 0..255), or "
        "the weights are of another network (--family)"
    )
