"""Every policy on made-up losses and on a small live model, and the promise of each alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pruning.policies.analytic import AnalyticJudge, RankedSpace, group, size_under
from recorded_progress import Recorded

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.analysis.groups import find_groups
from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.open_context import search_context
from primesvt_deploy.pipeline.prune import make_search, prune
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import POLICIES, Search
from primesvt_deploy.pruning.policies.path import outcome_on_path
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.pruning.search.space import SearchSpace
from primesvt_deploy.settings import POLICY_NAMES, BuildSettings, SearchSettings

SETTINGS = SearchSettings(
    max_drop=6.0, rates=(0.25, 0.5, 0.75), robustness_images=100, recover=("refit", "norms")
)
FRAGILE, IDLE, HEADS = (
    group("fragile", 32, 6400),
    group("idle", 64, 12800),
    group("heads", 16, heads=2),
)
GROUPS = (IDLE, FRAGILE, HEADS)
LOSSES = {
    # Three quarters of it do nothing; the others are dear.
    "idle": lambda gone: 0.8 * max(0, len(gone) - 48),
    "fragile": lambda gone: 0.4 * len(gone) + 0.02 * len(gone) ** 2,
    "heads": lambda gone: 1.0 * len(gone),
}


def made_up(settings: SearchSettings = SETTINGS) -> tuple[Search, AnalyticJudge]:
    """A search of made-up groups."""
    judge = AnalyticJudge(GROUPS, LOSSES)
    search = Search(
        judge=judge,
        space=RankedSpace(GROUPS, settings.channel_multiple),
        settings=settings,
        constraint=AccuracyConstraint(settings.max_drop),
        size_of=size_under(GROUPS),
        progress=Recorded(),  # which refuses more steps than a stage said
    )
    return search, judge


def on_a_model(model: SViT, settings: SearchSettings = SETTINGS) -> tuple[Search, AnalyticJudge]:
    """A search of a live model's groups, of which each channel costs half a point."""
    groups = find_groups(model.module, model.config.input_shape)
    weights = ShippedSize(model, groups)
    judge = AnalyticJudge(groups, {g.name: 8.0 / g.width for g in groups})
    search = Search(
        judge=judge,
        space=SearchSpace(model, groups, channel_multiple=settings.channel_multiple),
        settings=settings,
        constraint=AccuracyConstraint(settings.max_drop),
        size_of=lambda p: weights.bytes(p.widths(groups)),
        progress=Recorded(),  # which refuses more steps than a stage said
    )
    return search, judge


def searched(
    model: SViT, data: DataSet, settings: SearchSettings = SETTINGS, ledger: Ledger | None = None
) -> Search:
    """A search of a live model that really evaluates."""
    context = search_context(model, settings, data, ledger=ledger)
    weights = ShippedSize(model, context.prunable.groups)
    constraint = AccuracyConstraint(settings.max_drop)
    return make_search(
        context, constraint, lambda p: weights.bytes(p.widths(context.prunable.groups))
    )


def test_every_name_of_the_settings_is_a_policy() -> None:
    assert tuple(POLICIES) == POLICY_NAMES
    assert all(policy.name == name for name, policy in POLICIES.items())


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_a_gentle_budget_is_met_within_the_constraint(name: str, model: SViT) -> None:
    search, judge = on_a_model(model) if name == "global-l2" else made_up()
    budget = int(0.93 * search.size_of(Plan()))
    outcome = POLICIES[name].search(search, budget)
    assert outcome.bytes == search.size_of(outcome.plan)
    outcome.plan.check(search.space.groups)
    assert outcome.met
    assert 0.8 * search.size_of(Plan()) < outcome.bytes <= budget, "far gentler plans meet it"
    assert outcome.drop_points == pytest.approx(judge.points(outcome.plan), abs=0.01)
    assert outcome.drop_points <= SETTINGS.max_drop
    assert {c.step for c in judge.candidates} <= {"free", "robustness", name}
    assert any(c.step == name for c in judge.candidates)


@pytest.mark.parametrize("name", ["greedy", "uniform", "random", "global-l2"])
def test_where_the_budget_is_out_of_reach_the_deepest_plan_within_is_found(
    name: str, model: SViT
) -> None:
    settings = replace(SETTINGS, max_drop=2.0)
    search, judge = on_a_model(model, settings) if name == "global-l2" else made_up(settings)
    outcome = POLICIES[name].search(search, int(0.02 * search.size_of(Plan())))
    assert not outcome.met
    assert outcome.plan.kept
    assert outcome.drop_points == pytest.approx(judge.points(outcome.plan), abs=0.01)
    assert outcome.drop_points <= 2.0
    assert "would lose" in outcome.stopped_by
    refused = [c for c in judge.candidates if c.step == name and c.drop.points > 2.0]
    # Bisection ends at two neighbours of the path.
    assert min(c.drop.points for c in refused) < 2.0 + 2.0


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_where_nothing_can_be_lost_the_dense_model_stays(name: str, model: SViT) -> None:
    search, _ = on_a_model(model, replace(SETTINGS, max_drop=0.0))
    outcome = POLICIES[name].search(search, int(0.5 * search.size_of(Plan())))
    assert not outcome.met
    assert outcome.plan == Plan()
    assert outcome.drop_points == 0.0


