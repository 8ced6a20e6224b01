"""Images that a candidate is expected to be evaluated on, by how it turns out."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from primesvt_deploy.measure.sequential import SequentialTest
from primesvt_deploy.measure.span import Span
from primesvt_deploy.settings import SearchSettings

__all__ = ["images_seen", "images_until_sure", "mixed_images", "refused_share"]

_LOOK = 32
"""Images between two looks."""
_FEW_DISCORDANT = 0.02
"""Share of images that only one of candidate and dense model classifies rightly, at the least."""
_HOPELESS_POWER = Span(5.0, 10.0, 2.0)
"""Of the rate: the share of points that are refused; without recovery it is `_BARE_POWER`."""
_BARE_POWER = Span(1.0, 2.0, 0.5)


@lru_cache(maxsize=1024)
def images_until_sure(drop: float, allowed: float, limit: int, discordant: float) -> int:
    """Images after which the test is sure about a candidate whose losses come evenly.

    Args:
        drop: percentage points that it loses.
        allowed: that may be lost.
        limit: images that it is about.
        discordant: share of images that only one of candidate and dense model classifies rightly.
    """
    share = max(discordant, abs(drop) / 100.0)
    counts = np.arange(limit + 1)
    lost = np.diff(np.floor(counts * (share + drop / 100.0) / 2.0)) > 0
    gained = np.diff(np.floor(counts * (share - drop / 100.0) / 2.0 + 0.5)) > 0
    test = SequentialTest(limit, allowed)
    for start in range(0, limit, _LOOK):
        if test.see(lost[start : start + _LOOK], gained[start : start + _LOOK]):
            break
    return test.seen


def images_seen(settings: SearchSettings, outcome: tuple[float, float], limit: int) -> Span:
    """Images until it is sure, of candidates of an outcome, such as `_KEPT`; all, if any may go."""
    allowed = settings.max_drop
    if allowed is None:
        return Span.exactly(limit)
    points = outcome[0] * max(allowed, 0.5)
    likely = images_until_sure(points, allowed, limit, outcome[1])
    fewest = images_until_sure(
        0.0 if points < allowed else 2.0 * points, allowed, limit, _FEW_DISCORDANT
    )
    return Span(likely, min(fewest, likely), limit)


def refused_share(settings: SearchSettings, rate: float) -> Span:
    """Share of the points at a rate that lose more than is allowed."""
    if settings.max_drop is None:
        return Span.exactly(0.0)
    power = _HOPELESS_POWER if settings.recover else _BARE_POWER
    return Span(rate**power.likely, rate**power.low, rate**power.high)


def mixed_images(share: Span, refused: Span, kept: Span) -> Span:
    """Images on average, where a share of candidates is refused; few, where many are."""
    likely, low, high = (
        part * lost + (1.0 - part) * seen
        for part, lost, seen in (
            (share.likely, refused.likely, kept.likely),
            (share.high, refused.low, kept.low),
            (share.low, refused.high, kept.high),
        )
    )
    return Span(likely, min(low, likely), max(high, likely))
