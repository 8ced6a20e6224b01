"""Every policy on a small live model, and what each alone promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.analysis.groups import find_groups
from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.prune import make_judge, prune
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies import POLICIES, Search
from primesvt_deploy.pruning.policies.path import outcome_on_path
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.settings import POLICY_NAMES, BuildSettings, SearchSettings

SETTINGS = SearchSettings(
    max_drop=6.0, rates=(0.25, 0.5, 0.75), robustness_images=100, recover=("refit", "norms")
)


def searched(
    model: SViT, data: DataSet, settings: SearchSettings = SETTINGS, ledger: Ledger | None = None
) -> Search:
    groups = find_groups(model.module, model.config.input_shape)
    weights = ShippedSize(model, groups)
    recovery = Recovery(model, groups, data.search, settings.recover)
    judge = make_judge(
        model, groups, data.search, Ledger() if ledger is None else ledger, settings, recovery
    )
    return Search(judge=judge, settings=settings, size_of=lambda p: weights.bytes(p.widths(groups)))


def share(search: Search, plan: Plan) -> float:
    return search.size_of(plan) / search.size_of(Plan())


def test_every_name_of_the_settings_is_a_policy() -> None:
    assert tuple(POLICIES) == POLICY_NAMES
    assert all(policy.name == name for name, policy in POLICIES.items())


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_a_gentle_budget_is_met_within_the_constraint(
    name: str, model: SViT, data: DataSet
) -> None:
    ledger = Ledger()
    search = searched(model, data, ledger=ledger)
    budget = int(0.93 * search.size_of(Plan()))
    outcome = POLICIES[name].search(search, budget)
    assert outcome.bytes == search.size_of(outcome.plan)
    outcome.plan.check(search.judge.groups)
    if outcome.met:
        assert outcome.bytes <= budget
        assert outcome.bytes > 0.8 * search.size_of(Plan()), "far gentler plans meet it"
    assert outcome.drop_points is not None
    assert outcome.drop_points <= SETTINGS.max_drop
    assert outcome.met or name in ("uniform", "random", "global-l2")
    assert {c.step for c in ledger} <= {"dense", "free", "robustness", name}
    assert any(c.step == name for c in ledger), "its candidates are in the ledger"
    for candidate in ledger:
        assert Plan.from_packed(candidate.channels).digest == candidate.plan


@pytest.mark.parametrize("name", ["greedy", "uniform", "global-l2"])
def test_where_the_budget_is_out_of_reach_the_deepest_plan_within_is_found(
    name: str, model: SViT, data: DataSet
) -> None:
    settings = replace(SETTINGS, max_drop=2.0)
    search = searched(model, data, settings)
    outcome = POLICIES[name].search(search, int(0.02 * search.size_of(Plan())))
    assert not outcome.met
    assert outcome.drop_points is not None
    assert outcome.drop_points <= 2.0
    assert "would lose" in outcome.stopped_by or "used up" in outcome.stopped_by
    assert (len(outcome.plan.kept) > 0) == (share(search, outcome.plan) < 1.0)


@pytest.mark.parametrize("name", ["uniform", "random", "global-l2"])
def test_a_path_gets_smaller_all_the_way(name: str, model: SViT, data: DataSet) -> None:
    search = searched(model, data, replace(SETTINGS, max_drop=None))
    path = POLICIES[name].path(search)  # type: ignore[attr-defined]
    sizes = [search.size_of(plan) for plan in path]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 0.9 * search.size_of(Plan())
    assert sizes[-1] < 0.25 * search.size_of(Plan())
    for plan in path[:: max(1, len(path) // 8)]:
        plan.check(search.judge.groups)


def test_uniform_prunes_all_layers_alike(model: SViT, data: DataSet) -> None:
    search = searched(model, data)
    path = POLICIES["uniform"].path(search)  # type: ignore[attr-defined]
    widths = path[len(path) // 2].widths(search.judge.groups)
    shares = {g.name: widths[g.name] / g.width for g in search.judge.groups}
    assert (
        max(shares.values()) - min(shares.values())
        <= 0.5 / min(g.width // g.heads for g in search.judge.groups) + 0.25
    )


def test_random_follows_the_seed(model: SViT, data: DataSet) -> None:
    def plan(seed: int) -> Plan:
        search = searched(model, data, replace(SETTINGS, seed=seed))
        path = POLICIES["random"].path(search)  # type: ignore[attr-defined]
        found: Plan = path[len(path) // 2]
        return found

    assert plan(0) == plan(0) != plan(1)


def test_greedy_takes_what_costs_least_first(model: SViT, data: DataSet) -> None:
    """Three quarters of the MLPs' channels never spike: they leave before anything else."""
    search = searched(model, data, replace(SETTINGS, max_drop=None, recover=("refit",)))
    outcome = POLICIES["greedy"].search(search, int(0.8 * search.size_of(Plan())))
    widths = outcome.plan.widths(search.judge.groups)
    narrowed = {g.name for g in search.judge.groups if widths[g.name] < g.width}
    assert outcome.met
    assert narrowed <= {"blocks.0.mlp", "blocks.1.mlp"}
    assert outcome.drop_points == pytest.approx(0.0, abs=1.0)


