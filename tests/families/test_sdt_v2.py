"""Spike-driven Transformer V2 computes what upstream's code computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families.vectors import FIXTURES, assert_live, converted, singly, vector
from small_models import enliven
from torch import nn

from primesvt_deploy.analysis.groups import find_groups
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import FAMILIES
from primesvt_deploy.families.blocks.rep_conv import RepConv
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.families.sdt_v2 import SDTv2, SDTv2Config
from primesvt_deploy.families.sdt_v2_checkpoint import SDT_V2
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.state_dict import network_with_weights
from primesvt_deploy.pruning.cut import mask, silence
from primesvt_deploy.pruning.plan import Plan

VECTORS = {
    "sdt_v2_T4": ModelOptions(timesteps=4, num_heads=4, image_size=64),
    "sdt_v2_kd": ModelOptions(timesteps=3, num_heads=4, image_size=48),
}
every_vector = pytest.mark.parametrize("name", VECTORS)
SMALL = SDTv2Config(
    timesteps=2,
    image_size=32,
    in_channels=3,
    num_classes=5,
    num_heads=2,
    widths=(4, 6, 8, 12, 16),
    depths=(1, 1, 2, 1, 2),
)


@every_vector
def test_converted_network_equals_upstream_on_each_sample(name: str) -> None:
    recorded = vector(name)
    family, config, network = converted(recorded["state_dict"], VECTORS[name])
    assert family is SDT_V2
    assert isinstance(config, SDTv2Config)
    dims = recorded["config"]["dims"]
    assert config.widths == (dims[0] // 2, *dims)
    assert config.depths == (1, 1, 2, *recorded["config"].get("blocks", (6, 2)))
    expected = recorded["y_single64"].squeeze(1)
    torch.testing.assert_close(singly(network, recorded["x"]), expected, rtol=0.0, atol=1e-9)


def test_the_vector_of_two_heads_is_live() -> None:
    recorded = vector("sdt_v2_kd")
    _, _, network = converted(recorded["state_dict"], VECTORS["sdt_v2_kd"])
    assert_live(network.double(), recorded["x"].double())
    assert (recorded["y_single64"][0] - recorded["y_single64"][1]).abs().max() > 0.1


def test_logits_are_the_mean_of_both_heads() -> None:
    recorded = vector("sdt_v2_kd")
    _, config, network = converted(recorded["state_dict"], VECTORS["sdt_v2_kd"])
    assert isinstance(config, SDTv2Config)
    assert config.distilled
    assert network.classifiers == ("head", "head_kd")
    state = network.state_dict()
    one = SDTv2(replace(config, distilled=False)).eval()
    x = recorded["x"]
    logits = []
    for head in ("head", "head_kd"):
        own = {k: v for k, v in state.items() if not k.startswith("head")}
        own |= {f"head.{tail}": state[f"{head}.{tail}"] for tail in ("weight", "bias")}
        one.load_state_dict(own)
        with torch.no_grad():
            logits.append(one(x))
    with torch.no_grad():
        torch.testing.assert_close(network(x), (logits[0] + logits[1]) / 2)
    assert (logits[0] - logits[1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("dims", "millions"),
    [
        ((64, 128, 256, 360), 15.11),
        ((96, 192, 384, 480), 31.33),
        ((128, 256, 512, 640), 55.35),
    ],
)
def test_published_models_have_their_sizes(dims: tuple[int, ...], millions: float) -> None:
    config = SDTv2Config(
        timesteps=4,
        image_size=224,
        in_channels=3,
        num_classes=1000,
        num_heads=8,
        widths=(dims[0] // 2, *dims),
        depths=(1, 1, 2, 6, 2),
    )
    with torch.device("meta"):
        network = SDT_V2.build(config)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_first_convolution_runs_once_for_a_static_image() -> None:
    network = enliven(SDTv2(SMALL))
    first = network.segments()[0]
    seen: list[int] = []
    network.get_submodule("stages.0.down").register_forward_hook(
        lambda _module, inputs, _output: seen.append(len(inputs[0]))
    )
    with torch.no_grad():
        out = first.run(torch.zeros(3, 3, 32, 32))
    assert seen == [3]
    assert out.shape == (6, 4, 16, 16)


def rep_conv() -> RepConv:
    return enliven(RepConv(5, 6, 7), seed=3).double()


def as_upstream(module: RepConv, x: torch.Tensor) -> torch.Tensor:
    """What `module` is for: norm first, padding with what the norm makes of nothing after."""
    first = module.pointwise1
    hidden = first.bn(nn.functional.conv2d(x, first.conv.weight))
    nothing = first.bn(torch.zeros(1, hidden.shape[1], 1, 1, dtype=x.dtype))
    padded = nothing.repeat(len(x), 1, x.shape[2] + 2, x.shape[3] + 2)
    padded[:, :, 1:-1, 1:-1] = hidden
    return module.pointwise2(module.depthwise(padded))


def test_rep_conv_pads_with_what_the_norm_makes_of_nothing() -> None:
    module = rep_conv()
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = as_upstream(module, x)
        torch.testing.assert_close(module(x), expected, rtol=0.0, atol=1e-12)
        torch.testing.assert_close(lower_module(module)(x), expected, rtol=0.0, atol=1e-12)


def test_lowered_rep_conv_computes_nothing_on_padding() -> None:
    lowered = lower_module(rep_conv())
    assert lowered.pointwise1(torch.zeros(1, 5, 4, 3, dtype=torch.float64)).shape == (1, 6, 4, 3)


@pytest.mark.parametrize("group", ["q.hidden", "proj.hidden", "qk", "v"])
def test_channels_silenced_in_the_lowered_network_are_silent(group: str) -> None:
    """The search masks a lowered network, where RepConv's first bias has moved."""
    network = enliven(SDTv2(SMALL)).double()
    groups = find_groups(network, SMALL.input_shape)
    (found,) = (g for g in groups if g.name == f"stages.3.blocks.0.attn.{group}")
    kept = (0, 2, 6, 8)
    lowered = lower_module(network)
    silence(lowered, found, kept)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = mask(network, groups, Plan().replacing(found.name, kept))(x)
        torch.testing.assert_close(lowered(x), expected, rtol=0.0, atol=1e-9)
        assert (network(x) - expected).abs().max() > 1e-3


