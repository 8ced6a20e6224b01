"""Spike-driven Transformer V3, base and large, computes what upstream's code computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families.vectors import assert_live, converted, singly, vector

from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import FAMILIES, Family
from primesvt_deploy.families.blocks.integer_pyramid import IntegerPyramidConfig
from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.families.sdt_v3 import SDTv3Config
from primesvt_deploy.families.sdt_v3_checkpoint import SDT_V3
from primesvt_deploy.families.sdt_v3_large import SDTv3LargeConfig
from primesvt_deploy.families.sdt_v3_large_checkpoint import SDT_V3_LARGE
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.state_dict import network_with_weights

VECTORS: dict[str, tuple[Family, ModelOptions]] = {
    "sdt_v3_base": (SDT_V3, ModelOptions(num_heads=4, image_size=32)),
    "sdt_v3_large_83m": (SDT_V3_LARGE, ModelOptions(num_heads=4, image_size=48, levels=4)),
    "sdt_v3_large_171m": (SDT_V3_LARGE, ModelOptions(num_heads=2, image_size=48, levels=8)),
}
every_vector = pytest.mark.parametrize("name", VECTORS)


def groups_of(name: str) -> dict[str, Group]:
    _, config, network = converted(vector(name)["state_dict"], VECTORS[name][1])
    return {group.name: group for group in find_groups(network, config.input_shape)}


@every_vector
def test_converted_network_equals_upstream_on_each_sample(name: str) -> None:
    recorded = vector(name)
    family, config, network = converted(recorded["state_dict"], VECTORS[name][1])
    assert family is VECTORS[name][0]
    assert isinstance(config, IntegerPyramidConfig)
    dims, blocks = recorded["config"]["dims"], recorded["config"]["blocks"]
    assert config.widths == (dims[0] // 2, *dims)
    assert config.depths == (1, 1, 2, *blocks)
    assert config.distilled == recorded["config"].get("kd", False)
    assert config.levels == recorded["config"]["levels"]
    expected = recorded["y_single64"].squeeze(1)
    torch.testing.assert_close(singly(network, recorded["x"]), expected, rtol=0.0, atol=1e-9)


@every_vector
def test_lowered_network_equals_upstream(name: str) -> None:
    recorded = vector(name)
    _, _, network = converted(recorded["state_dict"], VECTORS[name][1])
    with torch.no_grad():
        found = lower_module(network.double())(recorded["x"].double())
    torch.testing.assert_close(found, recorded["y64"], rtol=0.0, atol=1e-9)


@every_vector
def test_vectors_are_live(name: str) -> None:
    recorded = vector(name)
    _, _, network = converted(recorded["state_dict"], VECTORS[name][1])
    assert_live(network.double(), recorded["x"].double())
    assert (recorded["y_single64"][0] - recorded["y_single64"][1]).abs().max() > 0.1


@every_vector
def test_neurons_fire_multiples_of_one_by_levels_up_to_one(name: str) -> None:
    """But for the one in front of the head, which fires counts."""
    recorded = vector(name)
    _, config, network = converted(recorded["state_dict"], VECTORS[name][1])
    assert isinstance(config, IntegerPyramidConfig)
    fired: dict[str, torch.Tensor] = {}
    for layer, module in network.named_modules():
        if isinstance(module, Neuron):
            module.register_forward_hook(
                lambda _module, _inputs, spikes, layer=layer: fired.update({layer: spikes})
            )
    with torch.no_grad():
        network(recorded["x"])
    counts = fired.pop("head_neuron", None)
    assert (counts is None) == (name == "sdt_v3_large_171m")
    if counts is not None:
        assert torch.equal(counts, counts.round())
        assert counts.max() > 1
    for spikes in fired.values():
        levels = spikes * config.levels
        assert torch.equal(levels, levels.round())
        assert 0 <= levels.min() <= levels.max() <= config.levels


@pytest.mark.parametrize(
    ("dims", "millions"),
    [
        ((32, 64, 128, 192), 5.11),
        ((48, 96, 192, 240), 10.02),
        ((64, 128, 256, 360), 18.99),
    ],
)
def test_published_base_models_have_their_sizes(dims: tuple[int, ...], millions: float) -> None:
    config = SDTv3Config(
        image_size=224,
        in_channels=3,
        num_classes=1000,
        num_heads=8,
        widths=(dims[0] // 2, *dims),
        depths=(1, 1, 2, 6, 2),
    )
    with torch.device("meta"):
        network = SDT_V3.build(config)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    ("dims", "rep_conv", "millions"),
    [((128, 256, 512), True, 83.02), ((196, 384, 768), False, 171.74)],
)
def test_published_large_models_have_their_sizes(
    dims: tuple[int, ...], rep_conv: bool, millions: float
) -> None:
    config = SDTv3LargeConfig(
        image_size=224,
        in_channels=3,
        num_classes=1000,
        num_heads=8,
        widths=(dims[0] // 2, *dims),
        depths=(1, 1, 2, 12),
        rep_conv=rep_conv,
        distilled=True,
    )
    with torch.device("meta"):
        network = SDT_V3_LARGE.build(config)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_factor_of_attention_is_that_of_the_dense_width() -> None:
    _, _, network = converted(vector("sdt_v3_base")["state_dict"], VECTORS["sdt_v3_base"][1])
    scales = [network.get_submodule(f"stages.{s}.blocks.0.attn").scale for s in (3, 4)]
    assert scales == [2 * 3**-0.5, 2 * 4**-0.5]


def test_groups_of_base() -> None:
    groups = groups_of("sdt_v3_base")
    convs = [f"stages.{s}.blocks.{b}" for s, b in [(0, 0), (1, 0), (2, 0), (2, 1)]]
    blocks = [f"stages.{s}.blocks.{b}" for s, b in [(3, 0), (3, 1), (4, 0)]]
    plain = {f"{block}.{unit}" for block in convs for unit in ("sep_conv", "channel_conv")}
    plain |= {f"{block}.{unit}" for block in blocks for unit in ("sep_conv", "mlp")}
    plain |= {f"residual.{i}" for i in range(1, 6)}
    heads = {f"{block}.attn.{unit}": 4 for block in blocks for unit in ("qk", "v")}
    assert {name: group.heads for name, group in groups.items()} == heads | dict.fromkeys(plain, 1)


def test_what_the_groups_of_base_hold() -> None:
    groups = groups_of("sdt_v3_base")
    block = "stages.3.blocks.1"
    v = groups[f"{block}.attn.v"]
    assert v.width == 4 * groups[f"{block}.attn.qk"].width == 48
    assert v.inputs == (f"{block}.attn.proj.conv",)
    separable = groups[f"{block}.sep_conv"]
    assert separable.outputs == (
        f"{block}.sep_conv.depthwise.conv",
        f"{block}.sep_conv.pointwise1.conv",
    )
    assert separable.norms == (f"{block}.sep_conv.depthwise.bn", f"{block}.sep_conv.pointwise1.bn")
    assert separable.inputs == (f"{block}.sep_conv.pointwise2.conv",)


@pytest.mark.parametrize("name", ["sdt_v3_large_83m", "sdt_v3_large_171m"])
def test_groups_of_large(name: str) -> None:
    groups = groups_of(name)
    convs = [f"stages.{s}.blocks.{b}" for s, b in [(0, 0), (1, 0), (2, 0), (2, 1)]]
    blocks = [f"stages.3.blocks.{b}" for b in (0, 1)]
    plain = {f"{block}.channel_conv" for block in convs} | {f"{block}.mlp" for block in blocks}
    plain |= {f"{b}.attn.{unit}.hidden" for b in blocks for unit in ("q", "k", "v", "proj")}
    plain |= {f"residual.{i}" for i in range(1, 5)}
    if name == "sdt_v3_large_83m":
        plain |= {f"{block}.rep_conv.hidden" for block in blocks}
    count = VECTORS[name][1].num_heads
    heads = {f"{block}.attn.{unit}": count for block in blocks for unit in ("qk", "v")}
    assert {name: group.heads for name, group in groups.items()} == heads | dict.fromkeys(plain, 1)


def test_what_the_groups_of_large_hold() -> None:
    groups = groups_of("sdt_v3_large_83m")
    stream = groups["residual.4"]
    for unit in ("attn.proj.pointwise2", "mlp.fc2"):
        assert {f"stages.3.blocks.0.{unit}.{part}" for part in ("conv", "scale")} < set(
            stream.outputs
        )
    assert "stages.3.blocks.0.rep_conv.pointwise2.conv" in stream.outputs
    assert {"head", "head_kd"} < set(stream.inputs)
    hidden = groups["stages.3.blocks.0.attn.v.hidden"]
    assert hidden.width == 24
    assert hidden.outputs == ("stages.3.blocks.0.attn.v.pointwise1.conv",)
    assert hidden.inputs == ("stages.3.blocks.0.attn.v.pointwise2.conv",)


def test_hidden_widths_follow_the_weights() -> None:
    """The released 83M file has other widths between its convolutions than the code."""
    state = dict(vector("sdt_v3_large_83m")["state_dict"])
    for part in ("block3.0.rep_conv", "block3.1.attn.k_conv.0"):
        for tail in ("weight", "bias", "running_mean", "running_var"):
            state[f"{part}.conv1.1.{tail}"] = state[f"{part}.conv1.1.{tail}"][:10]
        state[f"{part}.conv1.0.weight"] = state[f"{part}.conv1.0.weight"][:10]
        state[f"{part}.conv2.0.weight"] = state[f"{part}.conv2.0.weight"][:, :10]
    _, _, network = converted(state, VECTORS["sdt_v3_large_83m"][1])
    assert network.get_submodule("stages.3.blocks.0.rep_conv.pointwise1.conv").out_channels == 10
    assert network.get_submodule("stages.3.blocks.1.attn.k.pointwise2.conv").in_channels == 10


@every_vector
def test_recognised_by_upstreams_keys_alone(name: str) -> None:
    keys = vector(name)["state_dict"].keys()
    family, options = VECTORS[name]
    assert [other for other in FAMILIES if other.recognises(keys)] == [family]
    assert not family.recognises(keys - {"head.weight"})
    _, ours = family.convert(vector(name)["state_dict"], options)
    assert not family.recognises(ours.keys())


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            "sdt_v3_base",
            {"num_heads": None},
            "the number of heads cannot be read from the weights: pass --heads",
        ),
        (
            "sdt_v3_base",
            {"image_size": None},
            "the image size cannot be read from the weights: pass --image-size",
        ),
        ("sdt_v3_base", {"num_heads": 5}, "5 heads do not divide the attention width 12.*--heads"),
        ("sdt_v3_base", {"image_size": 40}, "image size 40 is not a multiple of 16"),
        ("sdt_v3_base", {"timesteps": 4}, "no time axis.*--levels.*drop --timesteps"),
        ("sdt_v3_base", {"frames": True}, "no time axis.*drop --timesteps and --frames"),
        ("sdt_v3_base", {"levels": 1}, "levels is 1: expected 2 or more.*--levels"),
        (
            "sdt_v3_large_83m",
            {"levels": None},
            "the levels .* cannot be read from the weights: pass --levels",
        ),
        ("sdt_v3_large_83m", {"num_heads": 3}, "3 heads do not divide the attention width 16"),
        ("sdt_v3_large_83m", {"image_size": 8}, "image size 8 is not a multiple of 16"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, changes: dict[str, Any], said: str) -> None:
    family, options = VECTORS[name]
    with pytest.raises(ModelError, match=said) as caught:
        family.convert(vector(name)["state_dict"], replace(options, **changes))
    assert "\n" not in str(caught.value)


def test_base_has_four_levels_where_nobody_says_otherwise() -> None:
    state = vector("sdt_v3_base")["state_dict"]
    options = VECTORS["sdt_v3_base"][1]
    assert SDT_V3.convert(state, options)[0].levels == 4  # type: ignore[attr-defined]
    eight, _ = SDT_V3.convert(state, replace(options, levels=8))
    assert eight.neuron().spike_value == 1 / 8


@every_vector
def test_time_constant_changes_nothing_in_one_timestep(name: str) -> None:
    """It is an option of every family, and a model directory repeats what was said."""
    recorded = vector(name)
    _, config, network = converted(recorded["state_dict"], replace(VECTORS[name][1], tau=1.5))
    assert config.tau == 1.5
    expected = recorded["y_single64"].squeeze(1)
    torch.testing.assert_close(singly(network, recorded["x"]), expected, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        ("sdt_v3_base", "block4.0.conv.dwconv.1.bias", "stages.4.blocks.0.sep_conv.depthwise.bn"),
        ("sdt_v3_base", "ConvBlock1_2.0.bn1.weight", "stages.1.blocks.0.channel_conv.fc1.bn"),
        ("sdt_v3_large_83m", "block3.1.layer_scale2", "stages.3.blocks.1.mlp.fc2.scale.weight"),
        ("sdt_v3_large_83m", "block3.1.rep_conv.conv2.0.weight", "rep_conv.pointwise2.conv"),
    ],
)
def test_missing_layer_is_named(name: str, key: str, said: str) -> None:
    family, options = VECTORS[name]
    state = dict(vector(name)["state_dict"])
    del state[key]
    config, ours = family.convert(state, options)
    with pytest.raises(ModelError, match=f"1 keys missing.*{said}"):
        network_with_weights(family, config, ours, Path("x.pth"))


def test_what_pretraining_left_behind_is_named() -> None:
    state = dict(vector("sdt_v3_large_83m")["state_dict"])
    state |= {"mask_token": torch.zeros(1, 1, 4), "decoder_embed.weight": torch.zeros(4, 16)}
    config, ours = SDT_V3_LARGE.convert(state, VECTORS["sdt_v3_large_83m"][1])
    with pytest.raises(ModelError, match=r"2 keys unexpected \(decoder_embed.weight, mask_token\)"):
        network_with_weights(SDT_V3_LARGE, config, ours, Path("x.pth"))


def test_larger_images_are_evaluated_without_a_crop_as_upstream_does() -> None:
    for family in (SDT_V3, SDT_V3_LARGE):
        assert [family.inputs.resize(size) for size in (224, 384)] == [232, 384]
