"""Greedy policy: channels leave where divergence from the dense model grows least per byte saved.

Accuracy on some hundred images moves in steps of a few images; the divergence of the class
probabilities from the dense model's, on the same images, is smooth and needs no labels. So:

1. channels of a layer are ranked by the error that their consumer layers cannot make up for
   (`analysis.reconstruction`);
2. each layer's divergence is measured at a few widths around the plan reached so far, that layer
   alone narrowed further;
3. channels leave, a small step of one layer at a time, where interpolation expects the least
   divergence per byte;
4. after an eighth of the dense bytes the curves are measured again around the new plan (2).

The plans passed form a path; the first within the budget is judged on the whole search split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.reconstruction import reconstruction_importance
from primesvt_deploy.measure.megabytes import millions
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies.base import PolicyOutcome, Search
from primesvt_deploy.pruning.policies.path import outcome_on_path
from primesvt_deploy.pruning.search.channel_ranking import ChannelRanking
from primesvt_deploy.pruning.search.ledger import Candidate

__all__ = ["STAGE_SHARE", "Greedy"]

STAGE_SHARE = 0.125
"""Share of the dense bytes between two measurements of the curves."""
_FRACTIONS = (0.85, 0.6, 0.35, 0.12)
"""Of a layer's present width: where its curve is measured first."""
_LATER_FRACTIONS = _FRACTIONS[:-1]
"""And where it is measured again: no stage goes deeper."""
_NOTCHES = 32
"""Steps from a layer's whole width to none."""
_HOPELESS_Z = 2.576


class Greedy:
    """The least divergence per byte, measured again as the plan grows."""

    name = "greedy"

    def search(self, search: Search, budget_bytes: int) -> PolicyOutcome:
        """See `Policy.search`."""
        walk = search.paths.get(self.name)
        if not isinstance(walk, _Walk):
            walk = search.paths[self.name] = _Walk(search, _ranking(search))
        path = walk.until(budget_bytes)
        return outcome_on_path(self.name, path, search, budget_bytes)


def _ranking(search: Search) -> ChannelRanking:
    """By the error of reconstructing a layer's consumers, where calibration tells their inputs."""
    space = search.space
    if space.recovery is None:
        return space.by_norm
    moments, module = space.recovery.moments, space.model.module
    search.progress.stage("channel importance", len(space.groups), "layers")
    importance = {}
    for group in space.groups:
        importance[group.name] = reconstruction_importance(module, group, moments)
        search.progress.step(group.name)
    return space.ranked(importance)


@dataclass(frozen=True)
class _Expected:
    """A layer's divergence against its width, beyond that of the plan it was measured around."""

    widths: tuple[int, ...]
    losses: tuple[float, ...]

    def loss(self, width: int) -> float:
        return float(np.interp(width, self.widths, self.losses))

    @property
    def narrowest(self) -> int:
        return self.widths[0]


class _Walk:
    """The path from the dense model downwards, as far as budgets have required."""

    def __init__(self, search: Search, ranking: ChannelRanking) -> None:
        self._search, self._ranking = search, ranking
        self._groups = search.space.groups
        self._dense_bytes = search.size_of(Plan())
        self._path: list[Plan] = []
        self._steps = self._walk()

    def until(self, budget_bytes: int) -> list[Plan]:
        """The path up to the first plan within the budget, or to where it ends."""
        while not self._path or self._search.size_of(self._path[-1]) > budget_bytes:
            plan = next(self._steps, None)
            if plan is None:
                break
            self._path.append(plan)
        if not self._path:
            self._path.append(Plan())
        return self._path

    def _walk(self) -> Iterator[Plan]:
        plan = self._search.space.without_constants
        if plan.kept:
            yield plan
        fractions: Sequence[float] = _FRACTIONS
        while True:
            count = 1 + len(self._groups) * len(fractions)
            (size,) = millions(self._search.size_of(plan))
            self._search.progress.stage(f"sensitivity at {size} MB", count, "points")
            base = self._judged(plan)
            self._search.progress.step()
            if self._is_hopeless(base):
                return
            curves = self._measured(plan, base, fractions)
            fractions = _LATER_FRACTIONS
            before = self._search.size_of(plan)
            while self._search.size_of(plan) > before - STAGE_SHARE * self._dense_bytes:
                step = self._next(plan, curves)
                if step is None:
                    break
                plan = step
                yield plan
            if self._search.size_of(plan) == before:
                return

    def _next(self, plan: Plan, curves: dict[str, _Expected]) -> Plan | None:
        """One notch of the layer that promises the least loss per byte; None: none is left."""
        best: tuple[float, Group] | None = None
        widths = plan.widths(self._groups)
        size = self._search.size_of(plan)
        for group in self._groups:
            width, curve = widths[group.name], curves[group.name]
            narrower = self._notched(group, width)
            if narrower < curve.narrowest or narrower == width:
                continue
            saved = size - self._search.size_of(self._narrowed(plan, group, narrower))
            if saved <= 0:
                continue
            here = curve.loss(width)
            # A dear first step may lead to cheap ones: the best mean price of any depth counts.
            price = min(
                (curve.loss(w) - here) / (width - w) for w in {*curve.widths, narrower} if w < width
            )
            rated = price * (width - narrower) / saved
            if best is None or rated < best[0]:
                best = rated, group
        if best is None:
            return None
        group = best[1]
        return self._narrowed(plan, group, self._notched(group, widths[group.name]))

    def _measured(
        self, plan: Plan, base: Candidate, fractions: Sequence[float]
    ) -> dict[str, _Expected]:
        widths = plan.widths(self._groups)
        return {g.name: self._curve(plan, base, g, widths[g.name], fractions) for g in self._groups}

    def _curve(
        self, plan: Plan, base: Candidate, group: Group, width: int, fractions: Sequence[float]
    ) -> _Expected:
        points = {width: 0.0}
        for fraction in fractions:
            narrower = self._rounded(group, fraction * width)
            if narrower in points:
                self._search.progress.step()
                continue
            candidate = self._judged(self._narrowed(plan, group, narrower), group, narrower)
            points[narrower] = (candidate.divergence or 0.0) - (base.divergence or 0.0)
            self._search.progress.step(
                f"{group.name}, {narrower} of {group.width} channels: divergence "
                f"{points[narrower]:+.4f}"
            )
        ordered = sorted(points, reverse=True)
        # More channels gone cannot help but by chance.
        losses = np.maximum.accumulate([max(points[w], 0.0) for w in ordered])
        return _Expected(tuple(reversed(ordered)), tuple(float(x) for x in reversed(losses)))

    def _judged(self, plan: Plan, group: Group | None = None, width: int = 0) -> Candidate:
        settings = self._search.settings
        return self._search.judge.judge(
            plan,
            step=Greedy.name,
            group=group,
            rate=round(1.0 - width / group.width, 4) if group else 0.0,
            limit=max(settings.robustness_images // 2, 50),
            divergence=True,
        )

    def _is_hopeless(self, base: Candidate) -> bool:
        most = self._search.constraint.max_drop
        return base.drop.surely_exceeds(100.0 if most is None else most, _HOPELESS_Z)

    def _narrowed(self, plan: Plan, group: Group, width: int) -> Plan:
        return self._ranking.with_width(plan, group, width)

    def _notched(self, group: Group, width: int) -> int:
        return self._rounded(group, width - group.width / _NOTCHES)

    def _rounded(self, group: Group, width: float) -> int:
        """A width that the heads share and the channel multiple divides, less than it or equal."""
        unit = group.heads * self._ranking.multiple
        return min(max(int(width) // unit, 1) * unit, group.width)
