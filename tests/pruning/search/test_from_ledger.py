from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pruning.policies.test_prioritized import group

from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.from_ledger import best_in_ledger
from primesvt_deploy.pruning.search.ledger import Candidate

GROUP = group("layer", width=10)


def candidate(width: int, lost: int, *, n: int = 100, **decided: Any) -> Candidate:
    plan = Plan().replacing("layer", range(width)) if width < 10 else Plan()
    return Candidate(
        plan=plan.digest, limit=100, step="greedy", correct=0, lost=lost, gained=0, n=n,
        seconds=0.0, channels=plan.packed([GROUP]), **decided,
    )  # fmt: skip


LEDGER = [candidate(10, 0), candidate(8, 1), candidate(6, 1), candidate(4, 3), candidate(2, 30)]


def ask(budget: int | None, allowed: float | None) -> tuple[int, bool]:
    found = best_in_ledger(
        LEDGER,
        groups=[GROUP],
        images=100,
        size_of=lambda plan: plan.widths([GROUP])["layer"],
        budget_bytes=budget,
        allowed=allowed,
    )
    assert found.bytes == found.plan.widths([GROUP])["layer"]
    return found.bytes, found.met


@pytest.mark.parametrize(
    ("budget", "allowed", "expected"),
    [
        (9, 3.0, (6, True)),  # as accurate as 8 channels, and smaller
        (5, 3.0, (4, True)),
        (None, 1.0, (6, True)),
        (None, 3.0, (4, True)),
        (None, None, (2, True)),
        (1, 3.0, (4, False)),
        (3, None, (2, True)),
    ],
)
def test_the_best_in_ledger_candidate(
    budget: int | None, allowed: float | None, expected: tuple[int, bool]
) -> None:
    assert ask(budget, allowed) == expected


def test_what_was_neither_seen_whole_nor_decided_does_not_count() -> None:
    beyond = candidate(3, 0, n=60, decision="beyond", allowed=1.0)
    laxer = candidate(4, 0, n=60, decision="within", allowed=5.0)
    found = best_in_ledger(
        [candidate(2, 0, n=50), beyond, laxer, candidate(10, 0, n=30)],
        groups=[GROUP],
        images=100,
        size_of=lambda plan: plan.widths([GROUP])["layer"],
        budget_bytes=None,
        allowed=3.0,
    )
    assert found.plan == Plan()


def test_what_was_decided_within_counts_as_losing_what_it_may_lose() -> None:
    surely = candidate(6, 0, n=60, decision="within", allowed=3.0)
    gentler = candidate(8, 2)
    for known, allowed, expected in (
        ([surely], 3.0, surely),
        ([surely], 4.0, surely),
        ([surely, gentler], 3.0, gentler),
    ):
        found = best_in_ledger(
            known,
            groups=[GROUP],
            images=100,
            size_of=lambda plan: plan.widths([GROUP])["layer"],
            budget_bytes=9,
            allowed=allowed,
        )
        assert found.steps == (expected,)
    assert surely.drop.interval()[1] > 2.0


def test_candidates_of_other_channels_do_not_count() -> None:
    fitting, packed = candidate(6, 1), Plan().replacing("layer", range(2)).packed([GROUP])
    strange = {
        "another group": {"other": packed["layer"]},
        "more channels than there are": {"layer": "ffff"},
        "more bytes than there are": {"layer": packed["layer"] + "00"},
        "no channel left": {"layer": "0000"},
        "another plan than it is named for": packed,
    }
    for name, channels in strange.items():
        found = best_in_ledger(
            [replace(fitting, lost=0, channels=channels), fitting],
            groups=[GROUP],
            images=100,
            size_of=lambda plan: plan.widths([GROUP])["layer"],
            budget_bytes=9,
            allowed=3.0,
        )
        assert found.steps == (fitting,), name


def test_where_nothing_keeps_the_constraint_that_is_said() -> None:
    found = best_in_ledger(
        [candidate(8, 50)],
        groups=[GROUP],
        images=100,
        size_of=lambda _: 1,
        budget_bytes=5,
        allowed=1.0,
    )
    assert not found.met
    assert "no candidate" in found.stopped_by
    assert found.plan == Plan()


def test_without_a_constraint_none_is_named() -> None:
    found = best_in_ledger(
        [candidate(8, 50)],
        groups=[GROUP],
        images=100,
        size_of=lambda _: 9,
        budget_bytes=5,
        allowed=None,
    )
    assert not found.met
    assert "constraint" not in found.stopped_by