def test_greedy_beats_random_at_equal_bytes(model: SViT, data: DataSet) -> None:
    settings = replace(SETTINGS, max_drop=None, recover=())
    search = searched(model, data, settings)
    budget = int(0.6 * search.size_of(Plan()))
    ours = POLICIES["greedy"].search(search, budget)
    theirs = POLICIES["random"].search(search, budget)
    assert ours.bytes <= budget
    assert theirs.bytes <= budget
    assert ours.drop_points is not None
    assert theirs.drop_points is not None
    assert ours.drop_points < theirs.drop_points - 5.0


def test_greedy_resumes_to_the_same_plan_without_evaluating_anything_twice(
    model: SViT, data: DataSet, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, max_drop=None)
    path = tmp_path / "ledger.jsonl"
    first = searched(model, data, settings, Ledger(path))
    budget = int(0.7 * first.size_of(Plan()))
    expected = POLICIES["greedy"].search(first, budget)
    whole = path.read_text().splitlines()
    # As if it had been killed half way: the dense model and some of the candidates are known.
    path.write_text("\n".join(whole[: len(whole) // 2]) + "\n")
    again = POLICIES["greedy"].search(searched(model, data, settings, Ledger(path)), budget)
    assert again.plan == expected.plan
    resumed = [line.split('"limit"')[0] for line in path.read_text().splitlines()]
    assert sorted(resumed) == sorted(line.split('"limit"')[0] for line in whole)


def test_one_walk_answers_every_budget(model: SViT, data: DataSet) -> None:
    ledger = Ledger()
    search = searched(model, data, replace(SETTINGS, max_drop=None), ledger)
    dense = search.size_of(Plan())
    deep = POLICIES["greedy"].search(search, int(0.6 * dense))
    known = len(ledger)
    gentle = POLICIES["greedy"].search(search, int(0.8 * dense))
    assert len(ledger) - known <= 2, "only the gentler plan itself is evaluated"
    assert deep.bytes < gentle.bytes <= 0.8 * dense


def test_channel_multiples_are_kept(model: SViT, data: DataSet) -> None:
    settings = replace(SETTINGS, max_drop=None, channel_multiple=4)
    search = searched(model, data, settings)
    for name in ("greedy", "uniform", "global-l2"):
        plan = POLICIES[name].search(search, int(0.8 * search.size_of(Plan()))).plan
        for group in search.judge.groups:
            width = plan.widths([group])[group.name] // group.heads
            assert width % 4 == 0 or width == group.width // group.heads, (name, group.name)


def test_moments_are_measured_where_no_recovery_is_asked_for(model: SViT, data: DataSet) -> None:
    search = searched(model, data, replace(SETTINGS, recover=()))
    assert search.judge.recovery is not None
    seen = search.judge.recovery.moments.inputs["blocks.0.mlp.fc2.conv"]
    assert seen.covariance is not None
    assert bool(torch.linalg.eigvalsh(seen.covariance).min() > -1e-6)


def test_a_path_without_a_step_keeps_the_dense_model(model: SViT, data: DataSet) -> None:
    search = searched(model, data)
    outcome = outcome_on_path("uniform", [], search, 100)
    assert outcome.plan == Plan()
    assert not outcome.met
    assert "no layer can lose channels" in outcome.stopped_by


def test_free_channels_do_not_come_back(model: SViT, data: DataSet) -> None:
    """A grid of gentle rates would leave more of a layer than is left without its free ones."""
    settings = replace(SETTINGS, rates=(0.1, 0.2), recover=("free", "refit"))
    search = searched(model, data, settings)
    outcome = POLICIES["prioritized"].search(search, int(0.2 * search.size_of(Plan())))
    free = search.judge.free.widths(search.judge.groups)
    found = outcome.plan.widths(search.judge.groups)
    assert search.judge.free.kept
    assert all(found[name] <= free[name] for name in free)


def test_free_channels_leave_first_where_sizes_alone_decide(model: SViT, data: DataSet) -> None:
    settings = replace(SETTINGS, max_drop=None, recover=("free", "refit"))
    free = searched(model, data, settings).judge.free
    found = prune(model, BuildSettings(saving=20.0, search=settings), data=data)
    widths, without = found.outcome.plan.widths(found.groups), free.widths(found.groups)
    assert free.kept
    assert all(widths[name] <= without[name] for name in without)


@pytest.mark.parametrize("name", ["prioritized", "uniform"])
def test_free_channels_leave_in_multiples_too(name: str, model: SViT, data: DataSet) -> None:
    settings = replace(SETTINGS, max_drop=20.0, channel_multiple=8, recover=("free", "refit"))
    search = searched(model, data, settings)
    plan = POLICIES[name].search(search, int(0.6 * search.size_of(Plan()))).plan
    widths = plan.widths(search.judge.groups)
    assert plan.kept
    for group in search.judge.groups:
        width = widths[group.name] // group.heads
        assert width % 8 == 0 or width == group.width // group.heads, group.name
