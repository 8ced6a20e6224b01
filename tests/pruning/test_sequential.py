"""Layers refitted one after another to what they receive in the pruned network."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import enliven
from families.zoo import ZOO, model_of
from own_nets import Convolutional
from pruning.test_recovery import groups_of, images_of, thinned

from primesvt_deploy import BuildSettings, SearchSettings, adopt, build, load
from primesvt_deploy.config import RECOVERY_STEPS, SEQUENTIAL
from primesvt_deploy.data import DataSet
from primesvt_deploy.errors import OutputError
from primesvt_deploy.frontiers import frontier
from primesvt_deploy.known_frontier import KnownFrontier
from primesvt_deploy.lowering.fold import lower
from primesvt_deploy.measure.accuracy import torch_hits
from primesvt_deploy.model import SViT
from primesvt_deploy.pruning.cut import check_cut, cut
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery import Recovery
from primesvt_deploy.pruning.sequential import _parts, refit_in_order
from primesvt_deploy.pruning.trial import prunable_groups


def divergence(model: SViT, network: torch.nn.Module, samples: torch.Tensor) -> float:
    with torch.no_grad():
        dense, found = (m(samples).log_softmax(1) for m in (model.module, network))
    return float((dense.exp() * (dense - found)).sum(1).mean())


@pytest.mark.parametrize("name", ZOO)
def test_a_refitted_model_equals_its_cut(name: str) -> None:
    model = model_of(name)
    groups = groups_of(model)
    plan = thinned(groups)
    recovery = Recovery(model, groups, images_of(model, 16), RECOVERY_STEPS)
    recovered = recovery.recovered(plan, sequential=True)
    inputs = torch.randn(model.config.example(2).shape)
    assert check_cut(recovered, cut(recovered, groups, plan), inputs) <= 1e-9
    weights = dict(recovery.recovered(plan).state_dict())
    changed = [k for k, v in recovered.state_dict().items() if not torch.equal(v, weights[k])]
    assert any(key.endswith("weight") for key in changed)


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
    before, after = (recovery.recovered(plan, sequential=again) for again in (False, True))
    unseen = torch.from_numpy(data.held_out.inputs(0, len(data.held_out)))
    assert divergence(model, after, unseen) < 0.8 * divergence(model, before, unseen)


def test_each_layer_gives_what_the_dense_one_gives_as_far_as_its_inputs_allow(
    tiny: SViT, tiny_data: DataSet
) -> None:
    """Against numpy's solver of the damped problem, on what the layer reads in the end."""
    groups = groups_of(tiny)
    recovery = Recovery(tiny, groups, tiny_data.search, RECOVERY_STEPS)
    plan = thinned(groups)
    network, dense = recovery.masked(plan), lower(tiny.module, fold_norms=False)
    recovery.match(network, recovery.state)
    name = "blocks.0.mlp.fc2.conv"
    before = network.get_submodule(name).weight.detach().flatten(1).double().numpy()
    samples = recovery.samples(100)
    assert name in refit_in_order(network, dense, samples)
    inputs, wanted = (read(one, name, samples) for one in (network, dense))
    targets = wanted @ dense.get_submodule(name).weight.detach().flatten(1).double().numpy().T
    inputs, targets = inputs - inputs.mean(axis=0), targets - targets.mean(axis=0)
    alive = inputs.any(axis=0)
    rows = inputs[:, alive]
    amount = np.sqrt(0.1 * rows.var(axis=0).mean() * len(rows)) * np.eye(rows.shape[1])
    change, *_ = np.linalg.lstsq(
        np.concatenate([rows, amount]),
        np.concatenate([targets - inputs @ before.T, np.zeros((rows.shape[1], len(before)))]),
        rcond=None,
    )
    found = network.get_submodule(name).weight.detach().flatten(1).double().numpy()
    stays = before.any(axis=1)
    np.testing.assert_allclose(
        found[stays][:, alive], (before[:, alive] + change.T)[stays], atol=1e-4
    )
    assert not found[~stays].any()


def read(network: torch.nn.Module, name: str, samples: torch.Tensor) -> np.ndarray:
    rows: list[torch.Tensor] = []
    handle = network.get_submodule(name).register_forward_pre_hook(
        lambda _, a: rows.append(a[0].permute(0, 2, 3, 1).flatten(0, 2))
    )
    with torch.no_grad():
        network(samples)
    handle.remove()
    return torch.cat(rows).double().numpy()


def test_nothing_is_refitted_where_nothing_left(tiny: SViT, tiny_data: DataSet) -> None:
    recovery = Recovery(tiny, groups_of(tiny), tiny_data.search, RECOVERY_STEPS)
    network = lower(tiny.module, fold_norms=False)
    assert refit_in_order(network, copy.deepcopy(network), recovery.samples(40)) == ()


