"""The contract of every pruning policy: its inputs, its judge, its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.ledger import Candidate
from primesvt_deploy.pruning.search.query import Query
from primesvt_deploy.pruning.search.robustness import Curve
from primesvt_deploy.pruning.search.space import SearchSpace
from primesvt_deploy.settings import SearchSettings
from primesvt_deploy.summary import megabytes

__all__ = ["Judge", "Policy", "PolicyOutcome", "Search", "step_to_dict"]


class Judge(Protocol):
    """Evaluates plans."""

    def judge(
        self,
        plan: Plan,
        *,
        step: str,
        group: Group | None = None,
        rate: float = 0.0,
        limit: int | None = None,
        allowed: float | None = None,
        estimate: bool = False,
        divergence: bool = False,
    ) -> Candidate:
        """The outcome of `plan`.

        Args:
            plan: channels that stay.
            step: `free`, `robustness`, or the name of the policy.
            group: the group that was varied, if it is one.
            rate: at which rate.
            limit: the images that it is about; default all.
            allowed: points that may be lost on them; it stops once it is sure whether the plan
                loses more. None: all of them are seen.
            estimate: what is surely within goes on all the same, so that its drop is known.
            divergence: with the divergence from the dense model's probabilities; no limit decides.
        """

    def judge_all(self, queries: Sequence[Query]) -> Iterator[Candidate]:
        """The outcomes of plans that do not depend on one another, in their order.

        They may be evaluated side by side. The dense model is evaluated on as many images as the
        largest limit among them, so that this is for those of the same few images.
        """


@dataclass(frozen=True, kw_only=True, repr=False)
class PolicyOutcome:
    """The plan that a policy decided on, and its prediction of it.

    Args:
        plan: the channels that stay.
        met: whether the predicted bytes are within the budget.
        bytes: of the model file under the plan, as predicted.
        drop_points: lost by the plan on the search images that it was judged on (0 for the dense
            model); None where nothing was evaluated.
        stopped_by: one sentence: why it ended where it did.
        steps: accepted candidates, in order.
        curves: robustness of the layers that the policy came to, at the rates that it asked for.
    """

    plan: Plan
    met: bool
    bytes: int
    drop_points: float | None
    stopped_by: str
    steps: tuple[Candidate, ...]
    curves: tuple[Curve, ...] = ()

    def __repr__(self) -> str:
        """Its end, without the way there."""
        met = "within" if self.met else "NOT within"
        return (
            f"PolicyOutcome({megabytes(self.bytes)} predicted, {met} the budget, "
            f"{len(self.steps)} steps: {self.stopped_by})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `plan.json`."""
        return {
            "met": self.met,
            "predicted_bytes": self.bytes,
            "search_drop_points": None if self.drop_points is None else round(self.drop_points, 4),
            "stopped_by": self.stopped_by,
            "steps": [step_to_dict(step) for step in self.steps],
        }


def step_to_dict(step: Candidate) -> dict[str, Any]:
    """Plain values of an accepted candidate for `plan.json`."""
    return {
        "layer": step.group or "all",
        "rate": step.rate,
        "kept": step.kept,
        "drop": step.drop.to_dict(),
    }


@dataclass(frozen=True, kw_only=True)
class Search:
    """One model's search; shared by all budgets and policies.

    Args:
        judge: evaluates plans on the search split.
        space: the channels that can leave.
        settings: rates, images, seed.
        constraint: accuracy that a plan must keep.
        size_of: predicted bytes of what the budget counts, under a plan.
        progress: gets a step for each candidate.
        paths: plans that a policy has found so far, by its name; kept between budgets.
    """

    judge: Judge
    space: SearchSpace
    settings: SearchSettings
    constraint: AccuracyConstraint
    size_of: Callable[[Plan], int]
    progress: Progress = SILENT
    paths: dict[str, object] = field(default_factory=dict)

    def start(self) -> tuple[Plan, Candidate | None]:
        """The plan without constant channels and its outcome, if it keeps the constraint."""
        plan = self.space.without_constants
        if not plan.kept:
            return Plan(), None
        candidate = self.held(plan, step="free")
        return (plan, candidate) if self.constraint.keeps(candidate) else (Plan(), None)

    def held(
        self,
        plan: Plan,
        *,
        step: str,
        group: Group | None = None,
        rate: float = 0.0,
        limit: int | None = None,
    ) -> Candidate:
        """The outcome of `plan` on as many images as it takes to hold it against the constraint.

        Where any drop is allowed, all images are seen: the drop is all that there is to know.
        """
        demanded = self.constraint.max_drop is not None
        return self.judge.judge(
            plan,
            step=step,
            group=group,
            rate=rate,
            limit=limit,
            allowed=self.constraint.allowed if demanded else None,
        )


class Policy(Protocol):
    """Decides which channels leave a model so that it fits a budget."""

    name: str

    def search(self, search: Search, budget_bytes: int) -> PolicyOutcome:
        """The plan that meets the budget within the accuracy constraint, else the best found."""
