"""What policies are expected to evaluate, beside what they do evaluate."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from pruning.policies.test_policies import GROUPS, SETTINGS, made_up

from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import POLICIES
from primesvt_deploy.pruning.policies.expected import expected_work, robustness_work
from primesvt_deploy.pruning.policies.expected_images import images_until_sure
from primesvt_deploy.pruning.policies.work import Outset, Work, without_known
from primesvt_deploy.settings import SearchSettings


def outset(settings: SearchSettings, leaves: float | None = 0.3) -> Outset:
    search, _ = made_up(settings)
    whole = search.size_of(Plan())

    def share(widths: dict[str, int]) -> float:
        plan = Plan()
        for name, width in widths.items():
            plan = plan.replacing(name, range(width))
        return search.size_of(plan) / whole

    return Outset(settings=settings, groups=GROUPS, images=5000, leaves=leaves, share_of=share)


def counted(works: list[Work]) -> float:
    return sum(work.candidates.likely for work in works)


@pytest.mark.parametrize("leaves", [0.05, 0.12, 0.3])
def test_greedy_rounds_are_as_many_as_it_takes(leaves: float) -> None:
    settings = replace(SETTINGS, policy="greedy", max_drop=None)
    search, judge = made_up(settings)
    POLICIES["greedy"].search(search, int(search.size_of(Plan()) * (1.0 - leaves)))
    works = expected_work(outset(settings, leaves))
    rounds = sum(work.stage == "sensitivity" for work in works)
    asked = Counter(candidate.group for candidate in judge.candidates)
    # The point around which a round measures is no group's, and neither is the path's last one.
    assert asked[""] == rounds + 1
    assert sum(work.candidates.low for work in works) <= len(judge.candidates)
    assert len(judge.candidates) <= sum(work.candidates.high for work in works)


def test_prioritized_stays_within_its_range() -> None:
    search, judge = made_up()
    POLICIES["prioritized"].search(search, int(0.7 * search.size_of(Plan())))
    (walk,) = expected_work(outset(SETTINGS))
    assert walk.candidates.low <= len(judge.candidates) <= walk.candidates.high


def test_the_more_has_to_leave_the_more_is_evaluated() -> None:
    for policy in ("greedy", "prioritized"):
        settings = replace(SETTINGS, policy=policy)
        counts = [counted(expected_work(outset(settings, leaves))) for leaves in (0.05, 0.3, 0.6)]
        assert counts == sorted(counts) and counts[0] < counts[-1], policy


def test_what_is_known_costs_nothing() -> None:
    settings = replace(SETTINGS, policy="greedy")
    works = expected_work(outset(settings))
    known = [("greedy", "idle")]
    left = without_known(works, known)
    assert counted(works) - counted(left) == 1
    everything = [
        (visit.step, visit.group or "")
        for work in works
        for visit in work.visits
        for _ in range(100)
    ]
    assert counted(without_known(works, everything)) == 0


def test_a_point_that_may_lose_anything_is_seen_on_all_its_images() -> None:
    work = robustness_work(outset(replace(SETTINGS, max_drop=None)))
    assert work.images.is_exact
    assert work.images.likely == pytest.approx(work.candidates.likely * 100)


@pytest.mark.parametrize("allowed", [0.5, 3.0])
@pytest.mark.parametrize("discordant", [0.03, 0.1])
def test_the_farther_from_the_constraint_the_sooner_it_is_sure(
    allowed: float, discordant: float
) -> None:
    beyond = [images_until_sure(allowed * by, allowed, 5000, discordant) for by in (1.2, 2, 5, 10)]
    within = [images_until_sure(allowed * by, allowed, 5000, discordant) for by in (0.9, 0.5, 0.0)]
    for counts in (beyond, within):
        assert counts == sorted(counts, reverse=True)
        assert counts[-1] < counts[0] <= 5000


def test_all_images_are_needed_where_a_candidate_loses_just_what_is_allowed() -> None:
    assert images_until_sure(3.0, 3.0, 1000, 0.1) > 900


def test_a_plan_that_is_reported_is_seen_on_all_images_at_last() -> None:
    for policy in ("greedy", "prioritized", "uniform"):
        asked = outset(replace(SETTINGS, policy=policy))
        plain, whole = (
            expected_work(replace(asked, ends_on_all=ends))[-1] for ends in (False, True)
        )
        assert whole.candidates.likely == plain.candidates.likely + 1
        assert whole.images.likely == plain.images.likely + 5000
        assert whole.compared.low == 5000


def test_layers_before_the_blocks_are_measured_again_once_much_has_left() -> None:
    settings = replace(SETTINGS, policy="greedy")
    early = GROUPS[0].name
    works = expected_work(replace(outset(settings, 0.5), early=[early]))
    rounds = [
        {visit.group: visit.candidates.likely for visit in work.visits}
        for work in works
        if work.stage == "sensitivity"
    ]
    assert len(rounds) == 4
    assert [points[early] > 0.0 for points in rounds] == [True, False, True, True]
    assert all(points[GROUPS[1].name] > points[early] for points in rounds[1:])


def test_a_last_round_is_as_long_as_its_part_of_the_way() -> None:
    settings = replace(SETTINGS, policy="greedy")
    counts = []
    for leaves in (0.26, 0.3, 0.375):
        works = expected_work(outset(settings, leaves))
        *_, last = (work for work in works if work.stage == "sensitivity")
        counts.append(last.candidates.likely)
    assert counts == sorted(counts) and counts[0] < 0.5 * counts[-1]


def test_the_more_leaves_the_more_images_a_greedy_plan_is_judged_on() -> None:
    settings = replace(SETTINGS, policy="greedy", max_drop=3.0)
    seen = [expected_work(outset(settings, leaves))[-1].images.likely for leaves in (0.2, 0.4, 0.6)]
    assert seen == sorted(seen) and seen[0] < seen[-1]
