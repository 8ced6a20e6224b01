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

A curve is measured from the widest point down, and only as far as it is needed (2): where it is not
measured, a layer is taken to lose no more than at the last point, which is the least that it can
lose. A layer that is not the cheapest even so would not be with its whole curve either, so the path
is the same as if all curves were measured. From the second measurement on a layer is moreover taken
to lose a third at least of what its last curve says, so that one that has been far too dear is not
measured again until prices have risen.

The plans passed form a path; the first within the budget is judged on the whole search split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.reconstruction import reconstruction_importance
from primesvt_deploy.measure.megabytes import millions
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies.base import PolicyOutcome, Search
from primesvt_deploy.pruning.policies.path import outcome_on_path
from primesvt_deploy.pruning.search.channel_ranking import ChannelRanking
from primesvt_deploy.pruning.search.ledger import Candidate
from primesvt_deploy.pruning.search.query import Query
from primesvt_deploy.settings import SearchSettings

__all__ = ["STAGE_SHARE", "Greedy", "curve_images"]

STAGE_SHARE = 0.125
"""Share of the dense bytes between two measurements of the curves."""
_FRACTIONS = (0.85, 0.6, 0.35, 0.12)
"""Of a layer's present width: where its curve is measured first."""
_LATER_FRACTIONS = _FRACTIONS[:-1]
"""And where it is measured again: no stage goes deeper."""
_NOTCHES = 32
"""Steps from a layer's whole width to none."""
_MOST_SHRUNK = 3.0
"""A curve around a later plan is taken to be no flatter than the one before by more than this."""
_HOPELESS_Z = 2.576


def curve_images(settings: SearchSettings) -> int:
    """Search images that a point of a divergence curve rests on, a quarter of a robustness curve's.

    Divergence is smooth where accuracy moves in steps of an image, so that fewer do.

    Args:
        settings: of the search.
    """
    return max(settings.robustness_images // 4, 50)


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


class _Curve:
    """A layer's divergence against its width, beyond that of the plan it is measured around.

    Args:
        group: the layer.
        width: channels that it has in that plan.
        targets: narrower widths to measure, falling.
        last: the curve around the plan before; None: this is the first.
    """

    def __init__(
        self, group: Group, width: int, targets: Sequence[int], last: _Curve | None = None
    ) -> None:
        self.group = group
        self.widths = (width, *(target for target in targets if target < width))
        self._losses = [0.0]
        self._least = [0.0] * len(self.widths)
        if last is not None:
            here = last.loss(width)
            self._least = [(last.loss(w) - here) / _MOST_SHRUNK for w in self.widths]

    @property
    def is_unknown(self) -> bool:
        """Whether nothing tells that it loses anything."""
        return len(self._losses) == 1 and len(self.widths) > 1 and not any(self._least)

    @property
    def next(self) -> int | None:
        """The width to measure next; None: all are measured."""
        return None if len(self._losses) == len(self.widths) else self.widths[len(self._losses)]

    def measured(self, loss: float) -> None:
        """Take the loss at the next width; more channels gone cannot help but by chance."""
        self._losses.append(max(loss, self._losses[-1]))

    def loss(self, width: int) -> float:
        """Expected loss at a width; where nothing is measured, the least that it can be."""
        rest = self._least[len(self._losses) :]
        known = self._losses + [max(self._losses[-1], least) for least in rest]
        return float(np.interp(width, self.widths[::-1], known[::-1]))


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
        curves: list[_Curve] = []
        while True:
            count = 1 + len(self._groups) * len(fractions)
            before = self._search.size_of(plan)
            unit = "points at most"
            self._search.progress.stage(f"sensitivity at {millions(before)[0]} MB", count, unit)
            (base,) = self._search.judge.judge_all([self._query(plan)])
            self._search.progress.step()
            if self._is_hopeless(base):
                return
            curves, around = self._curves(plan, fractions, curves), plan
            self._measure(around, base, [curve for curve in curves if curve.is_unknown])
            fractions = _LATER_FRACTIONS
            while self._search.size_of(plan) > before - STAGE_SHARE * self._dense_bytes:
                curve = self._cheapest(plan, curves)
                if curve is None:
                    break
                if curve.next is not None:
                    self._measure(around, base, [curve])
                    continue
                width = plan.widths([curve.group])[curve.group.name]
                plan = self._narrowed(plan, curve.group, self._notched(curve.group, width))
                yield plan
            if self._search.size_of(plan) == before:
                return

    def _curves(
        self, plan: Plan, fractions: Sequence[float], last: Sequence[_Curve]
    ) -> list[_Curve]:
        """Curves around a plan, nothing measured yet; after the last ones, if there are any."""
        widths = plan.widths(self._groups)
        before = {curve.group.name: curve for curve in last}
        curves = []
        for group in self._groups:
            width = widths[group.name]
            targets = {self._rounded(group, fraction * width) for fraction in fractions}
            ordered = sorted(targets, reverse=True)
            curves.append(_Curve(group, width, ordered, before.get(group.name)))
        return curves

    def _cheapest(self, plan: Plan, curves: Sequence[_Curve]) -> _Curve | None:
        """The layer whose next notch promises the least loss per byte; None: none is left."""
        best: tuple[float, _Curve] | None = None
        widths = plan.widths(self._groups)
        size = self._search.size_of(plan)
        for curve in curves:
            width = widths[curve.group.name]
            narrower = self._notched(curve.group, width)
            if narrower < curve.widths[-1] or narrower == width:
                continue
            saved = size - self._search.size_of(self._narrowed(plan, curve.group, narrower))
            if saved <= 0:
                continue
            here = curve.loss(width)
            # A dear first step may lead to cheap ones: the best mean price of any depth counts.
            price = min(
                (curve.loss(w) - here) / (width - w) for w in {*curve.widths, narrower} if w < width
            )
            rated = price * (width - narrower) / saved
            if best is None or rated < best[0]:
                best = rated, curve
        return None if best is None else best[1]

    def _measure(self, around: Plan, base: Candidate, curves: Sequence[_Curve]) -> None:
        """Measure the next point of some curves."""
        queries = [
            self._query(self._narrowed(around, curve.group, curve.next), curve.group, curve.next)
            for curve in curves
            if curve.next is not None
        ]
        for curve, candidate in zip(curves, self._search.judge.judge_all(queries), strict=True):
            group, width = curve.group, curve.next
            loss = (candidate.divergence or 0.0) - (base.divergence or 0.0)
            curve.measured(loss)
            self._search.progress.step(
                f"{group.name}, {width} of {group.width} channels: divergence {loss:+.4f}"
            )

    def _query(self, plan: Plan, group: Group | None = None, width: int = 0) -> Query:
        settings = self._search.settings
        return Query(
            plan=plan,
            step=Greedy.name,
            group=group,
            rate=round(1.0 - width / group.width, 4) if group else 0.0,
            limit=curve_images(settings),
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