@pytest.mark.parametrize("name", ["prioritized", "uniform"])
@pytest.mark.slow
def test_on_a_live_model_candidates_are_evaluated_through_the_ledger(
    name: str, model: SViT, data: DataSet
) -> None:
    ledger = Ledger()
    search = searched(model, data, ledger=ledger)
    outcome = POLICIES[name].search(search, int(0.93 * search.size_of(Plan())))
    assert outcome.drop_points is not None
    assert outcome.drop_points <= SETTINGS.max_drop
    assert {c.step for c in ledger} <= {"dense", "robustness", name}
    assert any(c.step == name for c in ledger), "its candidates are in the ledger"
    for candidate in ledger:
        assert Plan.from_packed(candidate.channels).digest == candidate.plan


@pytest.mark.parametrize("name", ["uniform", "random", "global-l2"])
def test_a_path_gets_smaller_all_the_way(name: str, model: SViT) -> None:
    search, _ = on_a_model(model, replace(SETTINGS, max_drop=None))
    path = POLICIES[name].path(search)  # type: ignore[attr-defined]
    sizes = [search.size_of(plan) for plan in path]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 0.9 * search.size_of(Plan())
    assert sizes[-1] < 0.25 * search.size_of(Plan())
    for plan in path[:: max(1, len(path) // 8)]:
        plan.check(search.space.groups)


def test_uniform_prunes_all_layers_alike(model: SViT) -> None:
    search, _ = on_a_model(model)
    path = POLICIES["uniform"].path(search)  # type: ignore[attr-defined]
    widths = path[len(path) // 2].widths(search.space.groups)
    shares = {g.name: widths[g.name] / g.width for g in search.space.groups}
    assert (
        max(shares.values()) - min(shares.values())
        <= 0.5 / min(g.width // g.heads for g in search.space.groups) + 0.25
    )


def test_random_follows_the_seed(model: SViT) -> None:
    def plan(seed: int) -> Plan:
        search, _ = on_a_model(model, replace(SETTINGS, seed=seed))
        path = POLICIES["random"].path(search)  # type: ignore[attr-defined]
        found: Plan = path[len(path) // 2]
        return found

    assert plan(0) == plan(0) != plan(1)


def test_greedy_takes_what_costs_least_first() -> None:
    """Three quarters of the idle group's channels cost nothing: they leave before all others."""
    search, _ = made_up(replace(SETTINGS, max_drop=None))
    outcome = POLICIES["greedy"].search(search, int(0.6 * search.size_of(Plan())))
    widths = outcome.plan.widths(GROUPS)
    assert outcome.met
    assert {g.name for g in GROUPS if widths[g.name] < g.width} == {"idle"}
    assert outcome.drop_points == pytest.approx(0.0, abs=0.01)


def test_greedy_beats_random_at_equal_bytes() -> None:
    search, _ = made_up(replace(SETTINGS, max_drop=None))
    budget = int(0.4 * search.size_of(Plan()))
    ours = POLICIES["greedy"].search(search, budget)
    theirs = POLICIES["random"].search(search, budget)
    assert ours.bytes <= budget
    assert theirs.bytes <= budget
    assert ours.drop_points is not None
    assert theirs.drop_points is not None
    assert ours.drop_points < theirs.drop_points - 5.0


@pytest.mark.slow
def test_greedy_resumes_to_the_same_plan_without_evaluating_anything_twice(
    model: SViT, data: DataSet, tmp_path: Path
) -> None:
    """Greedy end to end: a live model, recovered candidates, real images, a ledger on disk."""
    settings = replace(SETTINGS, max_drop=None)
    path = tmp_path / "ledger.jsonl"
    first = searched(model, data, settings, Ledger(path))
    budget = int(0.8 * first.size_of(Plan()))
    expected = POLICIES["greedy"].search(first, budget)
    widths = expected.plan.widths(first.space.groups)
    narrowed = {g.name for g in first.space.groups if widths[g.name] < g.width}
    # Three quarters of the MLPs' channels never spike: they leave before anything else.
    assert narrowed <= {"blocks.0.mlp", "blocks.1.mlp"}
    assert expected.met
    assert expected.drop_points == pytest.approx(0.0, abs=1.0)
    whole = path.read_text().splitlines()
    # As if it had been killed half way: the dense model and some of the candidates are known.
    path.write_text("\n".join(whole[: len(whole) // 2]) + "\n")
    again = POLICIES["greedy"].search(searched(model, data, settings, Ledger(path)), budget)
    assert again.plan == expected.plan
    resumed = [line.split('"limit"')[0] for line in path.read_text().splitlines()]
    assert sorted(resumed) == sorted(line.split('"limit"')[0] for line in whole)


def test_one_walk_answers_every_budget() -> None:
    search, judge = made_up(replace(SETTINGS, max_drop=None))
    dense = search.size_of(Plan())
    deep = POLICIES["greedy"].search(search, int(0.6 * dense))
    judged = len(judge.candidates)
    gentle = POLICIES["greedy"].search(search, int(0.8 * dense))
    assert len(judge.candidates) - judged <= 2, "only the gentler plan itself is evaluated"
    assert deep.bytes < gentle.bytes <= 0.8 * dense


def test_channel_multiples_are_kept(model: SViT) -> None:
    settings = replace(SETTINGS, max_drop=None, channel_multiple=4)
    search, _ = on_a_model(model, settings)
    for name in ("greedy", "uniform", "global-l2"):
        plan = POLICIES[name].search(search, int(0.8 * search.size_of(Plan()))).plan
        assert plan.kept
        for each in search.space.groups:
            width = plan.widths([each])[each.name] // each.heads
            assert width % 4 == 0 or width == each.width // each.heads, (name, each.name)


def test_moments_are_measured_where_no_recovery_is_asked_for(model: SViT, data: DataSet) -> None:
    search = searched(model, data, replace(SETTINGS, recover=()))
    assert search.space.recovery is not None
    seen = search.space.recovery.moments.inputs["blocks.0.mlp.fc2.conv"]
    assert seen.covariance is not None
    assert bool(torch.linalg.eigvalsh(seen.covariance).min() > -1e-6)


def test_a_path_without_a_step_keeps_the_dense_model() -> None:
    search, _ = made_up()
    outcome = outcome_on_path("uniform", [], search, 100)
    assert outcome.plan == Plan()
    assert not outcome.met
    assert "no layer can lose channels" in outcome.stopped_by


def test_constant_channels_do_not_come_back(model: SViT, data: DataSet) -> None:
    """A grid of gentle rates would leave more of a layer than is left without its free ones."""
    settings = replace(SETTINGS, rates=(0.1, 0.2), recover=("free", "refit"))
    search = searched(model, data, settings)
    outcome = POLICIES["prioritized"].search(search, int(0.2 * search.size_of(Plan())))
    free = search.space.without_constants.widths(search.space.groups)
    found = outcome.plan.widths(search.space.groups)
    assert search.space.without_constants.kept
    assert all(found[name] <= free[name] for name in free)


@pytest.mark.parametrize(
    "name", [n for n in POLICY_NAMES if n != "global-l2"]
)  # which needs a real model
def test_where_constant_channels_are_enough_nothing_else_leaves(name: str) -> None:
    search, judge = made_up()
    # Those that the ranking would take last.
    without = Plan().replacing("fragile", range(4, 32))

    class WithConstants(RankedSpace):
        without_constants = without

    judge.loss = {**judge.loss, "fragile": lambda gone: 0.4 * sum(c > 3 for c in gone)}
    search = replace(search, space=WithConstants(GROUPS))
    outcome = POLICIES[name].search(search, search.size_of(without))
    assert outcome.met
    assert outcome.plan == without
    assert outcome.drop_points == 0.0


@pytest.mark.slow
def test_constant_channels_leave_first_where_sizes_alone_decide(model: SViT, data: DataSet) -> None:
    settings = replace(SETTINGS, max_drop=None, recover=("free", "refit"))
    free = search_context(model, settings, data).space.without_constants
    found = prune(model, BuildSettings(saving=20.0, search=settings), data=data)
    widths, without = found.outcome.plan.widths(found.groups), free.widths(found.groups)
    assert free.kept
    assert all(widths[name] <= without[name] for name in without)


@pytest.mark.parametrize("name", ["prioritized", "uniform"])
def test_constant_channels_leave_in_multiples_too(name: str, model: SViT, data: DataSet) -> None:
    settings = replace(SETTINGS, max_drop=20.0, channel_multiple=8, recover=("free", "refit"))
    search = searched(model, data, settings)
    plan = POLICIES[name].search(search, int(0.6 * search.size_of(Plan()))).plan
    widths = plan.widths(search.space.groups)
    assert plan.kept
    for each in search.space.groups:
        width = widths[each.name] // each.heads
        assert width % 8 == 0 or width == each.width // each.heads, each.name
