"""Choose a plan from a ledger: no model is run, no candidate evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.errors import PruningError
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies.base import PolicyOutcome
from primesvt_deploy.pruning.search.ledger import Candidate

__all__ = ["best_in_ledger", "plan_of"]


def best_in_ledger(
    candidates: Iterable[Candidate],
    *,
    groups: Sequence[Group],
    images: int,
    size_of: Callable[[Plan], int],
    budget_bytes: int | None,
    allowed: float | None,
) -> PolicyOutcome:
    """The best plan among those that were judged on the search images, on all or on some of them.

    With a budget: the one that loses least of those within it; without: the smallest of those
    that lose no more than `allowed`. Where none does both, the smallest within `allowed` and `met`
    is False.

    Args:
        candidates: of a ledger; those whose channels are not of these groups do not count.
        groups: of the model.
        images: search images that candidates are about.
        size_of: predicted bytes of what the budget counts.
        budget_bytes: at most so many; None: as few as `allowed` lets.
        allowed: points that may be lost; None: any.
    """
    known = [
        (candidate, plan, size_of(plan))
        for candidate in candidates
        if candidate.limit == images
        for plan in (plan_of(candidate, groups),)
        if plan is not None
        if not plan.kept or candidate.whole or candidate.decision == "within"
    ]
    # The dense model loses nothing, on however many images it was evaluated.
    within = [k for k in known if allowed is None or not k[1].kept or k[0].within(allowed)]
    fitting = [k for k in within if budget_bytes is not None and k[2] <= budget_bytes]
    if fitting:
        candidate, plan, size = min(fitting, key=lambda k: (_loss(k[0]), k[2]))
    elif within:
        candidate, plan, size = min(within, key=lambda k: (k[2], _loss(k[0])))
    else:
        return PolicyOutcome(
            plan=Plan(), met=False, bytes=size_of(Plan()), drop_points=0.0, steps=(),
            stopped_by="no candidate of the ledger keeps the accuracy constraint",
        )  # fmt: skip
    met = bool(fitting) or budget_bytes is None
    return PolicyOutcome(
        plan=plan,
        met=met,
        bytes=size,
        drop_points=candidate.drop.points,
        stopped_by="the budget is met by a cached candidate"
        if met
        else f"the smallest of {len(known)} cached candidates"
        + (" that keeps the constraint" if allowed is not None else ""),
        steps=(candidate,),
    )


def _loss(candidate: Candidate) -> float:
    """Points that a candidate loses; on few images as many as it may lose, or chance would win."""
    return candidate.drop.points if candidate.whole else candidate.drop.interval()[1]


def plan_of(candidate: Candidate, groups: Sequence[Group]) -> Plan | None:
    """The plan of a candidate, or None: it is no plan of these groups, or not the one it names."""
    plan = Plan.from_packed(candidate.channels)
    try:
        plan.check(groups)
    except PruningError:
        return None
    same = plan.digest == candidate.plan and plan.packed(groups) == candidate.channels
    return plan if same else None
