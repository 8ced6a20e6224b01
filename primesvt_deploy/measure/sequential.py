"""Sequential test: is a paired drop of accuracy within what is allowed, before all images are seen?

The images are a fixed population of N in random order, and `d_i` is 1 where only the reference
classifies image i rightly, -1 where only the candidate does, else 0. The drop over all N is within
K images if `sum d <= K`. Two bets run side by side, one against "the sum is K + 1 or more" and one
against "the sum is K or less". Under such a null hypothesis the mean of what is left after t images
is `m_t = (null - sum of the first t) / (N - t)` or more (or less), so the capital

    C_t = product over i <= t of (1 + lambda_i s (m_(i-1) - d_i)),    s = 1 or -1,

is a nonnegative supermartingale from 1 on for bets `lambda_i` that the past fixes, and by Ville's
inequality ever reaches 1/alpha with probability alpha at most: whatever the number of looks, and
for this population exactly. A decision that the images left cannot change is included: that null
hypothesis has become impossible. Only one of the two can be wrong of a population, so alpha is the
rate of wrong decisions in all.

Source: Waudby-Smith and Ramdas, "Confidence sequences for sampling without replacement" (NeurIPS
2020), and "Estimating means of bounded random variables by betting" (JRSSB, 2024), section 5. Bets
are constant shares of the largest one, `lambda_i = c / (1 - s m_(i-1))`, mixed over a few c: no
variance has to be estimated. A group-sequential z-test with the correction for a finite population
needs about as many images at 3.7 standard errors, and is then still wrong in ten of a hundred cases
where few images change and none are gained, as early looks underestimate the variance; the mixture
likelihood ratio of the counts is exact, and needs a fifth more (`benchmarks/sequential.py`).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["ERROR_RATE", "SequentialTest", "most_lost"]

ERROR_RATE = 0.01
"""Probability, at most, that a decision before all images contradicts the one on all of them."""
_SHARES = np.array([0.08, 0.17, 0.37, 0.8])
"""Of the largest bet that cannot lose everything."""


def most_lost(images: int, allowed: float) -> int:
    """Images that may be lost, net of those gained, of so many where `allowed` points may be.

    Args:
        images: in all.
        allowed: percentage points.
    """
    most = math.floor(allowed * images / 100.0)
    if 100.0 * (most + 1) / images <= allowed:
        return most + 1
    return most - 1 if 100.0 * most / images > allowed else most


class SequentialTest:
    """Decides from images in random order whether the drop on all of them is within a limit.

    Args:
        images: of the whole population, at least 1.
        allowed: percentage points that may be lost.
        error_rate: of decisions before all images are seen, in (0, 1).

    Attributes:
        within: whether the drop on all images is within the limit; None: that is not sure yet.
        seen: images so far.
    """

    def __init__(self, images: int, allowed: float, error_rate: float = ERROR_RATE) -> None:
        self.within: bool | None = None
        self.seen = 0
        self._images, self._most = images, most_lost(images, allowed)
        self._certain = -math.log(error_rate)
        self._lost = 0
        # Logarithms of the capital against each null hypothesis, one for each share.
        self._capital = {True: np.zeros(len(_SHARES)), False: np.zeros(len(_SHARES))}

    def see(self, reference: npt.NDArray[np.bool_], candidate: npt.NDArray[np.bool_]) -> bool:
        """Take the next images into account; whether it is sure now.

        Args:
            reference: per image, whether the reference classifies it rightly, `[n]`.
            candidate: the same of the candidate, `[n]`.
        """
        losses = reference.astype(np.int64) - candidate.astype(np.int64)
        if self.within is None and len(losses):
            for within, null in ((True, self._most + 1), (False, self._most)):
                self._bet(losses, within, null)
        self._lost += int(losses.sum())
        self.seen += len(losses)
        if self.within is None:
            self.within = self._decision()
        return self.within is not None

    def _bet(self, losses: npt.NDArray[np.int64], within: bool, null: int) -> None:
        """Bet on each of these images against one null hypothesis."""
        sign = 1.0 if within else -1.0
        before = self._lost + np.cumsum(losses) - losses
        left = self._images - self.seen - np.arange(len(losses))
        mean = np.clip(sign * (null - before) / left, -1.0, 1.0)
        largest = 1.0 / np.maximum(1.0 - mean, 1e-9)
        gains = 1.0 + _SHARES[:, None] * largest * (mean - sign * losses)
        self._capital[within] += np.log(np.maximum(gains, 1e-300)).sum(axis=1)

    def _decision(self) -> bool | None:
        left = self._images - self.seen
        if self._lost + left <= self._most:
            return True
        if self._lost - left > self._most:
            return False
        for within, capital in self._capital.items():
            peak = float(capital.max())
            if peak + math.log(float(np.exp(capital - peak).mean())) >= self._certain:
                return within
        return None
