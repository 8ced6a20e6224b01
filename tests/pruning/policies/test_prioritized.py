"""The prioritized policy against a judge whose accuracies are made up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pruning.policies.analytic import AnalyticJudge, RankedSpace, group, size_under

from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import PolicyOutcome, Search
from primesvt_deploy.pruning.policies.prioritized import by_size, prioritized
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.robustness import Curve
from primesvt_deploy.settings import SearchSettings

RATES = (0.2, 0.4, 0.6, 0.8)


def searched(judge: AnalyticJudge, max_drop: float = 3.0) -> Search:
    return Search(
        judge=judge,
        space=RankedSpace(judge.groups),
        settings=SearchSettings(rates=RATES),
        constraint=AccuracyConstraint(max_drop),
        size_of=size_under(judge.groups),
    )


def decide(judge: AnalyticJudge, budget: int) -> tuple[PolicyOutcome, tuple[Curve, ...]]:
    search = searched(judge)
    curves = search.curves("l2", search.space.by_norm)
    # What the curves showed is not to be answered from memory below.
    judge.candidates.clear()
    judge._cache.clear()
    return prioritized(search, curves, budget_bytes=budget), curves


LARGE, MIDDLE, SMALL = group("large", size=3000), group("middle", size=2000), group("small")


def test_the_largest_layer_goes_first_and_no_further_than_needed() -> None:
    judge = AnalyticJudge((LARGE, MIDDLE, SMALL), {"large": 0.1, "middle": 0.0, "small": 0.0})
    outcome, _ = decide(judge, budget=6000 - 1200)
    assert outcome.met
    assert [(step.group, step.rate) for step in outcome.steps] == [("large", 0.4)]
    assert outcome.plan.widths(judge.groups) == {"large": 6, "middle": 10, "small": 10}
    # The deeper rates were not even asked for.
    assert judge.asked == [("prioritized", "large", 0.4)]


def test_each_layer_is_pruned_at_the_deepest_rate_within_the_constraint() -> None:
    judge = AnalyticJudge((LARGE, MIDDLE, SMALL), {"large": 0.5, "middle": 0.2, "small": 0.0})
    outcome, _ = decide(judge, budget=2600)
    # large: 6 channels cost 3.0 points; middle: nothing is left to lose; small is free.
    assert [(step.group, step.rate) for step in outcome.steps] == [("large", 0.6), ("small", 0.8)]
    assert outcome.drop_points == pytest.approx(3.0)
    assert not outcome.met
    assert outcome.bytes == 1200 + 2000 + 200


def test_a_fragile_layer_is_no_target_however_large() -> None:
    judge = AnalyticJudge((LARGE, MIDDLE), {"large": 2.0, "middle": 0.1})
    outcome, curves = decide(judge, budget=4000)
    assert [curve.is_target for curve in curves] == [False, True]
    assert outcome.met
    assert outcome.plan["large"] is None
    assert all(name != "large" for _, name, _ in judge.asked)


def test_running_out_of_targets_says_what_stopped_it() -> None:
    judge = AnalyticJudge((LARGE, MIDDLE), {"large": 0.5, "middle": 0.3})
    outcome, _ = decide(judge, budget=100)
    assert not outcome.met
    assert "used up" in outcome.stopped_by
    assert "middle at 20% would lose 3.6 points, more than 3" in outcome.stopped_by


def test_no_target_at_all_keeps_the_dense_model() -> None:
    judge = AnalyticJudge((LARGE,), {"large": 9.0})
    outcome, _ = decide(judge, budget=100)
    assert outcome.plan == Plan()
    assert outcome.drop_points == 0.0
    assert "no layer can lose channels" in outcome.stopped_by


def test_curves_hold_every_rate_of_every_layer() -> None:
    judge = AnalyticJudge((LARGE, MIDDLE), {"large": 1.0, "middle": 0.25})
    search = searched(judge)
    curves = search.curves("l2", search.space.by_norm)
    assert [[p.rate for p in curve.points] for curve in curves] == [list(RATES)] * 2
    assert [curve.within for curve in curves] == [(0.2,), RATES]
    assert curves[1].points[-1].drop.points == pytest.approx(2.0)


def test_where_no_accuracy_is_demanded_sizes_alone_decide() -> None:
    groups = (group("big", size=10_000), group("small", size=1_000))

    def outcome(budget: int) -> PolicyOutcome:
        return by_size(
            RankedSpace(groups), rates=RATES, budget_bytes=budget, size_of=size_under(groups)
        )

    gentle = outcome(7_000)
    assert gentle.met
    assert gentle.plan.widths(groups) == {"big": 6, "small": 10}, "the gentlest rate that fits"
    deep = outcome(2_500)
    assert deep.met
    assert deep.plan.widths(groups) == {"big": 2, "small": 4}, "the largest goes as far as it can"
    beyond = outcome(100)
    assert not beyond.met
    assert (
        beyond.stopped_by == "all 2 layers that can be pruned are used up at the rates of the grid"
    )


def test_two_rates_that_round_to_one_width_are_one_candidate_and_two_rates_within() -> None:
    narrow = group("narrow", width=2)
    search = searched(AnalyticJudge((narrow,), {"narrow": 1.0}))
    (curve,) = search.curves("l2", search.space.by_norm)
    assert [(point.rate, point.kept) for point in curve.points] == [(0.6, 1), (0.6, 1)]
    assert curve.within == (0.6, 0.8)


def test_curves_are_measured_once_and_read_under_every_constraint() -> None:
    judge = AnalyticJudge((LARGE, MIDDLE), {"large": 1.0, "middle": 0.25})
    strict = searched(judge)
    before = strict.curves("l2", strict.space.by_norm)
    asked = len(judge.candidates)
    lenient = replace(strict, constraint=AccuracyConstraint(6.0))
    after = lenient.curves("l2", lenient.space.by_norm)
    assert len(judge.candidates) == asked
    assert [curve.within for curve in before] == [(0.2,), RATES]
    assert [curve.within for curve in after] == [(0.2, 0.4, 0.6), RATES]


def test_points_that_are_reserved_are_not_there_to_lose() -> None:
    judge = AnalyticJudge((LARGE,), {"large": 0.5})
    search = replace(searched(judge), constraint=AccuracyConstraint(3.0, reserved=1.5))
    outcome = prioritized(search, search.curves("l2", search.space.by_norm), budget_bytes=100)
    assert outcome.plan.widths((LARGE,)) == {"large": 8}, "1 of the 1.5 points that are left"
    assert not outcome.met