def test_groups() -> None:
    groups = {group.name: group for group in find_groups(SDTv2(SMALL), SMALL.input_shape)}
    convs = [(0, 0), (1, 0), (2, 0), (2, 1)]
    blocks = [f"stages.{s}.blocks.{b}" for s, b in [(3, 0), (4, 0), (4, 1)]]
    plain = {f"stages.{s}.blocks.{b}.{u}" for s, b in convs for u in ("sep_conv", "channel_conv")}
    plain |= {f"{block}.attn.{unit}.hidden" for block in blocks for unit in "qkv"}
    plain |= {f"{block}.{unit}" for block in blocks for unit in ("attn.proj.hidden", "mlp")}
    plain |= {f"residual.{i}" for i in range(1, 6)}
    heads = {f"{block}.attn.{unit}": 2 for block in blocks for unit in ("qk", "v")}
    assert {name: group.heads for name, group in groups.items()} == heads | dict.fromkeys(plain, 1)


def test_what_the_groups_hold() -> None:
    groups = {group.name: group for group in find_groups(SDTv2(SMALL), SMALL.input_shape)}
    attn = "stages.3.blocks.0.attn"
    hidden = groups[f"{attn}.q.hidden"]
    assert hidden.outputs == (f"{attn}.q.depthwise", f"{attn}.q.pointwise1.conv")
    assert hidden.norms == (f"{attn}.q.pointwise1.bn",)
    assert hidden.inputs == (f"{attn}.q.pointwise2.conv",)
    separable = groups["stages.0.blocks.0.sep_conv"]
    assert separable.outputs == (
        "stages.0.blocks.0.sep_conv.depthwise",
        "stages.0.blocks.0.sep_conv.pointwise1.conv",
    )
    assert separable.inputs == ("stages.0.blocks.0.sep_conv.pointwise2.conv",)
    qk = groups[f"{attn}.qk"]
    assert qk.outputs == (f"{attn}.k.pointwise2.conv", f"{attn}.q.pointwise2.conv")
    assert qk.norms == tuple(
        f"{attn}.{unit}.pointwise2.{norm}" for unit in "kq" for norm in ("bn", "norm2")
    )
    assert groups[f"{attn}.v"].inputs == (f"{attn}.proj.pointwise1.conv",)
    last = groups["residual.5"]
    assert last.outputs == (
        "stages.4.blocks.0.attn.proj.pointwise2.conv",
        "stages.4.blocks.0.mlp.fc2.conv",
        "stages.4.blocks.1.attn.proj.pointwise2.conv",
        "stages.4.blocks.1.mlp.fc2.conv",
        "stages.4.down.conv",
    )
    assert "head" in last.inputs
    assert "stages.4.down.conv" in groups["residual.4"].inputs


