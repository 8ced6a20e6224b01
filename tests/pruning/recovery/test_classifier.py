"""A classifier fitted anew to the features of a pruned network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from families.zoo import ZOO, model_of
from own_nets import attending
from pruning.recovery.test_recovery import groups_of, thinned
from random_images import random_images
from small_models import SHALLOW, make_prunable, write_arrays

from primesvt_deploy import BuildSettings, SearchSettings, adopt, build, load, prune
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.errors import DataError, OutputError, SettingsError
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.measure.accuracy import torch_hits
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.frontier import frontier
from primesvt_deploy.pipeline.frontier_files import KnownFrontier
from primesvt_deploy.pruning.cut import check_cut, cut
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery.classifier import classifier_inputs, refit_classifiers
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.settings import HEAD, RECOVERY_STEPS


def divergence(model: SViT, network: torch.nn.Module, samples: torch.Tensor) -> float:
    with torch.no_grad():
        dense, found = (m(samples).log_softmax(1) for m in (model.module, network))
    return float((dense.exp() * (dense - found)).sum(1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_a_model_with_a_new_classifier_equals_its_cut(name: str) -> None:
    model = model_of(name)
    groups = groups_of(model)
    plan = thinned(groups)
    recovery = Recovery(model, groups, random_images(model, 16), RECOVERY_STEPS)
    recovered = recovery.recovered(plan, head=True)
    inputs = torch.randn(model.config.example(2).shape)
    assert check_cut(recovered, cut(recovered, groups, plan), inputs) <= 1e-9
    weights = dict(recovery.recovered(plan).state_dict())
    changed = [k for k, v in recovered.state_dict().items() if not torch.equal(v, weights[k])]
    assert changed
    assert all(key.rpartition(".")[0] in model.module.classifiers for key in changed)


@pytest.mark.parametrize("every", [2, 4])
def test_logits_come_nearer_to_those_of_the_dense_model(
    every: int, model: SViT, data: DataSet
) -> None:
    groups = groups_of(model)
    plan = Plan()
    for group in groups:
        kept = [i for i in range(group.width) if i % every or i + every > group.width]
        if group.heads == 1:
            plan = plan.replacing(group.name, kept)
    recovery = Recovery(model, groups, data.search, RECOVERY_STEPS)
    before, after = (recovery.recovered(plan, head=again) for again in (False, True))
    unseen = torch.from_numpy(data.held_out.inputs(0, len(data.held_out)))
    assert divergence(model, after, unseen) < 0.8 * divergence(model, before, unseen)


def test_it_is_the_ridge_solution(tiny: SViT, tiny_data: DataSet) -> None:
    """Against numpy's solver, on what the classifier reads."""
    groups = groups_of(tiny)
    recovery = Recovery(tiny, groups, tiny_data.search, RECOVERY_STEPS)
    plan = thinned(groups)
    before, after = (recovery.recovered(plan, head=again) for again in (False, True))
    samples = torch.from_numpy(tiny_data.search.inputs(0, len(tiny_data.search)))
    (x,) = classifier_inputs(lower_module(before), [samples]).values()
    (dense,) = classifier_inputs(lower_module(tiny.module), [samples]).values()
    y = tiny.module.head(dense).detach().double().numpy()
    rows = x.double().numpy()
    rows, wanted = rows - rows.mean(axis=0), y - y.mean(axis=0)
    alive = rows.any(axis=0)
    old, new = (m.head.weight.detach().double().numpy() for m in (before, after))
    amount = np.sqrt(0.1 * rows[:, alive].var(axis=0).mean() * len(rows)) * np.eye(alive.sum())
    change, *_ = np.linalg.lstsq(
        np.concatenate([rows[:, alive], amount]),
        np.concatenate([wanted - rows @ old.T, np.zeros((int(alive.sum()), len(old)))]),
        rcond=None,
    )
    np.testing.assert_allclose(new[:, alive], old[:, alive] + change.T, atol=1e-4)
    np.testing.assert_array_equal(new[:, ~alive], old[:, ~alive])
    found = after.head(x).detach().double().numpy()
    np.testing.assert_allclose(found.mean(axis=0), y.mean(axis=0), atol=1e-4)


def test_a_classifier_without_a_bias() -> None:
    layer = torch.nn.Linear(6, 3, bias=False)
    x = torch.rand(200, 6) + 1.0
    wanted = torch.rand(3, 6)
    holder = torch.nn.ModuleDict({"head": layer})
    for _ in range(300):  # each fit draws towards the weights before it
        refit_classifiers(holder, {"head": x}, {"head": x @ wanted.T})
    torch.testing.assert_close(layer.weight.detach(), wanted, atol=1e-3, rtol=0)