def test_users_own_modules(tmp_path: Path) -> None:
    model = adopt(enliven(Convolutional()), image_size=16, timesteps=3)
    groups = prunable_groups(model).groups
    plan = Plan().replacing("net.0", [0, 2, 5, 6])
    images = images_of(model, 48)
    recovery = Recovery(model, groups, images, RECOVERY_STEPS)
    before, after = (recovery.recovered(plan, sequential=again) for again in (False, True))
    samples = recovery.samples(48)
    assert check_cut(after, cut(after, groups, plan), samples[:4]) <= 1e-9
    assert divergence(model, after, samples) < divergence(model, before, samples)


def test_windows_at_the_edge_count_no_more_than_others() -> None:
    layer = torch.nn.Conv2d(2, 3, 3, padding=1)
    columns = torch.arange(64.0).expand(40, 2, 64, 64)
    middles = torch.cat(list(_parts(layer, columns)))[:, 8]
    shares = torch.bincount(middles.long(), minlength=64) / len(middles)
    torch.testing.assert_close(shares, torch.full((64,), 1 / 64), rtol=0.01, atol=0)


def test_a_layer_that_reads_few_rows_keeps_its_weights(tiny: SViT, tiny_data: DataSet) -> None:
    groups = groups_of(tiny)
    recovery = Recovery(tiny, groups, tiny_data.search, RECOVERY_STEPS)
    network = recovery.masked(thinned(groups))
    changed = refit_in_order(network, lower(tiny.module, fold_norms=False), recovery.samples(8))
    assert "head" not in changed and "stem.1.conv" in changed


class TestSettled:
    """The plan that was decided on is refitted unless that loses more on search images."""

    SEARCH = SearchSettings(
        max_drop=60.0, policy="uniform", recover=("refit", "norms", SEQUENTIAL), rates=(0.3, 0.6)
    )

    def settings(self) -> BuildSettings:
        return BuildSettings(saving=40.0, search=self.SEARCH, verify_images=20)

    @staticmethod
    def lost(path: Path, model: SViT, data: DataSet) -> float:
        """Points on the search split, of a model as it was shipped."""
        dense, found = (torch_hits(m, data.search) for m in (model, load(path)))
        return 100.0 * float(dense.mean() - found.mean())

    def test_the_drop_on_search_images_is_that_of_what_is_shipped(
        self, model: SViT, data: DataSet, tmp_path: Path
    ) -> None:
        manifest = build(model, tmp_path / "b", self.settings(), data=data).manifest
        steps = json.loads((tmp_path / "b" / "plan.json").read_text())["policy"]["steps"]
        assert steps[-1]["drop"]["points"] <= steps[-2]["drop"]["points"]
        assert steps[-1]["drop"] != steps[-2]["drop"], "nothing was refitted"
        said = manifest["accuracy"]["search"]["drop_points"]
        assert said == pytest.approx(steps[-1]["drop"]["points"], abs=1e-3)
        assert said == pytest.approx(self.lost(tmp_path / "b", model, data), abs=1e-3)

    def test_what_loses_more_is_left_as_it_was(
        self, model: SViT, data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def spoil(network: torch.nn.Module, *_: object) -> tuple[str, ...]:
            head = network.get_submodule("head")
            head.weight.data.neg_()
            return ("head",)

        monkeypatch.setattr("primesvt_deploy.pruning.recovery.refit_in_order", spoil)
        manifest = build(model, tmp_path / "b", self.settings(), data=data).manifest
        said = manifest["accuracy"]["search"]["drop_points"]
        assert said <= 60.0
        assert said == pytest.approx(self.lost(tmp_path / "b", model, data), abs=1e-3)

    def test_a_frontier_and_what_is_built_from_it(
        self, model: SViT, data: DataSet, tmp_path: Path
    ) -> None:
        settings = replace(self.SEARCH, max_drop=None)
        (point,) = frontier(model, tmp_path / "f", settings, data=data, savings=(40.0,))["points"]
        known = KnownFrontier.read(tmp_path / "f")
        asked = BuildSettings(saving=39.0, search=known.search, verify_images=20)
        manifest = build(model, tmp_path / "b", asked, data=data, known=known).manifest
        assert manifest["policy"]["recover"] == ["refit", "norms", SEQUENTIAL]
        found = self.lost(tmp_path / "b", model, data)
        assert point["search"]["points"] == pytest.approx(found, abs=1e-3)
        with pytest.raises(OutputError, match="settings"):
            plain = replace(settings, recover=("refit", "norms"))
            frontier(model, tmp_path / "f", plain, data=data, savings=(40.0,))
