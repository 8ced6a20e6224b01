"""Channels that calibration shows to be constant: they leave and nothing changes."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import make_model, make_prunable, write_arrays

from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.cut import cut
from primesvt_deploy.pruning.recovery.constant_channels import (
    constant_channels,
    plan_without_constants,
)
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search.space import SearchSpace


def silence_unit(model: SViT, unit: str, channels: list[int], bias: float) -> None:
    """The unit's norm gives these channels the current `bias`, whatever comes in."""
    norm = model.module.get_submodule(unit).bn
    with torch.no_grad():
        norm.weight[channels] = 0.0
        norm.bias[channels] = bias


def data_of(model: SViT, path: object) -> DataSet:
    return open_data(model, write_arrays(path / "d.npz", model))  # type: ignore[operator]


def freed(model: SViT, data: DataSet, *names: str) -> tuple[dict[str, int], Recovery, object]:
    groups = find_groups(model.module, model.config.input_shape)
    recovery = Recovery(model, groups, data.search, ("free",))
    plan = plan_without_constants(groups, recovery)
    widths = plan.widths(groups)
    return {name: widths[name] for name in names}, recovery, (groups, plan)


def unchanged(model: SViT, recovery: Recovery, found: object, data: DataSet) -> None:
    """The cut model's logits are the dense model's, in fp64, on the calibration images."""
    groups, plan = found  # type: ignore[misc]
    smaller = cut(recovery.recovered(plan), groups, plan).double()
    inputs = torch.from_numpy(data.search.inputs(0, 32)).double()
    with torch.no_grad():
        expected = copy.deepcopy(model.module).double()(inputs)
        assert float((smaller(inputs) - expected).abs().max()) <= 1e-9
    count = sum(p.numel() for p in smaller.parameters())
    assert count < sum(p.numel() for p in model.module.parameters())


def test_silent_channels_leave(tmp_path: object) -> None:
    model = make_prunable()
    data = data_of(model, tmp_path)
    widths, recovery, found = freed(model, data, "blocks.0.mlp", "blocks.1.mlp")
    assert all(width <= 24 for width in widths.values()), "72 of 96 were made silent"
    unchanged(model, recovery, found, data)


def test_channels_that_always_spike_fold_into_the_readers_bias(tmp_path: object) -> None:
    model = make_model()
    silence_unit(model, "blocks.0.mlp.fc1", [1, 2, 7], bias=100.0)
    data = data_of(model, tmp_path)
    widths, recovery, found = freed(model, data, "blocks.0.mlp")
    group = next(g for g in found[0] if g.name == "blocks.0.mlp")  # type: ignore[index]
    moments = recovery.moments.inputs["blocks.0.mlp.fc2.conv"]
    assert moments.high[[1, 2, 7]].tolist() == moments.low[[1, 2, 7]].tolist() == [1.0] * 3
    assert {1, 2, 7} <= set(
        torch.nonzero(constant_channels(group, recovery.moments)).flatten().tolist()
    )
    assert widths["blocks.0.mlp"] <= group.width - 3
    unchanged(model, recovery, found, data)


def test_around_a_padded_image_only_silence_is_constant(tmp_path: object) -> None:
    model = make_model()
    silence_unit(model, "stem.1", [0], bias=100.0)
    silence_unit(model, "stem.1", [3], bias=-100.0)
    data = data_of(model, tmp_path)
    _, recovery, (groups, plan) = freed(model, data)  # type: ignore[misc]
    kept = plan["stem.1"]
    assert kept is not None
    assert 0 in kept
    assert 3 not in kept
    unchanged(model, recovery, (groups, plan), data)


def test_of_q_and_k_one_silent_side_is_enough_and_heads_stay_equal(tmp_path: object) -> None:
    model = make_model()
    # Two heads of eight channels: q is silent in one of the first, k in two of the second.
    silence_unit(model, "blocks.0.attn.q", [3], bias=-100.0)
    silence_unit(model, "blocks.0.attn.k", [8, 9], bias=-100.0)
    data = data_of(model, tmp_path)
    _, recovery, (groups, plan) = freed(model, data)  # type: ignore[misc]
    group: Group = next(g for g in groups if g.name == "blocks.0.attn.qk")
    free = constant_channels(group, recovery.moments)
    assert bool(free[[3, 8, 9]].all())
    kept = plan[group.name] or range(group.width)
    per_head = [
        sum(i // (group.width // group.heads) == h for i in kept) for h in range(group.heads)
    ]
    assert len(set(per_head)) == 1
    assert per_head[0] < group.width // group.heads
    unchanged(model, recovery, (groups, plan), data)


def test_one_channel_of_a_dead_group_stays(tmp_path: object) -> None:
    model = make_model()
    width = model.module.blocks[0].mlp.fc1.conv.out_channels
    silence_unit(model, "blocks.0.mlp.fc1", list(range(width)), bias=-100.0)
    data = data_of(model, tmp_path)
    widths, recovery, found = freed(model, data, "blocks.0.mlp")
    assert widths == {"blocks.0.mlp": 1}
    unchanged(model, recovery, found, data)
    groups, plan = found  # type: ignore[misc]
    left = cut(recovery.recovered(plan), groups, plan).blocks[0].mlp.fc1.conv.weight
    assert not bool(left.any()), "what is left of the branch is silent for good"


@pytest.mark.parametrize("steps", [(), ("norms",), ("bias", "refit")])
def test_without_the_step_constant_channels_stay(
    tiny: SViT, tiny_data: DataSet, steps: tuple[str, ...]
) -> None:
    groups = find_groups(tiny.module, tiny.config.input_shape)
    recovery = Recovery(tiny, groups, tiny_data.search, steps)
    assert not SearchSpace(tiny, groups, recovery=recovery).without_constants.kept
