"""The prioritized policy against a judge whose accuracies are made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning.policies.analytic import AnalyticJudge, Loss, RankedSpace, group, size_under

from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import PolicyOutcome, Search
from primesvt_deploy.pruning.policies.prioritized import by_size, prioritized
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.robustness import measure_robustness
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


def decide(judge: AnalyticJudge, budget: int, max_drop: float = 3.0) -> PolicyOutcome:
    return prioritized(searched(judge, max_drop), budget_bytes=budget)


def all_curves_first(search: Search, budget: int) -> Plan:
    """The policy as the paper words it: every layer at every rate, then from large to small."""
    ranking, size_of, keeps = search.space.by_norm, search.size_of, search.constraint.keeps
    within = {}
    for layer in search.space.groups:
        plans = {rate: ranking.pruned(Plan(), layer, rate) for rate in search.settings.rates}
        within[layer.name] = [
            rate
            for rate, plan in plans.items()
            if plan.kept and keeps(search.judge.judge(plan, step="robustness", group=layer))
        ]
    plan = Plan()
    for layer in search.space.groups:
        if size_of(plan) <= budget:
            break
        options = [(r, ranking.pruned(plan, layer, r)) for r in within[layer.name]]
        options = [(rate, option) for rate, option in options if option != plan]
        fitting = [rate for rate, option in options if size_of(option) <= budget]
        for rate, option in reversed(options):
            if fitting and rate > fitting[0]:
                continue
            if keeps(search.judge.judge(option, step="prioritized")):
                plan = option
                break
    return plan


LARGE, MIDDLE, SMALL = group("large", size=3000), group("middle", size=2000), group("small")


def test_the_largest_layer_goes_first_and_no_further_than_needed() -> None:
    judge = AnalyticJudge((LARGE, MIDDLE, SMALL), {"large": 0.1, "middle": 0.0, "small": 0.0})
    outcome = decide(judge, budget=6000 - 1200)
    assert outcome.met
    assert [(step.group, step.rate) for step in outcome.steps] == [("large", 0.4)]
    assert outcome.plan.widths(judge.groups) == {"large": 6, "middle": 10, "small": 10}
    # Neither deeper rates nor other layers were even asked for.
    assert judge.asked == [("robustness", "large", 0.4), ("prioritized", "large", 0.4)]
    (curve,) = outcome.curves
    assert (curve.group, curve.within) == (LARGE, (0.4,))


def test_each_layer_is_pruned_at_the_deepest_rate_within_the_constraint() -> None:
    judge = AnalyticJudge((LARGE, MIDDLE, SMALL), {"large": 0.5, "middle": 0.2, "small": 0.0})
    outcome = decide(judge, budget=2600)
    # large: 6 channels cost 3.0 points; middle: nothing is left to lose; small is free.
    assert [(step.group, step.rate) for step in outcome.steps] == [("large", 0.6), ("small", 0.8)]
    assert outcome.drop_points == pytest.approx(3.0)
    assert not outcome.met
    assert outcome.bytes == 1200 + 2000 + 200


def test_a_fragile_layer_is_no_target_however_large() -> None:
    judge = AnalyticJudge((LARGE, MIDDLE), {"large": 2.0, "middle": 0.1})
    outcome = decide(judge, budget=4000)
    assert [curve.is_target for curve in outcome.curves] == [False, True]
    assert outcome.met
    assert outcome.plan["large"] is None
    assert ("prioritized", "large") not in {(step, name) for step, name, _ in judge.asked}


def test_running_out_of_targets_says_what_stopped_it() -> None:
    judge = AnalyticJudge((LARGE, MIDDLE), {"large": 0.5, "middle": 0.3})
    outcome = decide(judge, budget=100)
    assert not outcome.met
    assert "used up" in outcome.stopped_by
    assert "middle at 20% would lose 3.6 points, more than 3" in outcome.stopped_by


def test_no_target_at_all_keeps_the_dense_model() -> None:
    judge = AnalyticJudge((LARGE,), {"large": 9.0})
    outcome = decide(judge, budget=100)
    assert outcome.plan == Plan()
    assert outcome.drop_points == 0.0
    assert "no layer can lose channels" in outcome.stopped_by


SHAPES: dict[str, Callable[[float, Sequence[int]], float]] = {
    "even": lambda dear, gone: dear * len(gone),
    "all or nothing": lambda dear, gone: 4 * dear * (len(gone) > 3),
    "worst in the middle": lambda dear, gone: dear * len(gone) * (10 - len(gone)) / 3,
    "free": lambda dear, gone: 0.0,
}
"""Points lost with so many of 10 channels gone; not all of them grow."""


@given(
    layers=st.lists(
        st.tuples(st.sampled_from(sorted(SHAPES)), st.floats(0.05, 2.0), st.integers(5, 40)),
        min_size=1,
        max_size=5,
    ),
    budget=st.floats(0.05, 1.0),
    max_drop=st.sampled_from([0.0, 0.5, 2.0, 6.0]),
)
@settings(deadline=None, max_examples=150, derandomize=True)
def test_measuring_what_is_needed_leads_to_the_plan_of_measuring_everything(
    layers: list[tuple[str, float, int]], budget: float, max_drop: float
) -> None:
    groups = tuple(group(f"layer{i}", size=100 * size) for i, (_, _, size) in enumerate(layers))
    losses: dict[str, Loss] = {
        each.name: partial(SHAPES[shape], dear)
        for each, (shape, dear, _) in zip(groups, layers, strict=True)
    }
    lazy, eager = AnalyticJudge(groups, losses), AnalyticJudge(groups, losses)
    size = int(budget * sum(each.size for each in groups))
    outcome = decide(lazy, size, max_drop)
    assert outcome.plan == all_curves_first(searched(eager, max_drop), size)
    assert outcome.met is (outcome.bytes <= size)
    assert {c.key for c in lazy.candidates} <= {c.key for c in eager.candidates}


def test_curves_hold_every_rate_of_every_layer() -> None:
    judge = AnalyticJudge((LARGE, MIDDLE), {"large": 1.0, "middle": 0.25})
    space, constraint = RankedSpace(judge.groups), AccuracyConstraint(3.0)
    curves = measure_robustness(judge, judge.groups, space.by_norm, constraint, rates=RATES)
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
    judge = AnalyticJudge((narrow,), {"narrow": 1.0})
    ranking, constraint = RankedSpace((narrow,)).by_norm, AccuracyConstraint(3.0)
    (curve,) = measure_robustness(judge, (narrow,), ranking, constraint, rates=RATES)
    assert [(point.rate, point.kept) for point in curve.points] == [(0.6, 1), (0.8, 1)]
    assert curve.within == (0.6, 0.8)
    assert len(judge.candidates) == 1


def test_points_that_are_reserved_are_not_there_to_lose() -> None:
    judge = AnalyticJudge((LARGE,), {"large": 0.5})
    search = replace(searched(judge), constraint=AccuracyConstraint(3.0, reserved=1.5))
    outcome = prioritized(search, budget_bytes=100)
    assert outcome.plan.widths((LARGE,)) == {"large": 8}, "1 of the 1.5 points that are left"
    assert not outcome.met
