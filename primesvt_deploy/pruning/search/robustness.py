"""Robustness curves: accuracy with one layer pruned, at each rate (PrimeSVT, step 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.channel_ranking import Choice
from primesvt_deploy.pruning.search.judge import Judge
from primesvt_deploy.pruning.search.ledger import Candidate

__all__ = ["Curve", "measure_robustness"]


@dataclass(frozen=True)
class Curve:
    """How one layer takes being pruned alone.

    Args:
        group: the layer.
        points: outcome at each rate, ascending.
        within: the rates that keep the accuracy constraint.
    """

    group: Group
    points: tuple[Candidate, ...]
    within: tuple[float, ...]

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
    *,
    rates: Sequence[float],
    limit: int | None = None,
    choice: Choice | None = None,
    progress: Progress = SILENT,
) -> tuple[Curve, ...]:
    """Curves of every group, largest first.

    Args:
        judge: evaluates on the search split.
        rates: shares of a layer's channels to remove, each in (0, 1).
        limit: images a point at most; a hopeless point is given up sooner.
        choice: of the channels that leave; None: the judge's own.
        progress: told of each point.
    """
    progress.stage("robustness", len(judge.groups) * len(rates))
    pruned = judge.pruned if choice is None else choice.pruned
    return tuple(
        _curve(judge, group, sorted(rates), limit, pruned, progress) for group in judge.groups
    )


def _curve(
    judge: Judge,
    group: Group,
    rates: Sequence[float],
    limit: int | None,
    pruned: Callable[[Plan, Group, float], Plan],
    progress: Progress,
) -> Curve:
    points: list[Candidate] = []
    within: list[float] = []
    for rate in rates:
        plan = pruned(Plan(), group, rate)
        if not plan.kept:
            # The channel multiple rounds this rate to the whole layer: nothing would leave.
            progress.step(f"{group.name} at {rate:.0%}: rounds to the whole layer")
            continue
        point = judge.judge(plan, step="robustness", group=group, rate=rate, limit=limit)
        points.append(point)
        if judge.within(point):
            within.append(rate)
        progress.step(f"{group.name} at {rate:.0%}: {point.drop.points:.1f} points lost")
    return Curve(group, tuple(points), tuple(within))
