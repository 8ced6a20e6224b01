"""PrimeSVT's prioritized policy: from the largest layer to the smallest, until it fits.

Given a budget in bytes and the points of accuracy that may be lost:

1. layers are sorted by size, largest first;
2. a layer is a target if some rate, with that layer pruned alone, keeps the constraint;
3. each target in turn is pruned at the largest rate that keeps the cumulative accuracy within
   the constraint, yet no further than the budget asks; it ends as soon as the budget is met;
4. if targets run out first, the outcome says so and what stopped it.

What a layer loses alone (2) is measured when its turn comes, and only at rates that are to be
tried: the paper's order of work, all curves first, leads to the same plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.measure.megabytes import millions
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies.base import PolicyOutcome, Search
from primesvt_deploy.pruning.search.ledger import Candidate
from primesvt_deploy.pruning.search.robustness import Curve, LayerRobustness
from primesvt_deploy.pruning.search.space import SearchSpace
from primesvt_deploy.summary.words import points_lost

__all__ = ["Prioritized", "by_size", "prioritized"]


class Prioritized:
    """The paper's policy and ranking of channels (the L2 norm of their filters)."""

    name = "prioritized"

    def search(self, search: Search, budget_bytes: int) -> PolicyOutcome:
        """See `Policy.search`."""
        return prioritized(search, budget_bytes=budget_bytes)


def prioritized(search: Search, *, budget_bytes: int) -> PolicyOutcome:
    """Compress from the largest target layer to the smallest until the budget is met.

    Args:
        search: evaluates plans on the search split.
        budget_bytes: bytes that the model file may have.
    """
    size_of, progress, groups = search.size_of, search.progress, search.space.groups
    progress.stage("prioritized policy", 1 + len(groups), "steps down")
    plan, start = search.start()
    steps = [start] if start else []
    progress.step(f"without constant channels: {millions(size_of(plan))[0]} MB" if start else "")
    curves: list[Curve] = []
    refused: Candidate | None = None
    for group in groups:
        if size_of(plan) <= budget_bytes:
            break
        layer = _robustness(search, group)
        accepted, rejected = _deepest_within(search, layer, plan, budget_bytes)
        curves.append(layer.curve())
        refused = rejected or refused
        if accepted is None:
            reason = "no rate keeps the constraint any more" if rejected else "is left as it is"
            progress.step(f"{group.name}: {reason}")
            continue
        plan, candidate = accepted
        steps.append(candidate)
        progress.step(
            f"{group.name} at {candidate.rate:.0%}: {millions(size_of(plan))[0]} MB, "
            f"{points_lost(candidate.drop.points, 1)}"
        )
    met = size_of(plan) <= budget_bytes
    targets = sum(curve.is_target for curve in curves)
    return PolicyOutcome(
        plan=plan,
        met=met,
        bytes=size_of(plan),
        drop_points=steps[-1].drop.points if steps else 0.0,
        stopped_by=_reason(met, targets, len(groups), search.constraint.allowed, refused),
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


def _robustness(search: Search, group: Group) -> LayerRobustness:
    """Robustness of a layer under the search's constraint, measured as it is asked for."""

    def judged(plan: Plan, rate: float) -> Candidate:
        limit = search.settings.robustness_images
        return search.held(plan, step="robustness", group=group, rate=rate, limit=limit)

    return LayerRobustness(group, search.space.by_norm, search.constraint, judged)


def _deepest_within(
    search: Search, layer: LayerRobustness, plan: Plan, budget_bytes: int
) -> tuple[tuple[Plan, Candidate] | None, Candidate | None]:
    """The deepest rate that keeps the constraint on top of `plan`, and the last one refused.

    Only rates that keep it with the layer alone pruned are tried, and none deeper than the
    gentlest of them that meets the budget. Deeper rates may lose less, so that each is measured.
    """
    ranking, size_of = search.space.by_norm, search.size_of
    rates = search.settings.rates
    options = [(rate, ranking.pruned(plan, layer.group, rate)) for rate in rates]
    # Without its constant channels it may be narrower than a rate would make it.
    options = [(rate, option) for rate, option in options if option != plan]
    fitting = (rate for rate, option in options if size_of(option) <= budget_bytes)
    deepest = next((rate for rate in fitting if layer.keeps(rate)), None)
    refused: Candidate | None = None
    for rate, option in reversed(options):
        if (deepest is not None and rate > deepest) or not layer.keeps(rate):
            continue
        candidate = search.held(option, step="prioritized", group=layer.group, rate=rate)
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
