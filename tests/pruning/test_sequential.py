"""Layers refitted one after another to what they receive in the pruned network."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import enliven
from families.zoo import ZOO, model_of
from own_nets import Convolutional
from pruning.test_recovery import groups_of, images_of, thinned

from primesvt_deploy import BuildSettings, SearchSettings, adopt, build, export
from primesvt_deploy.config import RECOVERY_STEPS, SEQUENTIAL
from primesvt_deploy.data import DataSet
from primesvt_deploy.frontiers import frontier
from primesvt_deploy.lowering.fold import lower
from primesvt_deploy.measure.accuracy import artifact_hits
from primesvt_deploy.model import SViT
from primesvt_deploy.pruning.cut import check_cut, cut
from primesvt_deploy.pruning.evaluate import Evaluator
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery import Recovery
from primesvt_deploy.pruning.sequential import refit_in_order
from primesvt_deploy.pruning.trial import prunable_groups
from primesvt_deploy.runtime.session import OnnxModel

STEPS = (*RECOVERY_STEPS, SEQUENTIAL)


def divergence(model: SViT, network: torch.nn.Module, samples: torch.Tensor) -> float:
    with torch.no_grad():
        dense, found = (m(samples).log_softmax(1) for m in (model.module, network))
    return float((dense.exp() * (dense - found)).sum(1).mean())


@pytest.mark.parametrize("name", ZOO)
def test_a_refitted_model_equals_its_cut(name: str) -> None:
    model = model_of(name)
    groups = groups_of(model)
    plan = thinned(groups)
    recovery = Recovery(model, groups, images_of(model, 16), STEPS)
    recovered = recovery.recovered(plan)
    inputs = torch.randn(model.config.example(2).shape)
    assert check_cut(recovered, cut(recovered, groups, plan), inputs) <= 1e-9
    unlike = Recovery(model, groups, images_of(model, 16), RECOVERY_STEPS).recovered(plan)
    weights = dict(unlike.state_dict())
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
    before, after = (
        Recovery(model, groups, data.search, steps).recovered(plan)
        for steps in (RECOVERY_STEPS, STEPS)
    )
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
    recovery = Recovery(tiny, groups_of(tiny), tiny_data.search, STEPS)
    network = lower(tiny.module, fold_norms=False)
    assert refit_in_order(network, copy.deepcopy(network), recovery.samples(40)) == ()


def test_users_own_modules(tmp_path: Path) -> None:
    model = adopt(enliven(Convolutional()), image_size=16, timesteps=3)
    groups = prunable_groups(model).groups
    plan = Plan().replacing("net.0", [0, 2, 5, 6])
    images = images_of(model, 48)
    before, after = (
        Recovery(model, groups, images, steps).recovered(plan) for steps in (RECOVERY_STEPS, STEPS)
    )
    samples = Recovery(model, groups, images, ()).samples(48)
    assert check_cut(after, cut(after, groups, plan), samples[:4]) <= 1e-9
    assert divergence(model, after, samples) < divergence(model, before, samples)


SEARCH = SearchSettings(max_drop=None, policy="uniform", recover=("refit", "norms"))


def test_a_known_frontier_is_reported_anew_without_a_search(
    model: SViT, data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = frontier(model, tmp_path / "f", SEARCH, data=data, savings=(40.0,))
    monkeypatch.setattr(Evaluator, "outcome", lambda *_, **__: pytest.fail("evaluated"))
    settings = replace(SEARCH, recover=(*SEARCH.recover, SEQUENTIAL))
    again = frontier(model, tmp_path / "f", settings, data=data, savings=(40.0,))
    (before,), (after,) = known["points"], again["points"]
    assert after["channels"] == before["channels"]
    assert after["key"] != before["key"]
    assert again["settings"]["recover"] == ["refit", "norms", SEQUENTIAL]


def test_what_is_shipped_is_judged_as_it_is(model: SViT, data: DataSet, tmp_path: Path) -> None:
    search = replace(SEARCH, max_drop=50.0, recover=(*SEARCH.recover, SEQUENTIAL))
    settings = BuildSettings(saving=40.0, search=search, verify_images=20)
    found = build(model, tmp_path / "b", settings, data=data)
    assert found.manifest["policy"]["recover"] == ["refit", "norms", SEQUENTIAL]
    hits = artifact_hits(OnnxModel(found.path / "model.onnx"), data.search)
    dense = artifact_hits(OnnxModel(export(model, tmp_path / "d.onnx").path), data.search)
    lost = 100.0 * float(dense.mean() - hits.mean())
    assert found.manifest["accuracy"]["search"]["drop_points"] == pytest.approx(lost, abs=1e-3)
