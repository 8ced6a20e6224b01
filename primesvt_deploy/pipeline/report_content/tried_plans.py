"""The candidates that a search tried, and what a policy measured of each group on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies.greedy import Greedy
from primesvt_deploy.pruning.search.from_ledger import plan_of
from primesvt_deploy.pruning.search.ledger import Candidate
from primesvt_deploy.report.content import Sensitivity, TriedPlan

__all__ = ["MOST_TRIED", "sensitivities", "tried_plans"]

MOST_TRIED = 2000
"""Candidates that a report shows, at most."""
_FREE = "free"
"""Step of the candidate without constant channels."""


def tried_plans(
    candidates: Iterable[Candidate],
    accepted: Iterable[Candidate],
    groups: Sequence[Group],
    size_of: Callable[[Plan], int],
) -> tuple[TriedPlan, ...]:
    """The candidates of a ledger, without the dense model, in the order they were evaluated.

    Of more than `MOST_TRIED` those that were accepted stay, then those that were judged on all
    their images, then the others; of the kind that does not fit every so many, evenly.

    Args:
        candidates: of the ledger.
        accepted: those on the way to the chosen plan.
        groups: of the dense model; candidates of other groups are left out.
        size_of: predicted bytes of what the budget counts, under a plan.
    """
    chosen = {candidate.key for candidate in accepted}
    pruned = [c for c in candidates if c.channels]
    shown = []
    for candidate in _most_telling(pruned, chosen):
        plan = plan_of(candidate, groups)
        if plan is not None:
            shown.append(_tried(candidate, size_of(plan), candidate.key in chosen))
    return tuple(shown)


def _most_telling(
    candidates: Sequence[Candidate], accepted: set[tuple[str, int]]
) -> list[Candidate]:
    kinds: tuple[list[int], ...] = ([], [], [])
    for index, candidate in enumerate(candidates):
        kind = 0 if candidate.key in accepted else 1 + (not candidate.whole)
        kinds[kind].append(index)
    kept: list[int] = []
    for indices in kinds:
        left = MOST_TRIED - len(kept)
        if len(indices) > left:
            indices = [indices[len(indices) * i // left] for i in range(left)]
        kept += indices
    return [candidates[index] for index in sorted(kept)]


def _tried(candidate: Candidate, size: int, accepted: bool) -> TriedPlan:
    low, high = candidate.drop.interval()
    return TriedPlan(
        step=candidate.step,
        group=candidate.group,
        rate=candidate.rate,
        bytes=size,
        drop=round(candidate.drop.points, 4),
        low=round(low, 4),
        high=round(high, 4),
        n=candidate.n,
        decision=candidate.decision,
        accepted=accepted,
    )


def sensitivities(
    candidates: Iterable[Candidate], groups: Sequence[Group]
) -> tuple[Sensitivity, ...]:
    """Divergence with each group narrowed, as the greedy policy measured it first.

    It measures again around later plans: those curves answer another question and are left out.

    Args:
        candidates: of the ledger, in order.
        groups: of the dense model, in the order of the result; a group without points has none.
    """
    known = list(candidates)
    own = [c for c in known if c.step == Greedy.name and c.divergence is not None]
    around = _first_plan(known, own)
    points: dict[str, dict[float, float]] = {group.name: {} for group in groups}
    for candidate in own:
        group, divergence = candidate.group, candidate.divergence
        others = {k: v for k, v in candidate.channels.items() if k != group}
        same = others == {k: v for k, v in around.items() if k != group}
        if group in points and same and divergence is not None:
            points[group][candidate.rate] = divergence
    return tuple(
        Sensitivity(
            group=name,
            rates=tuple(sorted(found)),
            values=tuple(round(found[rate], 6) for rate in sorted(found)),
        )
        for name, found in points.items()
        if found
    )


def _first_plan(known: Sequence[Candidate], own: Sequence[Candidate]) -> Mapping[str, str]:
    """Channels of the plan that the first curves lie around, as the ledger has them.

    It is judged first, unless that was done before: then it is the dense model, or that without
    its constant channels.
    """
    if own and not own[0].group:
        return own[0].channels
    free = (candidate.channels for candidate in known if candidate.step == _FREE)
    return next(free, {})
