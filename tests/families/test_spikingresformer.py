"""SpikingResformer computes what upstream's code computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families.vectors import assert_live, converted, singly, vector

from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import family_named, recognise
from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.families.spikingresformer import (
    DualSpikeSelfAttention,
    SpikingResformerConfig,
)
from primesvt_deploy.families.spikingresformer_checkpoint import SPIKINGRESFORMER
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.state_dict import network_with_weights
from primesvt_deploy.pruning.cut import cut
from primesvt_deploy.pruning.plan import Plan

VECTORS = {
    "spikingresformer": ModelOptions(timesteps=4, image_size=64),
    "spikingresformer_cifar": ModelOptions(timesteps=4, image_size=16),
    "spikingresformer_dvs": ModelOptions(timesteps=3, image_size=16),
}
every_vector = pytest.mark.parametrize("name", VECTORS)
State = dict[str, torch.Tensor]


def expected_logits(name: str) -> torch.Tensor:
    """Upstream's logits [2, K]: it leaves the mean over T to its training script."""
    return vector(name)["y_single64"].mean(dim=1).squeeze(1)


def config_of(state: State, **options: Any) -> SpikingResformerConfig:
    config, _ = SPIKINGRESFORMER.convert(state, ModelOptions(timesteps=4, **options))
    assert isinstance(config, SpikingResformerConfig)
    return config


@every_vector
def test_converted_network_equals_upstream_on_each_sample(name: str) -> None:
    recorded = vector(name)
    family, config, network = converted(recorded["state_dict"], VECTORS[name])
    assert family is SPIKINGRESFORMER
    assert isinstance(config, SpikingResformerConfig)
    arguments = recorded["config"]
    assert config.embed_dims == arguments["planes"]
    assert config.depths == arguments["reps"]
    assert config.num_heads == arguments["heads"]
    assert config.patch_sizes == arguments["patch"]
    assert config.group_size == arguments["group_size"]
    expected = expected_logits(name)
    assert expected.std(dim=0).min() > 1e-3, "the logits do not depend on the image"
    torch.testing.assert_close(singly(network, recorded["x"]), expected, rtol=0.0, atol=1e-9)
    x = recorded["x"].double()
    assert_live(network, x.transpose(0, 1) if config.frames else x)


@every_vector
def test_lowered_network_equals_upstream(name: str) -> None:
    recorded = vector(name)
    _, _, network = converted(recorded["state_dict"], VECTORS[name])
    found = singly(lower_module(network.double()), recorded["x"])
    torch.testing.assert_close(found, expected_logits(name), rtol=0.0, atol=1e-9)


def test_forms_are_told_apart() -> None:
    imagenet, cifar, dvs = (config_of(vector(n)["state_dict"], image_size=64) for n in VECTORS)
    assert (imagenet.stem_kernel, imagenet.frames, imagenet.parametric) == (7, False, False)
    assert (cifar.stem_kernel, cifar.frames, cifar.parametric) == (3, False, False)
    assert (dvs.stem_kernel, dvs.frames, dvs.parametric) == (3, True, True)
    state = vector("spikingresformer_dvs")["state_dict"]
    assert not config_of(state, image_size=64, frames=False).frames


def test_family_is_recognised_by_its_keys() -> None:
    state = vector("spikingresformer")["state_dict"]
    keys = set(state)
    assert recognise(keys) is SPIKINGRESFORMER
    assert recognise(keys - {"layers.0.0.firing_rate_x"}) is None
    assert family_named("spikingresformer") is SPIKINGRESFORMER
    _, ours = SPIKINGRESFORMER.convert(state, VECTORS["spikingresformer"])
    assert recognise(ours.keys()) is None


def attention_of(name: str) -> DualSpikeSelfAttention:
    """The first attention of the last stage."""
    _, _, network = converted(vector(name)["state_dict"], VECTORS[name])
    attention = network.get_submodule("stages.2.blocks.0.attn")
    assert isinstance(attention, DualSpikeSelfAttention)
    return attention


def test_dual_spike_transformation_is_split_head_by_head() -> None:
    """Upstream's 2C channels are [k; v] of the first head, [k; v] of the second, ..."""
    fused = vector("spikingresformer")["state_dict"]["layers.2.1.W.weight"]
    attention = attention_of("spikingresformer")
    assert torch.equal(attention.k.conv.weight[16:32], fused[32:48])
    assert torch.equal(attention.v.conv.weight[16:32], fused[48:64])