def test_recognised_by_upstreams_keys_alone() -> None:
    keys = vector("sdt_v2_kd")["state_dict"].keys()
    assert [family for family in FAMILIES if family.recognises(keys)] == [SDT_V2]
    assert not SDT_V2.recognises(keys - {"head.weight"})
    assert not SDT_V2.recognises(SDTv2(SMALL).state_dict().keys())
    others = {path.stem for path in FIXTURES.glob("*.pt")} - VECTORS.keys()
    assert others
    assert not [name for name in others if SDT_V2.recognises(vector(name)["state_dict"].keys())]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"timesteps": None},
            "the number of timesteps cannot be read from the weights: pass --timesteps",
        ),
        ({"num_heads": None}, "the number of heads cannot be read from the weights: pass --heads"),
        ({"image_size": None}, "the image size cannot be read from the weights: pass --image-size"),
        ({"num_heads": 5}, "5 heads do not divide the attention width 12.*--heads"),
        ({"num_heads": 6}, "6 heads do not divide the attention width 16.*--heads"),
        ({"image_size": 40}, "image size 40 is not a multiple of 16.*--image-size"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str) -> None:
    options = replace(VECTORS["sdt_v2_kd"], **changes)
    with pytest.raises(ModelError, match=said) as caught:
        SDT_V2.convert(vector("sdt_v2_kd")["state_dict"], options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"widths": (4, 6, 8)}, {"depths": (1, 1, 2, 1)}, {"widths": (4,) * 6}]
)
def test_stages_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    values = {**SMALL.to_dict(), **changes}
    with pytest.raises(ModelError, match="expected one of each for every stage, 4 or 5 stages"):
        SDT_V2.config_from_dict(values)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("block3.0.attn.q_conv.0.body.2.0.weight", r"stages.3.blocks.0.attn.q.depthwise.weight"),
        ("ConvBlock2_2.0.Conv.bn2.running_var", r"stages.2.blocks.1.sep_conv.pointwise2.bn"),
        ("head_kd.bias", "head_kd.bias"),
    ],
)
def test_missing_layer_is_named(key: str, said: str) -> None:
    state = dict(vector("sdt_v2_kd")["state_dict"])
    del state[key]
    config, ours = SDT_V2.convert(state, VECTORS["sdt_v2_kd"])
    with pytest.raises(ModelError, match=f"1 keys missing.*{said}"):
        network_with_weights(SDT_V2, config, ours, Path("x.pth"))


def test_unknown_layers_are_named() -> None:
    state = dict(vector("sdt_v2_kd")["state_dict"])
    state["block3.0.attn.gate.weight"] = torch.zeros(1)
    state["ConvBlock2_1.1.conv1.weight"] = torch.zeros(1)
    config, ours = SDT_V2.convert(state, VECTORS["sdt_v2_kd"])
    said = "2 keys unexpected .*ConvBlock2_1.1.conv1.weight, stages.3.blocks.0.attn.gate.weight"
    with pytest.raises(ModelError, match=said):
        network_with_weights(SDT_V2, config, ours, Path("x.pth"))


def test_neuron_options_reach_the_neurons() -> None:
    options = replace(VECTORS["sdt_v2_kd"], tau=1.6, v_threshold=0.8)
    config, _ = SDT_V2.convert(vector("sdt_v2_kd")["state_dict"], options)
    assert (config.tau, config.v_threshold) == (1.6, 0.8)


def test_larger_images_are_evaluated_without_a_crop_as_upstream_does() -> None:
    assert [SDT_V2.inputs.resize(size) for size in (224, 384)] == [256, 384]
