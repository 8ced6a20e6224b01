"""Gradient-free recovery: what it promises on calibration images, and that a cut keeps it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from families.zoo import ZOO
from random_images import random_images
from small_models import make_model
from spikingjelly.activation_based import layer
from torch import nn

from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.analysis.input_statistics import measure_moments
from primesvt_deploy.data import DataSet
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.cut import check_cut, cut, mask
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery.batchnorm import matched_norms, recorded_norms
from primesvt_deploy.pruning.recovery.least_squares import Refit
from primesvt_deploy.pruning.recovery.recovery import NORM_IMAGES, Recovery
from primesvt_deploy.pruning.recovery.timesteps import with_timesteps
from primesvt_deploy.pruning.search.chunk_evaluator import EvaluatedOn
from primesvt_deploy.pruning.search.evaluator import Evaluator


def groups_of(model: SViT) -> tuple[Group, ...]:
    return find_groups(model.module, model.config.input_shape)


def thinned(groups: tuple[Group, ...]) -> Plan:
    """Every second channel of each head of every group leaves."""
    plan = Plan()
    for group in groups:
        width = group.width // group.heads
        if width > 1:
            plan = plan.replacing(
                group.name,
                [h * width + i for h in range(group.heads) for i in range(0, width, 2)],
            )
    return plan


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_a_recovered_model_equals_its_cut(name: str) -> None:
    family, config = ZOO[name]
    model = make_model(config, family=family)
    groups = groups_of(model)
    plan = thinned(groups)
    inputs = torch.randn(model.config.example(2).shape)
    plain = cut(mask(model.module, groups, plan), groups, plan)
    for steps in (("bias",), ("refit", "norms")):
        recovered = Recovery(model, groups, random_images(model, 16), steps).recovered(plan)
        smaller = cut(recovered, groups, plan)
        assert check_cut(recovered, smaller, inputs) <= 1e-9
        with torch.no_grad():
            assert not torch.equal(smaller(inputs), plain(inputs)), "nothing was recovered"


def test_nothing_is_changed_where_nothing_leaves(tiny: SViT, tiny_data: DataSet) -> None:
    recovery = Recovery(tiny, groups_of(tiny), tiny_data.search, ("refit", "norms"))
    network = recovery.masked(Plan())
    recovery.match(network, recovery.state)
    inputs = torch.from_numpy(tiny_data.search.inputs(0, 8))
    with torch.no_grad():
        expected = copy.deepcopy(tiny.module).double()(inputs.double())
        found = network.double()(inputs.double())
    assert float((expected - found).abs().max()) < 1e-4


def reader_outputs(
    model: SViT, module: torch.nn.Module, group: Group, kept: list[int], x: torch.Tensor
) -> torch.Tensor:
    """What the group's reader in `module` makes of the dense inputs, kept channels alone."""
    seen: list[torch.Tensor] = []
    (name,) = group.inputs
    twin = lower_module(model.module)
    handle = twin.get_submodule(name).register_forward_pre_hook(lambda _, a: seen.append(a[0]))
    with torch.no_grad():
        twin(x)
        handle.remove()
        inputs = torch.zeros_like(seen[0])
        inputs[:, kept] = seen[0][:, kept]
        outputs: torch.Tensor = lower_module(module).get_submodule(name)(inputs)
        return outputs


def test_refit_is_nearer_to_the_dense_outputs_than_bias_and_bias_than_nothing(
    tiny: SViT, tiny_data: DataSet
) -> None:
    groups = groups_of(tiny)
    group = next(g for g in groups if g.name == "blocks.0.mlp")
    kept = list(range(0, group.width, 2))
    x = torch.from_numpy(tiny_data.search.inputs(0, 64))
    dense = reader_outputs(tiny, tiny.module, group, list(range(group.width)), x)
    errors = []
    for steps in ((), ("bias",), ("refit",)):
        recovery = Recovery(tiny, groups, tiny_data.search, steps)
        module = recovery.recovered(Plan().replacing(group.name, kept))
        found = reader_outputs(tiny, module, group, kept, x)
        errors.append(float((found - dense).square().mean()))
    assert errors[2] < 0.9 * errors[1] < 0.9 * 0.9 * errors[0]


def test_bias_keeps_the_mean_of_what_readers_give(tiny: SViT, tiny_data: DataSet) -> None:
    groups = groups_of(tiny)
    group = next(g for g in groups if g.name == "blocks.1.mlp")
    kept = list(range(5))
    recovery = Recovery(tiny, groups, tiny_data.search, ("bias",))
    module = recovery.recovered(Plan().replacing(group.name, kept))
    x = torch.from_numpy(tiny_data.search.inputs(0, len(tiny_data.search)))
    dense = reader_outputs(tiny, tiny.module, group, list(range(group.width)), x)
    found = reader_outputs(tiny, module, group, kept, x)
    torch.testing.assert_close(found.mean((0, 2, 3)), dense.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)


