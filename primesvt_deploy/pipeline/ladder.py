"""Choose the stages of a model that stops early, and the margins from which on each is final.

A sample begins with the first stage. If the largest logit is ahead of the second by the stage's
margin, its logits are final; else the next stage runs, anew, for more timesteps. The last stage is
the whole model. Margins are as small as the accuracy on the search images allows, so that as many
samples as possible end early, and stages are those of the least mean time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.measure.intervals import PairedDrop

__all__ = ["ChosenStage", "Ladder", "StageResult", "choose_ladder", "climb"]

_LEVELS = 40
"""Margins of a first stage that are tried where another one follows."""
_WORTH = 0.99
"""A further stage has to bring the mean time down to this share."""


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """Accuracy and time of one stage alone on the search images.

    Args:
        timesteps: T.
        milliseconds: time of a run.
        margins: largest logit less the second, float32 `[n]`.
        hits: whether each image is classified rightly, `[n]`.
    """

    timesteps: int
    milliseconds: float
    margins: npt.NDArray[np.float32]
    hits: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ChosenStage:
    """A stage that is shipped.

    Args:
        timesteps: T.
        margin: from which on its logits are final; 0 of the last stage.
        share: of the search images that end there.
        milliseconds: time of a run of it alone.
    """

    timesteps: int
    margin: float
    share: float
    milliseconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "timesteps": self.timesteps,
            "margin": self.margin,
            "search_share": round(self.share, 6),
            "ms": round(self.milliseconds, 4),
        }


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Stages of a model that stops early.

    Args:
        stages: those of fewer timesteps first; the last one is the whole model.
        drop: top-1 that is lost on the search images against the whole model.
    """

    stages: tuple[ChosenStage, ...]
    drop: PairedDrop

    @property
    def milliseconds(self) -> float:
        """Mean time of a search image, by the times of the stages."""
        spent = itertools.accumulate(stage.milliseconds for stage in self.stages)
        return sum(stage.share * ms for stage, ms in zip(self.stages, spent, strict=True))

    def milliseconds_of(self, timesteps: npt.NDArray[np.int32]) -> float:
        """Mean time of images that took so many timesteps, `[n]`, by the times of the stages."""
        spent = itertools.accumulate(stage.milliseconds for stage in self.stages)
        shares = [float((timesteps == stage.timesteps).mean()) for stage in self.stages]
        return sum(share * ms for share, ms in zip(shares, spent, strict=True))

    @property
    def timesteps(self) -> float:
        """Mean T behind the logits of a search image."""
        return sum(stage.share * stage.timesteps for stage in self.stages)


def choose_ladder(results: Sequence[StageResult], max_drop: float) -> Ladder:
    """The stages, up to two before the last, of the least mean time.

    Args:
        results: of each stage that may be shipped, on the same images, the whole model last.
        max_drop: percentage points of top-1 that may be lost against the whole model.

    Returns:
        The ladder; its drop is `max_drop` at most. It has no early stage where none saves time.
    """
    *early, whole = results
    best = climb([whole], [])
    for stage in early:
        margin = _least_margin(stage, whole, max_drop)
        best = _better(best, climb([stage, whole], [margin]), needed=1.0)
    for first, second in itertools.combinations(early, 2):
        for margin in _levels(first.margins):
            left = ~(first.margins >= margin)
            spent = PairedDrop.of(whole.hits[~left], first.hits[~left])
            # What is lost already; the rest is allowed to the second stage.
            allowed = max_drop - 100.0 * (spent.lost - spent.gained) / len(left)
            rest = _least_margin(second, whole, allowed, left)
            found = climb([first, second, whole], [margin, rest])
            if found.drop.points <= max_drop:
                best = _better(best, found, needed=_WORTH)
    return best


def climb(results: Sequence[StageResult], margins: Sequence[float]) -> Ladder:
    """The ladder of given margins.

    Args:
        results: of each stage, on the same images, the whole model last.
        margins: of each stage but the last.
    """
    whole = results[-1]
    left = np.ones(len(whole.hits), dtype=bool)
    hits = whole.hits.copy()
    stages = []
    for stage, margin in zip(results, (*margins, 0.0), strict=True):
        ends = left & (stage.margins >= margin) if stage is not whole else left
        hits[ends] = stage.hits[ends]
        left = left & ~ends
        share = float(ends.mean())
        stages.append(
            ChosenStage(
                timesteps=stage.timesteps,
                margin=margin,
                share=share,
                milliseconds=stage.milliseconds,
            )
        )
    return Ladder(stages=tuple(stages), drop=PairedDrop.of(whole.hits, hits))


def _better(best: Ladder, other: Ladder, *, needed: float) -> Ladder:
    ends_early = all(stage.share > 0.0 for stage in other.stages[:-1])
    return other if ends_early and other.milliseconds < needed * best.milliseconds else best


def _least_margin(
    stage: StageResult,
    whole: StageResult,
    max_drop: float,
    left: npt.NDArray[np.bool_] | None = None,
) -> float:
    """Smallest margin at which ending at a stage loses `max_drop` points at most; infinite: none.

    Args:
        stage: a stage.
        whole: the whole model.
        max_drop: points of all images.
        left: which images reach the stage; None: all.
    """
    reached = np.ones(len(whole.hits), dtype=bool) if left is None else left
    reached = reached & ~np.isnan(stage.margins)
    margins = stage.margins[reached]
    losses = whole.hits[reached].astype(np.int64) - stage.hits[reached]
    order = np.argsort(-margins, kind="stable")
    margins, lost = margins[order], losses[order].cumsum()
    # Images of one margin end together.
    is_end = np.append(margins[1:] != margins[:-1], True)[: len(margins)]
    keeps = is_end & (lost * 100.0 <= max_drop * len(whole.hits) + 1e-9)
    return float(margins[keeps.nonzero()[0][-1]]) if keeps.any() else math.inf


def _levels(margins: npt.NDArray[np.float32]) -> list[float]:
    """Margins from the smallest to the largest, as many images between one and the next."""
    known = np.sort(margins[~np.isnan(margins)])
    places = np.unique(np.linspace(0, len(known) - 1, _LEVELS).round().astype(int))
    return [float(known[place]) for place in places] if len(known) else []
