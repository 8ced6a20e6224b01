from __future__ import annotations

from dataclasses import replace

import pytest
from pruning.policies.test_prioritized import group

from primesvt_deploy.pipeline.report_content import tried_plans as module
from primesvt_deploy.pipeline.report_content.tried_plans import sensitivities, tried_plans
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.ledger import Candidate

GROUPS = [group("a", width=8), group("b", width=8)]


def candidate(n: int = 100, step: str = "greedy", **widths: int) -> Candidate:
    """One with the first channels of some groups left."""
    plan = Plan(tuple((name, tuple(range(width))) for name, width in widths.items()))
    return Candidate(
        plan=plan.digest, limit=100, step=step, correct=n - 3, lost=3, gained=1, n=n,
        seconds=0.0, channels=plan.packed(GROUPS), allowed=None if n == 100 else 1.0,
        decision="" if n == 100 else "beyond",
    )  # fmt: skip


def narrowed(name: str, rate: float, divergence: float, **widths: int) -> Candidate:
    """One of the greedy policy, of which a group was narrowed."""
    return replace(candidate(**widths), group=name, rate=rate, divergence=divergence)


def size_of(plan: Plan) -> int:
    return 10 * sum(plan.widths(GROUPS).values())


def test_a_candidate_is_told_with_bytes_and_interval() -> None:
    ledger = [
        candidate(step="dense"),
        replace(candidate(n=40, step="robustness", a=4), group="a", rate=0.5),
        candidate(a=4, b=2),
    ]
    first, second = tried_plans(ledger, [ledger[2]], GROUPS, size_of)
    assert (first.step, first.group, first.rate, first.bytes) == ("robustness", "a", 0.5, 120)
    assert (first.n, first.decision, first.accepted) == (40, "beyond", False)
    assert (second.bytes, second.drop, second.accepted) == (60, 2.0, True)
    assert second.low < 2.0 < second.high
    assert first.high - first.low > second.high - second.low


def test_candidates_of_other_groups_are_left_out() -> None:
    foreign = replace(candidate(a=4), channels={"c": "f0"})
    assert not tried_plans([foreign, replace(candidate(a=4), plan="0" * 16)], [], GROUPS, size_of)


def test_of_many_candidates_the_accepted_and_whole_ones_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_TRIED", 6)
    stopped = [candidate(n=50, a=width) for width in range(1, 7)]
    whole = [candidate(b=width) for width in range(1, 4)]
    accepted = candidate(n=60, a=7)
    found = tried_plans([*stopped, accepted, *whole], [accepted], GROUPS, size_of)
    assert [plan.bytes for plan in found] == [
        *(10 * (a + 8) for a in (1, 4)),  # two of six, evenly
        10 * (7 + 8),
        *(10 * (8 + b) for b in (1, 2, 3)),
    ]
    monkeypatch.setattr(module, "MOST_TRIED", 10)
    assert len(tried_plans([*stopped, accepted, *whole], [accepted], GROUPS, size_of)) == 10


def test_sensitivity_is_that_around_the_first_plan() -> None:
    base = replace(candidate(b=7), divergence=0.1)
    ledger = [
        base,
        narrowed("a", 0.5, 0.3, a=4, b=7),
        narrowed("a", 0.25, 0.2, a=6, b=7),
        narrowed("b", 0.75, 0.4, b=2),
        replace(candidate(a=6, b=4), divergence=0.5),
        narrowed("b", 0.875, 0.9, a=6, b=1),  # around a later plan
        narrowed("a", 0.75, 0.9, a=2, b=4),
    ]
    a, b = sensitivities(ledger, GROUPS)
    assert (a.group, a.rates, a.values) == ("a", (0.25, 0.5), (0.2, 0.3))
    assert (b.group, b.rates, b.values) == ("b", (0.75,), (0.4,))


def test_sensitivity_where_the_first_plan_was_judged_before() -> None:
    curve = [narrowed("a", 0.5, 0.3, a=4), narrowed("b", 0.5, 0.2, b=4)]
    later = replace(candidate(a=6, b=6), divergence=0.5)
    assert len(sensitivities([candidate(step="dense"), *curve, later], GROUPS)) == 2
    free = candidate(step="free", b=7)
    around = [narrowed("a", 0.5, 0.3, a=4, b=7), narrowed("b", 0.5, 0.2, b=4)]
    assert len(sensitivities([free, *around, later], GROUPS)) == 2


def test_other_policies_measure_none() -> None:
    assert not sensitivities([candidate(step="uniform", a=4)], GROUPS)
