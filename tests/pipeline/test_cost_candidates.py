"""Seconds of candidates: behind cached states, on several workers, and their recovery."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primesvt_deploy.measure.span import Span
from primesvt_deploy.pipeline.cost_candidates import CandidateCost
from primesvt_deploy.pipeline.cost_pace import Pace, SegmentPace
from primesvt_deploy.pruning.policies.work import Visit, Work

SEGMENT = SegmentPace(forward_s=1.0, match_s=2.0, keep_s=0.5, state_bytes=10.0)
PACE = Pace(
    segments=(SEGMENT,) * 4,
    entrance={"first": 0, "second": 1, "last": 3},
    batch=32,
    load_s=0.25,
    activation_bytes=0,
    matched_images=64,
    recovery_s={"first": 7.0, "second": 5.0, "last": 3.0},
)
COST = CandidateCost(pace=PACE, dense_images=1000, cache_bytes=10**9, chunk=128)


def work(
    *visits: tuple[str | None, float],
    images: float = 256,
    around_dense: bool = False,
    accumulates: bool = False,
) -> Work:
    made = (
        Visit(
            step="a step",
            group=group,
            candidates=Span.exactly(count),
            images=Span.exactly(images),
            around_dense=around_dense,
        )
        for group, count in visits
    )
    return Work(stage="a stage", visits=tuple(made), accumulates=accumulates)


def test_candidates_behind_the_dense_prefix_pay_from_their_entrance_on() -> None:
    found = COST.seconds(work(("last", 2.0), around_dense=True))
    assert found == Span.exactly(2.0 * (3.0 + 64 * 2.0 + 256 * 1.0))


def test_where_states_do_not_fit_all_start_from_the_images() -> None:
    little = replace(COST, cache_bytes=100)
    found = little.seconds(work(("last", 2.0), around_dense=True))
    assert found == Span.exactly(2.0 * (3.0 + 64 * 8.0 + 256 * 4.25))


def test_around_another_plan_the_first_of_a_group_goes_on_from_the_group_before() -> None:
    found = COST.seconds(work(("second", 1.0), ("last", 2.0)))
    from_images, from_second, from_last = (
        64 * match + 256 * forward for match, forward in ((8.0, 4.25), (6.0, 3.0), (2.0, 1.0))
    )
    assert found.likely == (5.0 + from_images) + (3.0 + from_second) + (3.0 + from_last)
    growing = COST.seconds(work(("last", 1.0), ("second", 1.0), accumulates=True))
    assert growing.likely == (3.0 + from_images) + (5.0 + from_images)


def test_a_plan_as_a_whole_is_as_much_cheaper_as_it_is_smaller() -> None:
    whole, half = (COST.whole(100, share) for share in (1.0, 0.5))
    assert (whole, half) == (425.0, 225.0)
    assert COST.whole(100, keeping=True) == 625.0


def test_workers_share_images_in_whole_chunks_but_each_recovers() -> None:
    two = replace(COST, workers=2)
    for images, busiest in ((128, 128), (256, 128), (300, 256), (100, 100)):
        found = two.seconds(work(("last", 1.0), images=images, around_dense=True))
        assert found.likely == 3.0 + 64 * 2.0 + busiest


@given(st.integers(1, 20_000), st.integers(1, 600), st.integers(1, 600))
def test_more_workers_are_never_slower(images: int, few: int, more: int) -> None:
    few, more = sorted((few, more))
    visited = work((None, 1.0), ("first", 3.0), images=images)
    times = [replace(COST, workers=n).seconds(visited).likely for n in (1, few, more)]
    assert times == sorted(times, reverse=True)
    assert times[-1] >= 3 * 7.0 + 4 * 64 * 8.0  # every worker recovers every candidate


def test_without_recovery_only_images_are_paid() -> None:
    bare = replace(COST, pace=replace(PACE, matched_images=0, recovery_s={}))
    assert bare.recovery("first") == 0.0
    found = bare.seconds(work(("last", 1.0), around_dense=True)).likely
    assert found == pytest.approx(256.0)


def test_no_more_states_are_expected_than_may_be_kept() -> None:
    assert COST.state_bytes(1000) == 20_000
    assert replace(COST, cache_bytes=500).state_bytes(1000) == 500
