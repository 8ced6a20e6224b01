"""The expected cost of a build, beside what a build then does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from ray_sessions import needs_ray
from recorded_progress import Recorded

from primesvt_deploy import BuildSettings, SearchSettings, analyze, build, estimate
from primesvt_deploy.data import DataSet
from primesvt_deploy.errors import ClusterError, SettingsError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.cost import ExpectedCost
from primesvt_deploy.progress import SILENT
from primesvt_deploy.pruning.search.ledger import Candidate, Ledger
from primesvt_deploy.settings import ComputeSettings

SEARCH = SearchSettings(
    policy="greedy",
    max_drop=100.0,
    robustness_images=50,
    search_images=100,
    rates=(0.5,),
    recover=("refit", "norms"),  # constant channels would leave first, which nobody can foresee
)
SETTINGS = BuildSettings(saving=30.0, search=SEARCH, threads=1, verify_images=16)


@pytest.fixture(scope="module")
def expected(model: SViT, data: DataSet) -> ExpectedCost:
    return estimate(model, SETTINGS, data=data, progress=SILENT)


@pytest.mark.slow
def test_the_stages_are_those_of_the_build(
    model: SViT, data: DataSet, expected: ExpectedCost, tmp_path: Path
) -> None:
    told = Recorded()
    built = build(model, tmp_path / "bundle", SETTINGS, data=data, progress=told).manifest
    assert expected.outlook is not None
    assert expected.outlook.budget_bytes == built["constraints"]["budget_bytes"]
    names = {stage.name.partition(" at ")[0] for stage in told.stages}
    assert {stage.name for stage in expected.stages} == names
    measured = [s for s in told.stages if s.name.startswith("sensitivity")]
    foreseen = [s for s in expected.stages if s.name == "sensitivity"]
    assert [s.total for s in measured] == [s.candidates.high for s in foreseen if s.candidates]


def test_nothing_is_written_and_all_of_it_is_plain(
    model: SViT, data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = estimate(model, SETTINGS, data=data, progress=SILENT)
    assert list(tmp_path.iterdir()) == []
    content = json.loads(json.dumps(found.to_dict()))
    assert content["seconds"]["low"] <= content["seconds"]["likely"] <= content["seconds"]["high"]
    assert content["budget"]["reachable"] and found.reachable
    assert found.memory.peak > found.memory.process > 0
    assert repr(found).startswith(f"Expected cost of `build` of {model.name}\n")


def test_more_images_give_narrower_intervals_and_take_longer(expected: ExpectedCost) -> None:
    assert [each.images for each in expected.search_images if each.chosen] == [100]
    assert len(expected.search_images) > 1
    for name in ("drop_points", "accuracy_points"):
        widths = [getattr(each, name) for each in expected.search_images]
        assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1] > 0.0
    seconds = [each.seconds.likely for each in expected.search_images]
    assert seconds == sorted(seconds)


@pytest.mark.slow
def test_a_finished_search_costs_no_candidates(
    model: SViT, data: DataSet, expected: ExpectedCost, tmp_path: Path
) -> None:
    build(model, tmp_path / "bundle", SETTINGS, data=data, progress=SILENT)
    ledger = Ledger(tmp_path / "bundle" / "ledger.jsonl")
    again = estimate(model, SETTINGS, data=data, ledger=ledger, progress=SILENT)
    assert again.known == len(ledger) > 0
    assert again.candidates.likely < 0.5 * expected.candidates.likely
    assert "dense accuracy" not in {stage.name for stage in again.stages}


def test_what_candidates_did_before_decides_the_intervals(model: SViT, data: DataSet) -> None:
    ledger = Ledger()
    ledger.append(
        Candidate(
            plan="p", limit=100, step="robustness", correct=50, lost=20, gained=10, n=100,
            seconds=1.0,
        )
    )  # fmt: skip
    found = estimate(model, SETTINGS, data=data, ledger=ledger, progress=SILENT)
    assert found.discordant == pytest.approx(0.3)


def test_a_budget_out_of_reach_is_told_by_size_alone(model: SViT, data: DataSet) -> None:
    found = estimate(
        model, replace(SETTINGS, saving=None, budget_mb=1e-4), data=data, progress=SILENT
    )
    assert not found.reachable and not found.to_dict()["budget"]["reachable"]


def test_a_model_that_fits_needs_no_candidate(model: SViT, data: DataSet) -> None:
    found = estimate(
        model, replace(SETTINGS, saving=None, budget_mb=100.0), data=data, progress=SILENT
    )
    assert found.candidates.likely == 0.0
    assert "held-out accuracy" in {stage.name for stage in found.stages}


def test_workers_take_less_time_for_the_same_candidates(
    model: SViT, data: DataSet, expected: ExpectedCost
) -> None:
    shared = replace(SETTINGS, compute=ComputeSettings(workers=2))
    found = estimate(model, shared, data=data, progress=SILENT)
    assert found.workers == 2
    assert found.candidates == expected.candidates and found.images == expected.images
    assert found.stages[0].name == "starting workers" != expected.stages[0].name


@needs_ray
def test_a_cluster_that_cannot_be_joined_is_refused(model: SViT, data: DataSet) -> None:
    wanted = replace(SETTINGS, compute=ComputeSettings(ray="127.0.0.1:1"))
    with pytest.raises(ClusterError, match="no Ray cluster answers at"):
        estimate(model, wanted, data=data, progress=SILENT)


def test_a_device_that_is_not_there_is_refused(model: SViT, data: DataSet) -> None:
    wanted = replace(SETTINGS, compute=ComputeSettings(device="cuda:99"))
    with pytest.raises(SettingsError, match="device is cuda:99"):
        estimate(model, wanted, data=data, progress=SILENT)


def test_more_workers_than_images_are_refused(model: SViT, data: DataSet) -> None:
    compute, message = ComputeSettings(workers=101), "there are 101 workers for 100 search images"
    with pytest.raises(SettingsError, match=message):
        replace(SETTINGS, compute=compute)
    with pytest.raises(SettingsError, match=message):
        estimate(model, SEARCH, data=data, compute=compute, progress=SILENT)


@pytest.mark.slow
def test_an_analysis_is_foreseen_as_well(model: SViT, data: DataSet) -> None:
    told = Recorded()
    found = estimate(model, SEARCH, data=data, progress=SILENT)
    analyze(model, SEARCH, data=data, progress=told)
    assert [stage.name for stage in found.stages] == [stage.name for stage in told.stages]
    assert found.outlook is None and found.reachable
    assert found.to_dict()["of"] == "analyze" and found.to_dict()["budget"] is None
