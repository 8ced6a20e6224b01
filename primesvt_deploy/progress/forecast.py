"""How long planned stages will still take, by what those before them took."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from primesvt_deploy.progress.protocol import PlannedStage

__all__ = ["Forecast"]

_SETTLING_S = 4.0
"""Time constant with which a shown time approaches a new estimate: it never jumps."""
_LEAST_SECONDS, _LEAST_SHARE = 2.0, 0.05
"""Of a running stage, before its own pace says anything."""
_TRUSTED_SHARE, _TRUSTED_LATER = 0.3, 0.6
"""Share of a stage from which on its own pace alone tells when it ends; the second where seconds
were measured before it was planned, as its steps need not all take as long."""
_MEASURED_S = 10.0
"""Seconds of stages that weigh as much as what was measured before they were planned."""
_SHORT_S = 5.0
"""A stage that was not planned is taken for a short one until it has run so long."""


class Forecast:
    """Estimates the time left of planned stages; says nothing until something is measured.

    The work of a stage is planned in images. Seconds an image may come with the plan; they are
    learned from the stages that have ended and, as it goes on, from the running one.

    Args:
        now: a clock, s.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begun = now()
        self._ahead: tuple[PlannedStage, ...] = ()
        self._planned = False
        self._stage: PlannedStage | None = None
        self._stage_begun = self._begun
        self._repeated = self._worked = False
        self._share = 0.0
        self._images = self._seconds = 0.0
        self._shown: float | None = None
        self._shown_at = self._begun
        self._fraction = 0.0

    def plan(self, stages: Sequence[PlannedStage]) -> None:
        """Replace what comes after the current stage."""
        self._ahead, self._planned = tuple(stages), True

    def begin(self, name: str) -> None:
        """Begin a stage; planned ones that it follows will not come any more."""
        self._learn()
        ahead, current = self._ahead, self._stage
        found = next((i for i, one in enumerate(ahead) if _is(one, name)), None)
        stays = current is not None and _is(current, name) and found != 0
        self._repeated, self._worked, self._share = stays, False, 0.0
        if stays:
            return
        self._stage_begun = self._now()
        self._stage = None if found is None else ahead[found]
        if found is not None:
            self._ahead = ahead[found + 1 :]

    def report(self, share: float) -> None:
        """Say which share of the running stage is done, 0 to 1."""
        self._share = min(max(share, self._share), 1.0)
        self._worked = self._worked or 0.0 < self._share < 1.0

    def remaining(self) -> float | None:
        """Time left, s, of everything planned, or of the stage alone; None: nothing tells yet.

        It runs down with the clock and moves to new estimates little by little.
        """
        now = self._now()
        target = self._target(now)
        if target is None:
            self._shown = None
        elif self._shown is None:
            self._shown = target
        else:
            passed = now - self._shown_at
            expected = max(self._shown - passed, 0.0)
            nearer = 1.0 - math.exp(-passed / _SETTLING_S)
            self._shown = expected + (target - expected) * nearer
        self._shown_at = now
        return self._shown

    def fraction(self) -> float:
        """Share of the whole time that has passed, 0 to 1; it never falls."""
        left = self.remaining()
        passed = self._now() - self._begun
        if left is not None and passed > 0.0:
            self._fraction = max(self._fraction, passed / (passed + left))
        return self._fraction

    @property
    def has_plan(self) -> bool:
        """Whether any stages were planned."""
        return self._planned

    def _target(self, now: float) -> float | None:
        pace = self._pace(now)
        current = self._left_of_stage(now, pace)
        costs = [_seconds(stage, pace) for stage in self._ahead]
        if current is None or any(cost is None for cost in costs):
            return None
        return current + sum(cost for cost in costs if cost is not None)

    def _left_of_stage(self, now: float, pace: float | None) -> float | None:
        """Time left of the running stage, by its plan at first and by its own pace later on."""
        passed = now - self._stage_begun
        share = self._share
        told = share >= _LEAST_SHARE and not self._repeated
        own = passed * (1.0 - share) / share if told else None
        if self._stage is None:
            is_short = self._planned and passed < _SHORT_S
            return own if own is not None else (0.0 if is_short else None)
        planned = _seconds(self._stage, pace)
        if planned is None:
            return own
        left = max(planned - passed, 0.0)
        if own is None:
            return left
        trusted = _TRUSTED_SHARE if self._stage.image_s is None else _TRUSTED_LATER
        trust = min(share / trusted, 1.0)
        return min((1.0 - trust) * left + trust * own, max(self._stage.most - passed, 0.0))

    def _pace(self, now: float) -> float | None:
        """Seconds an image: as measured beforehand, and as stages went; None: unknown."""
        images, seconds = self._images, self._seconds
        known = (each.image_s for each in (self._stage, *self._ahead) if each is not None)
        measured = next((each for each in known if each), None)
        if measured is not None:
            images, seconds = images + _MEASURED_S / measured, seconds + _MEASURED_S
        stage, passed = self._stage, now - self._stage_begun
        if self._teaches(stage) and passed >= _LEAST_SECONDS and self._share >= _LEAST_SHARE:
            assert stage is not None
            images += stage.images * self._share
            seconds += max(passed - stage.seconds * self._share, 0.0)
        return seconds / images if images else None

    def _learn(self) -> None:
        """Take up what the ended stage took."""
        stage = self._stage
        if self._teaches(stage):
            assert stage is not None
            self._images += stage.images
            self._seconds += max(self._now() - self._stage_begun - stage.seconds, 0.0)

    def _teaches(self, stage: PlannedStage | None) -> bool:
        """Whether the time of a stage tells that of others: not if its results were kept."""
        if stage is None or not stage.images or self._repeated or not self._worked:
            return False
        return not stage.guessed and stage.most == math.inf


def _is(stage: PlannedStage, name: str) -> bool:
    return name == stage.name or name.startswith((f"{stage.name} ", f"{stage.name},"))


def _seconds(stage: PlannedStage, pace: float | None) -> float | None:
    if not stage.images:
        return min(stage.seconds, stage.most)
    return None if pace is None else min(stage.images * pace + stage.seconds, stage.most)
