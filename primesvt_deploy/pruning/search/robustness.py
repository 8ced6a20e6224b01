"""Robustness curves: accuracy with one layer pruned, at each rate (PrimeSVT, step 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.channel_ranking import ChannelRanking
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.ledger import Candidate
from primesvt_deploy.pruning.search.query import Query
from primesvt_deploy.summary.words import points_lost

if TYPE_CHECKING:
    from primesvt_deploy.pruning.policies.base import Judge

__all__ = ["Curve", "LayerRobustness", "measure_robustness"]


@dataclass(frozen=True, repr=False)
class Curve:
    """Accuracy of the model with one layer pruned, at some rates.

    Args:
        group: the layer.
        points: outcome at each rate that was measured, ascending.
        within: those of the rates that keep the accuracy constraint.
    """

    group: Group
    points: tuple[Candidate, ...]
    within: tuple[float, ...]

    def __repr__(self) -> str:
        """The points that are lost at each rate."""
        lost = ", ".join(f"{point.rate:.0%} {point.drop.points:.1f}" for point in self.points)
        return f"Curve({self.group.name}, {self.group.width} channels; points lost: {lost})"

    @classmethod
    def under(
        cls, constraint: AccuracyConstraint, group: Group, points: Sequence[Candidate]
    ) -> Curve:
        """The curve of measured points under a constraint."""
        within = tuple(point.rate for point in points if constraint.keeps(point))
        return cls(group, tuple(points), within)

    @property
    def is_target(self) -> bool:
        """Whether some rate keeps the constraint."""
        return bool(self.within)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "layer": self.group.name,
            "width": self.group.width,
            "heads": self.group.heads,
            "size": self.group.size,
            "target": self.is_target,
            "curve": [
                {
                    "rate": point.rate,
                    "kept": point.kept,
                    "top1_percent": round(point.accuracy.percent, 3),
                    "drop_points": round(point.drop.points, 3),
                    "n": point.n,
                    "within": point.rate in self.within,
                }
                for point in self.points
            ],
        }


class LayerRobustness:
    """Robustness of one layer, measured at each rate when that is first asked for.

    Args:
        group: the layer.
        ranking: of the channels that leave.
        constraint: accuracy that a rate must keep.
        judged: the outcome of a plan with the layer alone pruned, at a rate.
    """

    def __init__(
        self,
        group: Group,
        ranking: ChannelRanking,
        constraint: AccuracyConstraint,
        judged: Callable[[Plan, float], Candidate],
    ) -> None:
        self.group = group
        self._ranking, self._constraint, self._judged = ranking, constraint, judged
        self._points: dict[float, Candidate | None] = {}

    def point(self, rate: float) -> Candidate | None:
        """The outcome at a rate; None where the rate rounds to the whole layer."""
        if rate not in self._points:
            plan = self._ranking.pruned(Plan(), self.group, rate)
            self._points[rate] = self._judged(plan, rate) if plan.kept else None
        return self._points[rate]

    def keeps(self, rate: float) -> bool:
        """Whether pruning the layer alone at a rate keeps the constraint."""
        point = self.point(rate)
        return point is not None and self._constraint.keeps(point)

    def curve(self) -> Curve:
        """The points that have been measured so far."""
        # Two rates may round to one plan, and one candidate.
        points = sorted(self._points.items(), key=lambda item: item[0])
        found = [replace(point, rate=rate) for rate, point in points if point is not None]
        return Curve.under(self._constraint, self.group, found)


def measure_robustness(
    judge: Judge,
    groups: Sequence[Group],
    ranking: ChannelRanking,
    constraint: AccuracyConstraint,
    *,
    rates: Sequence[float],
    limit: int | None = None,
    progress: Progress = SILENT,
) -> tuple[Curve, ...]:
    """Robustness of each group at each rate, to be shown.

    Args:
        judge: evaluates on the search split.
        groups: largest first.
        ranking: of the channels that leave.
        constraint: accuracy that a rate must keep.
        rates: shares of a layer's channels to remove, each in (0, 1).
        limit: images a point; one that surely loses more than the constraint allows ends sooner.
        progress: gets a step for each point.
    """
    unit = f"points of {len(groups)} layers"
    progress.stage("robustness", len(groups) * len(rates), unit)
    plans = [
        (group, rate, ranking.pruned(Plan(), group, rate))
        for group in groups
        for rate in sorted(rates)
    ]
    judged = judge.judge_all(
        [
            Query(
                plan=plan,
                step="robustness",
                group=group,
                rate=rate,
                limit=limit,
                allowed=constraint.allowed,
                estimate=True,
            )
            for group, rate, plan in plans
            if plan.kept
        ]
    )
    points: dict[str, list[Candidate]] = {group.name: [] for group in groups}
    for group, rate, plan in plans:
        if not plan.kept:
            progress.step(f"{group.name} at {rate:.0%}: rounds to the whole layer")
            continue
        point = replace(next(judged), rate=rate)  # two rates may round to one candidate
        points[group.name].append(point)
        progress.step(f"{group.name} at {rate:.0%}: {points_lost(point.drop.points, 1)}")
    return tuple(Curve.under(constraint, group, points[group.name]) for group in groups)