def test_firing_rates_are_kept_as_they_are() -> None:
    state = vector("spikingresformer")["state_dict"]
    attention = attention_of("spikingresformer")
    rates = state["layers.2.1.firing_rate_x"], state["layers.2.1.firing_rate_attn"]
    assert torch.equal(attention.attn_map.firing_rate, rates[0].flatten())
    assert torch.equal(attention.readout.firing_rate, rates[1].flatten())
    # 64 channels in 4 heads, and tokens of 16 pixels' side.
    assert (attention.attn_map.length, attention.readout.length) == (16, (64 // 16) ** 2)


def test_tokens_follow_the_image_size() -> None:
    imagenet = config_of(vector("spikingresformer")["state_dict"], image_size=224)
    assert [imagenet.tokens(stage) for stage in range(3)] == [196, 196, 196]
    cifar = config_of(vector("spikingresformer_cifar")["state_dict"], image_size=32)
    assert [cifar.tokens(stage) for stage in range(3)] == [64, 64, 64]


def test_learnt_time_constants_are_read_from_the_weights() -> None:
    recorded = vector("spikingresformer_dvs")
    _, _, network = converted(recorded["state_dict"], VECTORS["spikingresformer_dvs"])
    neuron = network.get_submodule("stages.1.blocks.0.attn.readout.neuron")
    assert isinstance(neuron, Neuron)
    w = recorded["state_dict"]["layers.1.1.activation_out.w"].double()
    assert neuron.parameters_.tau == pytest.approx(float(1.0 / w.sigmoid()), abs=1e-12)
    assert neuron.parameters_.v_threshold == 1.0


def groups_of(name: str) -> dict[str, Group]:
    _, config, network = converted(vector(name)["state_dict"], VECTORS[name])
    return {group.name: group for group in find_groups(network, config.input_shape)}


def test_groups_and_their_heads() -> None:
    heads = {name: group.heads for name, group in groups_of("spikingresformer").items()}
    blocks = {"stages.0.blocks.0": 1} | {f"stages.1.blocks.{i}": 2 for i in range(2)}
    blocks |= {f"stages.2.blocks.{i}": 4 for i in range(2)}
    # Groups of the grouped convolutions: 4 times 16, 32 and 64 channels by 16.
    convolutions = {1: 4, 2: 8, 4: 16}
    expected = {f"{block}.attn.v": heads for block, heads in blocks.items()}
    expected |= {f"{block}.mlp": convolutions[heads] for block, heads in blocks.items()}
    assert heads == expected | {"residual.1": 1, "residual.2": 2, "residual.3": 4}


def test_what_groups_contain() -> None:
    groups = groups_of("spikingresformer")
    stage = "stages.0.blocks.0"
    residual = groups["residual.1"]
    assert residual.outputs == (
        f"{stage}.attn.k.conv",
        f"{stage}.attn.proj.conv",
        f"{stage}.mlp.down.conv",
        "stem.conv",
    )
    assert residual.inputs == (
        f"{stage}.attn.k.conv",
        f"{stage}.attn.v.conv",
        f"{stage}.mlp.up.conv",
        "stages.1.downsample.conv",
    )
    assert "head" in groups["residual.3"].inputs
    values = groups[f"{stage}.attn.v"]
    assert (values.outputs, values.inputs) == (
        (f"{stage}.attn.v.conv",),
        (f"{stage}.attn.proj.conv",),
    )
    hidden = groups[f"{stage}.mlp"]
    assert hidden.outputs == (f"{stage}.mlp.grouped.conv", f"{stage}.mlp.up.conv")
    assert hidden.inputs == (f"{stage}.mlp.down.conv", f"{stage}.mlp.grouped.conv")


def test_scales_stay_when_channels_leave() -> None:
    name = "spikingresformer"
    _, config, network = converted(vector(name)["state_dict"], VECTORS[name])
    groups = find_groups(network, config.input_shape)
    half = [h * 16 + i for h in range(4) for i in range(8)]
    smaller = cut(network, groups, Plan().replacing("residual.3", half))
    attention = smaller.get_submodule("stages.2.blocks.0.attn")
    assert isinstance(attention, DualSpikeSelfAttention)
    assert attention.k.conv.out_channels == 32
    assert attention.attn_map.length == 16
    again = network_with_weights(
        SPIKINGRESFORMER, config, smaller.state_dict(), Path("cut.safetensors")
    )
    x = vector(name)["x"]
    assert torch.equal(singly(again, x), singly(smaller, x))


def zeroed(state: State) -> State:
    return state | {"layers.1.1.firing_rate_attn": torch.tensor([0.2, 0.0]).view(1, 1, 2, 1, 1)}


def without(*keys: str) -> Callable[[State], State]:
    return lambda state: {key: tensor for key, tensor in state.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            dict,
            {"timesteps": None},
            "the number of timesteps cannot be read from the weights: pass --timesteps",
        ),
        (
            dict,
            {"image_size": None},
            "the image size cannot be read from the weights: pass --image-size",
        ),
        (dict, {"image_size": 72}, "image size 72 is not a multiple of 16.*--image-size"),
        (
            zeroed,
            {},
            r"layers\.1\.1\.firing_rate_attn holds 0, but attention divides by its square root: "
            "expected more than 0 in every head",
        ),
        (
            without("layers.1.1.firing_rate_x"),
            {},
            r"no firing_rate_x for 'stages\.1\.blocks\.0\.attn'",
        ),
        (
            lambda state: state | {"layers.0.0.W.weight": torch.zeros(31, 16, 4, 4)},
            {},
            r"stages\.0\.blocks\.0\.attn\.dst\.conv\.weight has 31 channels: expected k and v",
        ),
        (
            lambda state: state | {"prologue.0.weight": torch.zeros(16, 3, 5, 5)},
            {},
            "stem_kernel is 5: expected 3 or 7",
        ),
    ],
    ids=[
        "timesteps",
        "image size",
        "odd image size",
        "zero rate",
        "no rate",
        "odd width",
        "odd stem",
    ],
)
def test_refusals(change: Callable[[State], State], options: dict[str, Any], message: str) -> None:
    state = change(vector("spikingresformer")["state_dict"])
    with pytest.raises(ModelError, match=message):
        converted(state, replace(VECTORS["spikingresformer"], **options))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("layers.1.3.Wproj.weight"),
            r"1 keys missing \(stages\.1\.blocks\.1\.attn\.proj\.conv\.weight\); 0 keys unexpected",
        ),
        (
            lambda state: state | {"classifier.bias": torch.zeros(11)},
            r"0 keys missing; 1 keys unexpected \(head\.bias\)",
        ),
        (
            lambda state: state | {"layers.1.3.extra.weight": torch.zeros(1)},
            r"0 keys missing; 1 keys unexpected \(stages\.1\.blocks\.1\.attn\.extra\.weight\)",
        ),
        (
            lambda state: state | {"layers.2.3.firing_rate_attn": torch.full((1, 1, 2, 1, 1), 0.2)},
            r"stages\.2\.blocks\.1\.attn\.readout\.firing_rate is \[2\], expected \[4\]",
        ),
    ],
    ids=["missing", "bias", "unexpected", "heads"],
)
def test_keys_that_do_not_fit_are_listed(change: Callable[[State], State], message: str) -> None:
    state = change(vector("spikingresformer")["state_dict"])
    with pytest.raises(ModelError, match=message):
        converted(state, VECTORS["spikingresformer"])


