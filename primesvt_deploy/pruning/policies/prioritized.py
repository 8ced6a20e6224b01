"""PrimeSVT's prioritized policy: from the largest layer to the smallest, until it fits.

Given a budget in bytes and the points of accuracy that may be lost:

1. layers are sorted by size, largest first;
2. a layer is a target if some rate, with that layer pruned alone, keeps the constraint;
3. each target in turn is pruned at the largest rate that keeps the cumulative accuracy within
   the constraint, yet no further than the budget asks; it ends as soon as the budget is met;
4. if targets run out first, the outcome says so and what stopped it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from primesvt_deploy.measure.megabytes import millions
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies.base import PolicyOutcome, Search
from primesvt_deploy.pruning.search.ledger import Candidate
from primesvt_deploy.pruning.search.robustness import Curve
from primesvt_deploy.pruning.search.space import SearchSpace
from primesvt_deploy.summary.words import points_lost

__all__ = ["Prioritized", "by_size", "prioritized"]


class Prioritized:
    """The paper's policy and ranking of channels (the L2 norm of their filters)."""

    name = "prioritized"

    def search(self, search: Search, budget_bytes: int) -> PolicyOutcome:
        """See `Policy.search`."""
        curves = search.curves("l2", search.space.by_norm)
        return prioritized(search, curves, budget_bytes=budget_bytes)


def prioritized(search: Search, curves: Sequence[Curve], *, budget_bytes: int) -> PolicyOutcome:
    """Compress from the largest target layer to the smallest until the budget is met.

    Args:
        search: evaluates plans on the search split.
        curves: robustness of the layers, largest first.
        budget_bytes: bytes that the model file may have.
    """
    size_of, progress = search.size_of, search.progress
    targets = [curve for curve in curves if curve.is_target]
    progress.stage("prioritized policy", 1 + len(targets), "steps down")
    plan, start = search.start()
    steps = [start] if start else []
    progress.step(f"without constant channels: {millions(size_of(plan))[0]} MB" if start else "")
    refused: Candidate | None = None
    for curve in targets:
        if size_of(plan) <= budget_bytes:
            break
        accepted, rejected = _deepest_within(search, curve, plan, budget_bytes)
        refused = rejected or refused
        if accepted is None:
            progress.step(f"{curve.group.name}: no rate keeps the constraint any more")
            continue
        plan, candidate = accepted
        steps.append(candidate)
        progress.step(
            f"{curve.group.name} at {candidate.rate:.0%}: {millions(size_of(plan))[0]} MB, "
            f"{points_lost(candidate.drop.points, 1)}"
        )
    met = size_of(plan) <= budget_bytes
    return PolicyOutcome(
        plan=plan,
        met=met,
        bytes=size_of(plan),
        drop_points=steps[-1].drop.points if steps else 0.0,
        stopped_by=_reason(met, len(targets), len(curves), search.constraint.allowed, refused),
        steps=tuple(steps),
        curves=tuple(curves),
    )


def by_size(
    space: SearchSpace,
    *,
    rates: Sequence[float],
    budget_bytes: int,
    size_of: Callable[[Plan], int],
) -> PolicyOutcome:
    """The same walk where no accuracy is demanded, so that nothing need be evaluated.

    Constant channels leave first, where calibration shows them. Each layer, from the largest, is
    then pruned at the gentlest rate that meets the budget, else at the largest.
    """
    plan, groups = space.without_constants, space.groups
    for group in groups:
        if size_of(plan) <= budget_bytes:
            break
        options = [space.by_norm.pruned(plan, group, rate) for rate in sorted(rates)]
        fitting = [option for option in options if size_of(option) <= budget_bytes]
        plan = fitting[0] if fitting else options[-1]
    met = size_of(plan) <= budget_bytes
    return PolicyOutcome(
        plan=plan,
        met=met,
        bytes=size_of(plan),
        drop_points=None,
        stopped_by="the budget is met; no accuracy was demanded, none was searched for"
        if met
        else f"all {len(groups)} layers that can be pruned are used up at the rates of the grid",
        steps=(),
    )


def _deepest_within(
    search: Search, curve: Curve, plan: Plan, budget_bytes: int
) -> tuple[tuple[Plan, Candidate] | None, Candidate | None]:
    """The deepest rate that keeps the constraint on top of `plan`, and the last one refused."""
    ranking, size_of = search.space.by_norm, search.size_of
    options = [(rate, ranking.pruned(plan, curve.group, rate)) for rate in curve.within]
    # Without its constant channels it may be narrower than a rate would make it.
    options = [(rate, option) for rate, option in options if option != plan]
    fitting = [rate for rate, option in options if size_of(option) <= budget_bytes]
    # No deeper than the gentlest rate that already meets the budget.
    options = [(rate, p) for rate, p in options if not fitting or rate <= fitting[0]]
    refused: Candidate | None = None
    for rate, option in reversed(options):
        candidate = search.judge.judge(option, step="prioritized", group=curve.group, rate=rate)
        if search.constraint.keeps(candidate):
            return (option, candidate), refused
        refused = candidate
    return None, refused


def _reason(
    met: bool, targets: int, layers: int, max_drop: float, refused: Candidate | None
) -> str:
    if met:
        return "the budget is met"
    if not targets:
        return f"no layer can lose channels within {max_drop:g} points, even alone"
    others = f"the {targets} of {layers} layers that can be pruned are used up"
    if refused is None:
        return f"{others} at the rates of the grid"
    return (
        f"{others}; next, {refused.group} at {refused.rate:.0%} would lose "
        f"{refused.drop.points:.1f} points, more than {max_drop:g}"
    )
