"""The prioritized policy against a judge whose accuracies are made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import PolicyOutcome, Search
from primesvt_deploy.pruning.policies.prioritized import by_size, prioritized
from primesvt_deploy.pruning.search.ledger import Candidate
from primesvt_deploy.pruning.search.robustness import Curve, measure_robustness
from primesvt_deploy.settings import SearchSettings

RATES = (0.2, 0.4, 0.6, 0.8)


def group(name: str, width: int = 10, size: int = 0) -> Group:
    return Group(
        name=name, root=f"{name}.conv", width=width, heads=1, outputs=(f"{name}.conv",),
        norms=(), inputs=(), size=size or 100 * width,
    )  # fmt: skip


@dataclass
class MadeUpJudge:
    """Loses `cost[layer]` points for each channel of the layer that is gone."""

    groups: tuple[Group, ...]
    cost: dict[str, float]
    max_drop: float = 3.0
    asked: list[tuple[str, str, float]] = field(default_factory=list)

    @property
    def allowed(self) -> float:
        return self.max_drop

    def pruned(self, plan: Plan, group: Group, rate: float) -> Plan:
        return plan.replacing(group.name, range(group.width - int(rate * group.width)))

    def judge(
        self, plan: Plan, *, step: str, group: Group, rate: float, limit: int | None = None
    ) -> Candidate:
        self.asked.append((step, group.name, rate))
        widths = plan.widths(self.groups)
        lost = sum(self.cost[g.name] * (g.width - widths[g.name]) for g in self.groups)
        return Candidate(
            plan=plan.digest, limit=1000, step=step, group=group.name, rate=rate,
            kept=widths[group.name], correct=0, lost=round(10 * lost), gained=0, n=1000,
            stopped_early=False, seconds=0.0,
        )  # fmt: skip

    def start(self) -> tuple[Plan, None]:
        return Plan(), None

    def within(self, candidate: Candidate) -> bool:
        return candidate.drop.points <= self.max_drop


def bytes_under(groups: tuple[Group, ...]) -> Callable[[Plan], int]:
    def size_of(plan: Plan) -> int:
        widths = plan.widths(groups)
        return sum(group.size * widths[group.name] // group.width for group in groups)

    return size_of


def decide(judge: MadeUpJudge, budget: int) -> tuple[PolicyOutcome, tuple[Curve, ...]]:
    curves = measure_robustness(judge, rates=RATES)  # type: ignore[arg-type]
    judge.asked.clear()
    search = Search(
        judge=judge,  # type: ignore[arg-type]
        settings=SearchSettings(),
        size_of=bytes_under(judge.groups),
    )
    outcome = prioritized(search, curves, budget_bytes=budget)
    return outcome, curves


LARGE, MIDDLE, SMALL = group("large", size=3000), group("middle", size=2000), group("small")


def test_the_largest_layer_goes_first_and_no_further_than_needed() -> None:
    judge = MadeUpJudge((LARGE, MIDDLE, SMALL), {"large": 0.1, "middle": 0.0, "small": 0.0})
    outcome, _ = decide(judge, budget=6000 - 1200)
    assert outcome.met
    assert [(step.group, step.rate) for step in outcome.steps] == [("large", 0.4)]
    assert outcome.plan.widths(judge.groups) == {"large": 6, "middle": 10, "small": 10}
    # The deeper rates were not even asked for.
    assert judge.asked == [("prioritized", "large", 0.4)]


def test_each_layer_is_pruned_at_the_deepest_rate_within_the_constraint() -> None:
    judge = MadeUpJudge((LARGE, MIDDLE, SMALL), {"large": 0.5, "middle": 0.2, "small": 0.0})
    outcome, _ = decide(judge, budget=2600)
    # large: 6 channels cost 3.0 points; middle: nothing is left to lose; small is free.
    assert [(step.group, step.rate) for step in outcome.steps] == [("large", 0.6), ("small", 0.8)]
    assert outcome.drop_points == pytest.approx(3.0)
    assert not outcome.met
    assert outcome.bytes == 1200 + 2000 + 200


def test_a_fragile_layer_is_no_target_however_large() -> None:
    judge = MadeUpJudge((LARGE, MIDDLE), {"large": 2.0, "middle": 0.1})
    outcome, curves = decide(judge, budget=4000)
    assert [curve.is_target for curve in curves] == [False, True]
    assert outcome.met
    assert outcome.plan["large"] is None
    assert all(name != "large" for _, name, _ in judge.asked)


def test_running_out_of_targets_says_what_stopped_it() -> None:
    judge = MadeUpJudge((LARGE, MIDDLE), {"large": 0.5, "middle": 0.3})
    outcome, _ = decide(judge, budget=100)
    assert not outcome.met
    assert "used up" in outcome.stopped_by
    assert "middle at 20% would lose 3.6 points, more than 3" in outcome.stopped_by


def test_no_target_at_all_keeps_the_dense_model() -> None:
    judge = MadeUpJudge((LARGE,), {"large": 9.0})
    outcome, _ = decide(judge, budget=100)
    assert outcome.plan == Plan()
    assert outcome.drop_points == 0.0
    assert "no layer can lose channels" in outcome.stopped_by


def test_curves_hold_every_rate_of_every_layer() -> None:
    judge = MadeUpJudge((LARGE, MIDDLE), {"large": 1.0, "middle": 0.25})
    curves = measure_robustness(judge, rates=RATES)  # type: ignore[arg-type]
    assert [[p.rate for p in curve.points] for curve in curves] == [list(RATES)] * 2
    assert [curve.within for curve in curves] == [(0.2,), RATES]
    assert curves[1].points[-1].drop.points == pytest.approx(2.0)


def test_where_no_accuracy_is_demanded_sizes_alone_decide() -> None:
    groups = (group("big", size=10_000), group("small", size=1_000))
    judge = MadeUpJudge(groups, {"big": 9.0, "small": 9.0})

    def outcome(budget: int) -> PolicyOutcome:
        return by_size(judge, groups, rates=RATES, budget_bytes=budget, size_of=bytes_under(groups))

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
    assert not judge.asked, "nothing was evaluated"