def test_nothing_changes_where_nothing_left(tiny: SViT, tiny_data: DataSet) -> None:
    recovery = Recovery(tiny, groups_of(tiny), tiny_data.search, RECOVERY_STEPS)
    found = recovery.recovered(Plan(), head=True).state_dict()
    assert all(torch.equal(v, found[k]) for k, v in tiny.module.state_dict().items())


@pytest.fixture(scope="module")
def model() -> SViT:
    return make_prunable(SHALLOW)


@pytest.fixture(scope="module")
def trained(model: SViT, data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """The data with a train split beside them."""
    path = write_arrays(tmp_path_factory.mktemp("more") / "d.npz", model, count=600, seed=3)
    return replace(data, train=open_data(model, path).search)


class TestApplied:
    """What was decided on gets a new classifier unless that loses more on search images."""

    SEARCH = SearchSettings(
        max_drop=60.0, policy="uniform", recover=("refit", "norms", HEAD), rates=(0.3, 0.6)
    )

    def settings(self) -> BuildSettings:
        return BuildSettings(saving=40.0, search=self.SEARCH, verify_images=20)

    @staticmethod
    def lost(path: Path, model: SViT, trained: DataSet) -> float:
        """Points on the search split, of a model as it was shipped."""
        dense, found = (torch_hits(m, trained.search) for m in (model, load(path)))
        return 100.0 * float(dense.mean() - found.mean())

    @pytest.mark.slow
    def test_the_drop_on_search_images_is_that_of_what_is_shipped(
        self, model: SViT, trained: DataSet, tmp_path: Path
    ) -> None:
        manifest = build(model, tmp_path / "b", self.settings(), data=trained).manifest
        steps = json.loads((tmp_path / "b" / "plan.json").read_text())["policy"]["steps"]
        assert steps[-1]["drop"]["points"] <= steps[-2]["drop"]["points"]
        assert steps[-1]["drop"] != steps[-2]["drop"], "nothing was fitted"
        said = manifest["accuracy"]["search"]["drop_points"]
        assert manifest["policy"]["classifier_fitted_anew"]
        assert said == pytest.approx(steps[-1]["drop"]["points"], abs=1e-3)
        assert said == pytest.approx(self.lost(tmp_path / "b", model, trained), abs=1e-3)

    @pytest.mark.slow
    def test_what_loses_more_is_left_as_it_was(
        self, model: SViT, trained: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def spoil(module: torch.nn.Module, *_: object) -> None:
            module.get_submodule("head").weight.data.neg_()

        monkeypatch.setattr("primesvt_deploy.pruning.recovery.recovery.refit_classifiers", spoil)
        manifest = build(model, tmp_path / "b", self.settings(), data=trained).manifest
        said = manifest["accuracy"]["search"]["drop_points"]
        assert said <= 60.0
        assert not manifest["policy"]["classifier_fitted_anew"]
        steps = json.loads((tmp_path / "b" / "plan.json").read_text())["policy"]["steps"]
        seen = trained.search.shuffled(self.SEARCH.seed).first(steps[-1]["drop"]["n"])
        shipped = self.lost(tmp_path / "b", model, replace(trained, search=seen))
        assert said == pytest.approx(shipped, abs=1e-3)

    @pytest.mark.slow
    def test_a_frontier_and_what_is_built_from_it(
        self, model: SViT, trained: DataSet, tmp_path: Path
    ) -> None:
        settings = replace(self.SEARCH, max_drop=None)
        (point,) = frontier(model, tmp_path / "f", settings, data=trained, savings=(40.0,))[
            "points"
        ]
        known = KnownFrontier.read(tmp_path / "f")
        asked = BuildSettings(saving=39.0, search=known.search, verify_images=20)
        manifest = build(model, tmp_path / "b", asked, data=trained, known=known).manifest
        assert manifest["policy"]["recover"] == ["refit", "norms", HEAD]
        found = self.lost(tmp_path / "b", model, trained)
        assert point["search"]["points"] == pytest.approx(found, abs=1e-3)
        with pytest.raises(OutputError, match="settings"):
            plain = replace(settings, recover=("refit", "norms"))
            frontier(model, tmp_path / "f", plain, data=trained, savings=(40.0,))

    def test_without_a_train_split_it_is_refused_before_any_work(
        self, model: SViT, data: DataSet, tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match="nothing is judged on"):
            build(model, tmp_path / "b", self.settings(), data=data)
        with pytest.raises(DataError, match="0 images to train on"):
            frontier(model, tmp_path / "f", self.SEARCH, data=data, savings=(40.0,))
        with pytest.raises(DataError):
            prune(model, self.settings(), data=data)
        assert not list(tmp_path.iterdir())

    def test_a_model_that_names_no_classifier_is_refused(
        self, trained: DataSet, tmp_path: Path
    ) -> None:
        own = adopt(attending(), image_size=16)
        with pytest.raises(SettingsError, match="names no classifier"):
            build(own, tmp_path / "b", self.settings(), data=trained)
        assert not list(tmp_path.iterdir())
