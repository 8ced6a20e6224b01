"""What keeps the accuracy constraint."""

from __future__ import annotations

import pytest

from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.ledger import Candidate


def losing(lost: int, *, stopped_early: bool = False) -> Candidate:
    """A candidate that loses so many of 100 images."""
    return Candidate(
        plan="", limit=100, step="greedy", correct=80 - lost, lost=lost, gained=0, n=100,
        stopped_early=stopped_early, seconds=0.0,
    )  # fmt: skip


@pytest.mark.parametrize(("max_drop", "reserved", "most"), [(3.0, 0.0, 3), (3.0, 1.5, 1)])
def test_as_much_may_be_lost_as_is_not_reserved(
    max_drop: float, reserved: float, most: int
) -> None:
    constraint = AccuracyConstraint(max_drop, reserved)
    assert constraint.allowed == max_drop - reserved
    assert constraint.keeps(losing(most))
    assert not constraint.keeps(losing(most + 1))


def test_without_a_constraint_everything_may_be_lost() -> None:
    assert AccuracyConstraint(None).allowed == 100.0
    assert AccuracyConstraint(None).keeps(losing(80))


def test_what_was_not_evaluated_to_the_end_keeps_nothing() -> None:
    assert not AccuracyConstraint(None).keeps(losing(0, stopped_early=True))
