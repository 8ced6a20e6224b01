"""What keeps the accuracy constraint."""

from __future__ import annotations

from dataclasses import replace

import pytest

from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.ledger import Candidate


def losing(lost: int, n: int = 100) -> Candidate:
    """A candidate that loses so many of the images seen, of 100."""
    return Candidate(
        plan="", limit=100, step="greedy", correct=80 - lost, lost=lost, gained=0, n=n, seconds=0.0
    )


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


def test_what_was_decided_early_counts_under_its_limit_and_laxer_ones() -> None:
    surely = replace(losing(1, n=90), decision="within", allowed=3.0)
    assert AccuracyConstraint(3.0).keeps(surely)
    assert AccuracyConstraint(5.0).keeps(surely)
    assert not AccuracyConstraint(2.0).keeps(surely), "that has not been decided"
    assert surely.within(2.0) is None
    beyond = replace(losing(50, n=60), decision="beyond", allowed=3.0)
    assert beyond.within(3.0) is False
    assert beyond.within(2.0) is False
    assert beyond.within(4.0) is None
    assert not AccuracyConstraint(4.0).keeps(beyond)


def test_what_was_neither_seen_whole_nor_decided_keeps_nothing() -> None:
    assert losing(0, n=90).within(100.0) is None
    assert not AccuracyConstraint(None).keeps(losing(0, n=90))
