"""Images of each class that each model gets right, counted from a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from primesvt_deploy.report.content import ConfusedPair

__all__ = ["ClassCount", "Confusion", "count_classes", "most_confused"]


@dataclass(frozen=True)
class ClassCount:
    """Held-out images of one class.

    Args:
        name: of the class.
        n: its images.
        dense, shipped: of these, those that each model gets right.
    """

    name: str
    n: int
    dense: int
    shipped: int

    @property
    def change(self) -> float:
        """Share of its images that the shipped model gets right more than the dense one."""
        return (self.shipped - self.dense) / self.n


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another one.

    Args:
        label, predicted: names of both classes.
        dense, shipped: how many images, of each model.
    """

    label: str
    predicted: str
    dense: int
    shipped: int


def count_classes(pairs: Sequence[ConfusedPair], classes: Sequence[str]) -> tuple[ClassCount, ...]:
    """Counts of each class that has images, in the order of the classes.

    Args:
        pairs: pairs of class and prediction that occurred; both models saw the same images.
        classes: names of the classes.
    """
    found = []
    for index, name in enumerate(classes):
        own = [pair for pair in pairs if pair.label == index]
        n = sum(pair.dense for pair in own)
        right = [pair for pair in own if pair.predicted == index]
        if n:
            dense, shipped = (sum(getattr(p, m) for p in right) for m in ("dense", "shipped"))
            found.append(ClassCount(name, n, dense, shipped))
    return tuple(found)


def most_confused(
    pairs: Sequence[ConfusedPair], classes: Sequence[str], count: int
) -> tuple[Confusion, ...]:
    """The classes that are most often taken for another one by the shipped model.

    Args:
        pairs: pairs that occurred.
        classes: names of the classes.
        count: pairs to return, at most.
    """
    wrong = [
        Confusion(classes[pair.label], classes[pair.predicted], pair.dense, pair.shipped)
        for pair in pairs
        if pair.label != pair.predicted and max(pair.label, pair.predicted) < len(classes)
    ]
    return tuple(sorted(wrong, key=lambda pair: (-pair.shipped, -pair.dense))[:count])
