"""Policies whose plans lie on a path, fixed beforehand, from the dense model to the smallest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache

from primesvt_deploy.measure.megabytes import millions
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies.base import PolicyOutcome, Search
from primesvt_deploy.pruning.search.ledger import Candidate
from primesvt_deploy.summary.words import points_lost

__all__ = ["AlongPath", "outcome_on_path"]


class AlongPath(ABC):
    """Takes the gentlest plan of its path that meets the budget, if the constraint allows it.

    Where it does not, the deepest plan within the constraint is looked for by bisection.
    """

    name: str

    @abstractmethod
    def path(self, search: Search) -> Sequence[Plan]:
        """Plans in the order of falling size, the first the gentlest."""

    def search(self, search: Search, budget_bytes: int) -> PolicyOutcome:
        """See `Policy.search`."""
        path = search.paths.get(self.name)
        if not isinstance(path, list):
            path = search.paths[self.name] = list(self.path(search))
        return outcome_on_path(self.name, path, search, budget_bytes)


def outcome_on_path(
    name: str, path: Sequence[Plan], search: Search, budget_bytes: int
) -> PolicyOutcome:
    """The outcome of walking a path of plans until the budget is met.

    Args:
        name: of the policy.
        path: plans in the order of falling size.
        search: judges them.
        budget_bytes: bytes that the model file may have.
    """
    size_of = lru_cache(maxsize=None)(search.size_of)
    if not path:
        return _ended(Plan(), None, False, size_of(Plan()), "no layer can lose channels")
    target = _first(path, lambda plan: size_of(plan) <= budget_bytes)
    reached = target is not None
    last = len(path) - 1 if target is None else target
    search.progress.stage(f"{name} policy", max(1, last.bit_length() + 1), "candidates")

    def judged(index: int) -> Candidate:
        candidate = search.held(path[index], step=name)
        search.progress.step(
            f"{millions(size_of(path[index]))[0]} MB: {points_lost(candidate.drop.points, 1)}"
        )
        return candidate

    candidate = judged(last)
    if search.constraint.keeps(candidate):
        reason = "the budget is met" if reached else "all layers are used up"
        return _ended(path[last], candidate, reached, size_of(path[last]), reason)
    refused = candidate
    low, high = -1, last
    best: Candidate | None = None
    while high - low > 1:
        middle = (low + high) // 2
        candidate = judged(middle)
        if search.constraint.keeps(candidate):
            low, best = middle, candidate
        else:
            high, refused = middle, candidate
    plan = path[low] if best is not None else Plan()
    reason = (
        f"the next step down, to {millions(size_of(path[high]))[0]} MB, would lose "
        f"{refused.drop.points:.1f} points, more than {search.constraint.allowed:g}"
    )
    return _ended(plan, best, False, size_of(plan), reason)


def _ended(
    plan: Plan, candidate: Candidate | None, met: bool, size: int, reason: str
) -> PolicyOutcome:
    return PolicyOutcome(
        plan=plan,
        met=met,
        bytes=size,
        drop_points=candidate.drop.points if candidate else 0.0,
        stopped_by=reason,
        steps=(candidate,) if candidate else (),
    )


def _first(path: Sequence[Plan], fits: Callable[[Plan], bool]) -> int | None:
    """Index of the first plan that fits, on a path whose later plans fit as well; by bisection."""
    if not fits(path[-1]):
        return None
    low, high = -1, len(path) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(path[middle]) else (middle, high)
    return high