def test_a_refit_is_the_least_squares_solution(tiny: SViT, tiny_data: DataSet) -> None:
    """Against numpy's solver, on the rows that the moments were measured on."""
    groups = groups_of(tiny)
    group = next(g for g in groups if g.name == "blocks.0.mlp")
    (reader,) = group.inputs
    twin = lower_module(tiny.module)
    rows: list[torch.Tensor] = []
    reading = twin.get_submodule(reader)
    reading.register_forward_pre_hook(
        lambda _, a: rows.append(a[0].permute(0, 2, 3, 1).flatten(0, 2))
    )
    moments = measure_moments(twin, groups, [torch.from_numpy(tiny_data.search.inputs(0, 100))])
    inputs = torch.cat(rows).double().numpy()
    kept = list(range(0, group.width, 3))
    weights = reading.weight.detach().flatten(1).double().numpy()
    targets = inputs @ weights.T
    Refit(groups, moments, weights=True).apply(twin, Plan().replacing(group.name, kept))
    refitted = reading.weight.detach().flatten(1).double().numpy()
    centred = inputs - inputs.mean(axis=0)
    wanted, *_ = np.linalg.lstsq(centred[:, kept], targets - targets.mean(axis=0), rcond=None)
    best = np.square(centred[:, kept] @ wanted - (targets - targets.mean(axis=0))).mean()
    ours = np.square(centred @ refitted.T - (targets - targets.mean(axis=0))).mean()
    assert not np.delete(refitted, kept, axis=1).any()
    assert best <= ours <= 1.05 * best + 1e-9


def test_norms_pass_on_what_the_dense_ones_did(tiny: SViT, tiny_data: DataSet) -> None:
    groups = groups_of(tiny)
    group = next(g for g in groups if g.name == "stem.2")
    plan = Plan().replacing(group.name, range(0, group.width, 2))
    recovery = Recovery(tiny, groups, tiny_data.search, ("norms",))
    matched = recovery.masked(plan)
    recovery.match(matched, recovery.state)
    base = lower_module(tiny.module, fold_norms=False)
    outputs: dict[str, list[torch.Tensor]] = {}
    for network in (base, matched):
        network.position.bn.register_forward_hook(
            lambda _m, _a, y: outputs.setdefault("y", []).append(y.double())
        )
        with torch.no_grad():
            network(recovery.samples(NORM_IMAGES))
    (dense, found) = outputs["y"]
    torch.testing.assert_close(found.mean((0, 2, 3)), dense.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.std((0, 2, 3)), dense.std((0, 2, 3)), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(found, dense)


@pytest.mark.parametrize("steps", [("refit",), ("norms",), ("refit", "norms")])
@pytest.mark.slow
def test_candidates_are_judged_as_the_recovered_model_will_be(
    tiny: SViT, tiny_data: DataSet, steps: tuple[str, ...]
) -> None:
    """With cached prefixes, without, and cut: the same flags, or a flipped spike apart."""
    groups = groups_of(tiny)
    recovery = Recovery(tiny, groups, tiny_data.search, steps)
    cached, uncached = (
        Evaluator(
            tiny, groups, tiny_data.search, chunk=32, recovery=recovery,
            on=EvaluatedOn(batch_size=8, cache_bytes=cache_bytes),
        )
        for cache_bytes in (None, 0)
    )  # fmt: skip
    cached.outcome(Plan(), keep=groups)
    plan = Plan()
    inputs = torch.from_numpy(tiny_data.search.inputs(0, len(tiny_data.search)))
    for group in reversed(groups):
        plan = plan.replacing(group.name, thinned((group,))[group.name] or range(group.width))
        found = cached.outcome(plan, keep=[group])
        np.testing.assert_array_equal(found.hits, uncached.outcome(plan, keep=[group]).hits)
        with torch.no_grad():
            logits = recovery.recovered(plan)(inputs)
        narrow = cached.outcome(plan)
        for other in (logits, narrow.logits):
            assert float((other.argmax(1) == found.logits.argmax(1)).float().mean()) >= 0.97


def test_fewer_timesteps_pass_on_the_same_statistics(tiny: SViT, tiny_data: DataSet) -> None:
    samples = torch.from_numpy(tiny_data.search.inputs(0, 64))
    fewer = with_timesteps(tiny, 1, samples)
    plain = with_timesteps(tiny, 1)
    assert fewer.timesteps == plain.timesteps == 1
    assert fewer.module.timesteps == 1
    means = []
    for model in (tiny, fewer, plain):
        outputs: list[torch.Tensor] = []
        base = lower_module(model.module, fold_norms=False)
        base.blocks[1].mlp.fc1.bn.register_forward_hook(lambda _m, _a, y, o=outputs: o.append(y))
        with torch.no_grad():
            base(samples)
        means.append(outputs[0].mean((0, 2, 3)))
    assert float((means[1] - means[0]).abs().max()) < 1e-4
    assert float((means[2] - means[0]).abs().max()) > 1e-3, "nothing was to be matched"


def test_the_same_timesteps_are_the_same_model(tiny: SViT) -> None:
    assert with_timesteps(tiny, tiny.timesteps) is tiny


def test_recorded_norms_tell_what_each_received(tiny: SViT) -> None:
    base = lower_module(tiny.module, fold_norms=False)
    x = torch.randn(4, *tiny.config.input_shape)
    with recorded_norms(base) as found, torch.no_grad():
        base(x)
        first = base.stem[0].conv(x)
    torch.testing.assert_close(found["stem.0.bn"].mean, first.double().mean((0, 2, 3)))


class _Norms(nn.Module):
    """One norm called twice, and one of SpikingJelly's in multi-step mode."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.BatchNorm2d(4)
        self.multi = layer.BatchNorm2d(4, step_mode="m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.multi(x).flatten(0, 1)
        y: torch.Tensor = self.twice(self.twice(x) * 3.0 + 1.0)
        return y


def test_norms_of_users_own_modules_are_read_rightly() -> None:
    torch.manual_seed(0)
    network = _Norms().eval()
    x = torch.randn(3, 7, 4, 5, 5)
    with recorded_norms(network) as found:
        network(x)
    assert list(found) == ["multi"], "no one set of statistics fits two calls"
    torch.testing.assert_close(found["multi"].mean, x.double().mean((0, 1, 3, 4)))
    expected = network(x)
    with matched_norms(network, found), torch.no_grad():
        network(x)
    torch.testing.assert_close(network(x), expected)
