"""What every pruning policy is given, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.channel_ranking import Choice
from primesvt_deploy.pruning.search.judge import Judge
from primesvt_deploy.pruning.search.ledger import Candidate
from primesvt_deploy.pruning.search.robustness import Curve, measure_robustness
from primesvt_deploy.settings import SearchSettings

__all__ = ["Policy", "PolicyOutcome", "Search"]


@dataclass(frozen=True, kw_only=True)
class PolicyOutcome:
    """What a policy found.

    Args:
        plan: the channels that stay.
        met: whether its bytes are within the budget.
        bytes: of the model file under the plan, as predicted.
        drop_points: lost on the search images by the plan (0 for the dense model); None where
            nothing was evaluated.
        stopped_by: one sentence: why it ended where it did.
        steps: accepted candidates, in order.
        curves: robustness of every layer, where the policy measured it.
    """

    plan: Plan
    met: bool
    bytes: int
    drop_points: float | None
    stopped_by: str
    steps: tuple[Candidate, ...]
    curves: tuple[Curve, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `plan.json`."""
        return {
            "met": self.met,
            "predicted_bytes": self.bytes,
            "search_drop_points": None if self.drop_points is None else round(self.drop_points, 4),
            "stopped_by": self.stopped_by,
            "steps": [
                {
                    "layer": s.group or "all",
                    "rate": s.rate,
                    "kept": s.kept,
                    "drop": s.drop.to_dict(),
                }
                for s in self.steps
            ],
        }


@dataclass(kw_only=True)
class Search:
    """One model's search: who judges, what is counted; shared by all budgets and policies.

    Args:
        judge: evaluates plans on the search split and remembers them.
        settings: rates, images, constraint, seed.
        size_of: predicted bytes of what the budget counts, under a plan.
        progress: told of each candidate.
        memory: what a policy keeps between budgets, by its name.
    """

    judge: Judge
    settings: SearchSettings
    size_of: Callable[[Plan], int]
    progress: Progress = SILENT
    memory: dict[str, object] = field(default_factory=dict)
    _curves: dict[str, tuple[Curve, ...]] = field(default_factory=dict)

    def curves(self, importance: str, choice: Choice) -> tuple[Curve, ...]:
        """Robustness curves of all layers, measured once for each way to choose channels.

        Args:
            importance: names the choice.
            choice: of the channels that leave.
        """
        if importance not in self._curves:
            self._curves[importance] = measure_robustness(
                self.judge,
                rates=self.settings.rates,
                limit=self.settings.robustness_images,
                choice=choice,
                progress=self.progress,
            )
        return self._curves[importance]


class Policy(Protocol):
    """Decides which channels leave a model so that it fits a budget."""

    name: str

    def search(self, search: Search, budget_bytes: int) -> PolicyOutcome:
        """The plan that meets the budget within the accuracy constraint, else the best found."""
