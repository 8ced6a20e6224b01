"""Robustness curves: accuracy with one layer pruned, at each rate (PrimeSVT, step 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.channel_ranking import ChannelRanking
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.ledger import Candidate
from primesvt_deploy.summary.words import points_lost

if TYPE_CHECKING:
    from primesvt_deploy.pruning.policies.base import Judge

__all__ = ["Curve", "Points", "measure_robustness"]

Points = tuple[tuple[float, Candidate], ...]
"""Rates, ascending, and what came of them; two rates may round to one plan, and one candidate."""


@dataclass(frozen=True, repr=False)
class Curve:
    """Accuracy of the model with one layer pruned, at each rate.

    Args:
        group: the layer.
        points: outcome at each rate, ascending.
        within: the rates that keep the accuracy constraint.
    """

    group: Group
    points: tuple[Candidate, ...]
    within: tuple[float, ...]

    def __repr__(self) -> str:
        """The points that are lost at each rate."""
        lost = ", ".join(f"{point.rate:.0%} {point.drop.points:.1f}" for point in self.points)
        return f"Curve({self.group.name}, {self.group.width} channels; points lost: {lost})"

    @classmethod
    def under(cls, constraint: AccuracyConstraint, group: Group, points: Points) -> Curve:
        """The curve of measured points under a constraint."""
        within = tuple(rate for rate, point in points if constraint.keeps(point))
        return cls(group, tuple(point for _, point in points), within)

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


def measure_robustness(
    judge: Judge,
    groups: Sequence[Group],
    ranking: ChannelRanking,
    *,
    rates: Sequence[float],
    limit: int | None = None,
    progress: Progress = SILENT,
) -> tuple[Points, ...]:
    """Outcomes of pruning each group alone at each rate.

    Args:
        judge: evaluates on the search split.
        groups: largest first.
        ranking: of the channels that leave.
        rates: shares of a layer's channels to remove, each in (0, 1).
        limit: images a point at most; a hopeless point is given up sooner.
        progress: gets a step for each point.

    Returns:
        The points of each group.
    """
    unit = f"points of {len(groups)} layers"
    progress.stage("robustness", len(groups) * len(rates), unit)
    return tuple(_points(judge, group, ranking, sorted(rates), limit, progress) for group in groups)


def _points(
    judge: Judge,
    group: Group,
    ranking: ChannelRanking,
    rates: Sequence[float],
    limit: int | None,
    progress: Progress,
) -> Points:
    points: list[tuple[float, Candidate]] = []
    for rate in rates:
        plan = ranking.pruned(Plan(), group, rate)
        if not plan.kept:
            # The channel multiple rounds this rate to the whole layer: nothing would leave.
            progress.step(f"{group.name} at {rate:.0%}: rounds to the whole layer")
            continue
        point = judge.judge(plan, step="robustness", group=group, rate=rate, limit=limit)
        points.append((rate, point))
        progress.step(f"{group.name} at {rate:.0%}: {points_lost(point.drop.points, 1)}")
    return tuple(points)
