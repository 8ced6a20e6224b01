"""Seconds that fewer search images would save, and the intervals of decisions that rest on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from primesvt_deploy.measure.intervals import PairedDrop, wilson_interval
from primesvt_deploy.measure.span import Span
from primesvt_deploy.pruning.search.ledger import Ledger

__all__ = ["SearchImages", "discordant_share", "search_image_choices"]

_CHOICES = (250, 500, 1000, 2500)
_DISCORDANT = 0.1
"""Typical share of images that only one of a candidate and the dense model classifies rightly."""
_TOP1 = 0.8
"""Share of images that a dense model of unknown accuracy is taken to classify rightly."""


@dataclass(frozen=True, kw_only=True)
class SearchImages:
    """A value of `--search-images`.

    Args:
        images: search images that a decision rests on.
        drop_points: half of the 95% interval of a paired drop, percentage points.
        accuracy_points: half of that of an accuracy.
        seconds: of the whole run.
        chosen: whether these are the settings'.
    """

    images: int
    drop_points: float
    accuracy_points: float
    seconds: Span
    chosen: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "images": self.images,
            "interval95_drop_points": round(self.drop_points, 3),
            "interval95_accuracy_points": round(self.accuracy_points, 3),
            "seconds": self.seconds.to_dict(1),
            "chosen": self.chosen,
        }


def search_image_choices(
    most: int, chosen: int, top1: float | None, discordant: float, seconds: Callable[[int], Span]
) -> list[SearchImages]:
    """Intervals and seconds of some numbers of search images.

    Args:
        most: search images that there are.
        chosen: number that the settings choose.
        top1: share of images that the dense model classifies rightly; None: not known.
        discordant: share of images that only one of candidate and dense model does.
        seconds: of the run with so many search images.
    """
    counts = sorted({*(each for each in _CHOICES if each < most), most, chosen})
    return [
        SearchImages(
            images=count,
            drop_points=_half_of_drop(count, discordant),
            accuracy_points=_half(wilson_interval(round((top1 or _TOP1) * count), count), 100.0),
            seconds=seconds(count),
            chosen=count == chosen,
        )
        for count in counts
    ]


def discordant_share(ledger: Ledger) -> float:
    """Share of images on which candidates differ from the dense model, as those known do.

    Args:
        ledger: candidates that were evaluated; where there are none, a typical share.
    """
    shares = [
        (each.lost + each.gained) / each.n for each in ledger if each.n and each.step != "dense"
    ]
    return median(shares) if shares else _DISCORDANT


def _half_of_drop(images: int, discordant: float) -> float:
    lost = round(images * discordant / 2.0)
    return _half(PairedDrop(lost, lost, images).interval())


def _half(interval: Sequence[float], scale: float = 1.0) -> float:
    return scale * (interval[1] - interval[0]) / 2.0