def test_another_order_of_layers_is_refused() -> None:
    """Upstream's constructor takes any list of layers; its models all start with DSSA."""
    state = vector("spikingresformer")["state_dict"]
    swap = {"layers.2.1": "layers.2.2", "layers.2.2": "layers.2.1"}
    swapped = {swap.get(key[:10], key[:10]) + key[10:]: tensor for key, tensor in state.items()}
    with pytest.raises(ModelError, match=r"no 'stages\.2\.blocks\.0\.attn\.proj\.conv\.weight'"):
        converted(swapped, VECTORS["spikingresformer"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": (1, 3, 4)}, "3 heads do not divide the attention width 32.*--heads"),
        ({"depths": (1, 2)}, "differ in length: expected one value a stage in each"),
        ({"group_size": 24}, "groups of 24 channels do not divide the hidden width 64"),
    ],
    ids=str,
)
def test_configurations_that_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    config = config_of(vector("spikingresformer")["state_dict"], image_size=64)
    with pytest.raises(ModelError, match=message):
        replace(config, **changes)


def test_evaluation_preprocessing() -> None:
    inputs = SPIKINGRESFORMER.inputs
    assert inputs.resize(224) == 235
    assert inputs.statistics(32)[1] == (0.2023, 0.1994, 0.2010)
    assert inputs.statistics(224)[1] == (0.229, 0.224, 0.225)
