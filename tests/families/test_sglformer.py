"""SGLFormer: what upstream's code computes, and what is read from the weights."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.vectors import FIXTURES, assert_live, converted, singly, vector
from families.zoo import model_of
from small_models import make_model

from primesvt_deploy import load
from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import FAMILIES, recognise
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.families.sglformer import LocalAttention, SGLFormerConfig
from primesvt_deploy.families.sglformer_checkpoint import SGLFORMER
from primesvt_deploy.lowering.native.records import AttentionOp, MatMulOp
from primesvt_deploy.lowering.passes import lower_to_program, trace_network
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

VECTORS = {
    "sglformer_cifar": ModelOptions(num_heads=2),
    "sglformer_dvs": ModelOptions(num_heads=2),
    "sglformer_ima": ModelOptions(timesteps=4, num_heads=2, image_size=64, pooling="11110"),
    "sglformer_ima2": ModelOptions(timesteps=3, num_heads=2, image_size=64, pooling="01111"),
}
READOUT = ("sglformer_cifar", "sglformer_dvs")
every_vector = pytest.mark.parametrize("name", VECTORS)


def config_of(name: str, state: Any = None, **changes: Any) -> SGLFormerConfig:
    """What a vector's weights say, given its options so changed."""
    state = vector(name)["state_dict"] if state is None else state
    config, _ = SGLFORMER.convert(state, replace(VECTORS[name], **changes))
    assert isinstance(config, SGLFormerConfig)
    return config


@every_vector
def test_converted_network_equals_upstreams_code(name: str) -> None:
    recorded = vector(name)
    family, config, network = converted(recorded["state_dict"], VECTORS[name])
    assert family is SGLFORMER
    assert isinstance(config, SGLFormerConfig)
    assert config.frames == (name == "sglformer_dvs")
    assert config.weighs_timesteps == (name in READOUT)
    expected = recorded["y_single64"].flatten(0, -2)
    assert expected.std(dim=0).max() > 1e-2, "the logits do not depend on the image"
    torch.testing.assert_close(singly(network, recorded["x"]), expected, rtol=0.0, atol=1e-9)
    x = recorded["x"].double()
    assert_live(network, x.transpose(0, 1) if config.frames else x)


def test_widths_depths_and_ratios_are_those_of_the_weights() -> None:
    found = {n: config_of(n) for n in VECTORS}
    assert [c.depth for c in found.values()] == [1, 1, 1, 1]
    assert [c.global_blocks for c in found.values()] == [2, 2, 2, 1]
    assert [c.stem_width for c in found.values()] == [2, 2, 2, 2]
    assert [c.embed_dim for c in found.values()] == [12, 16, 16, 16]
    assert [c.mlp_ratio for c in found.values()] == [3.0, 1.0, 1.0, 2.0]
    assert [c.pooling for c in found.values()] == ["00011", "01111", "11110", "01111"]
    assert [c.timesteps for c in found.values()] == [3, 2, 4, 3]
    assert [c.image_size for c in found.values()] == [32, 64, 64, 64]


def test_a_second_group_of_blocks_is_found() -> None:
    state = vector("sglformer_cifar")["state_dict"]
    deeper = state | {
        key.replace("blocks.0.", "blocks.1."): tensor
        for key, tensor in state.items()
        if key.startswith("blocks.0.")
    }
    _, config, network = converted(deeper, VECTORS["sglformer_cifar"])
    assert isinstance(config, SGLFormerConfig)
    assert config.depth == 2
    x = vector("sglformer_cifar")["x"]
    _, _, shallow = converted(state, VECTORS["sglformer_cifar"])
    assert (singly(network, x) - singly(shallow, x)).abs().max() > 1e-2


def saved(folder: Path, name: str, **changes: Any) -> Path:
    """A file as upstream's script writes it; arguments that are changed to None are left out."""
    recorded = vector(name)
    arguments = {k: v for k, v in {**recorded["args"], **changes}.items() if v is not None}
    path = folder / "checkpoint-199.pth"
    kind = "state_dict" if name == "sglformer_cifar" else "model"
    content = {kind: recorded["state_dict"], "args": argparse.Namespace(**arguments)}
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("sglformer_cifar", {}),
        ("sglformer_dvs", {"num_heads": 2}),
        ("sglformer_ima", {"timesteps": 4, "num_heads": 2}),
        ("sglformer_ima2", {"timesteps": 3, "num_heads": 2}),
    ],
)
def test_a_training_scripts_container_tells_the_rest(
    name: str, given: dict[str, int], tmp_path: Path
) -> None:
    model = load(saved(tmp_path, name), **given)
    assert model.family is SGLFORMER
    assert model.config == config_of(name)
    expected = vector(name)["y_single64"].flatten(0, -2)
    found = singly(model.module, vector(name)["x"])
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-9)


def test_the_two_kinds_of_imagenet_models_differ_by_name_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, "sglformer_ima", model="sglformer_ima2_8_384")
    given: dict[str, int] = {"timesteps": 4, "num_heads": 2}
    wrong = load(path, **given)
    recorded = vector("sglformer_ima")
    expected = recorded["y_single64"].flatten(0, -2)
    assert (singly(wrong.module, recorded["x"]) - expected).abs().max() > 1e-2
    assert load(path, **given, pooling="11110").config == config_of("sglformer_ima")
    unnamed = saved(tmp_path, "sglformer_ima", model="sglformer2_2_384_4")
    said = r"pass --pooling 11110 \(sglformer_ima\) or 01111 \(sglformer_ima2\)"
    with pytest.raises(ModelError, match=said):
        load(unnamed, **given)


def test_heads_are_upstreams_where_its_code_leaves_no_choice() -> None:
    state = {"head.weight": torch.zeros(7, 128)}
    widths = {"patch_embed.proj_conv": (16, 3), "patch_embed.proj4_conv": (128, 128)}
    state |= {f"{layer}.weight": torch.zeros(*w, 3, 3) for layer, w in widths.items()}
    state["localblock.0.local1.conv.conv3x3.weight"] = torch.zeros(128, 1, 3, 3)
    state["localblock.0.local2_MLP.mlp1.conv1x1.weight"] = torch.zeros(512, 128, 1, 1)
    state["blocks.0.attn.q_conv.weight"] = torch.zeros(128, 128, 1)
    assert config_of("sglformer_ima", state, num_heads=None).num_heads == 2
    assert config_of("sglformer_ima", state, num_heads=4).num_heads == 4
    assert config_of("sglformer_dvs", num_heads=None).num_heads == 16


def test_keys_of_its_forms_are_no_other_familys() -> None:
    for path in FIXTURES.glob("*.pt"):
        keys = vector(path.stem)["state_dict"].keys()
        assert SGLFORMER.recognises(keys) == (path.stem in VECTORS)
        if path.stem in VECTORS:
            assert [family for family in FAMILIES if family.recognises(keys)] == [SGLFORMER]
            assert recognise(keys - {"head.weight"}) is None


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("sglformer_cifar", {"num_heads": None}, "number of heads cannot .*: pass --heads"),
        ("sglformer_cifar", {"num_heads": 5}, "5 heads do not divide the attention width 12"),
        (
            "sglformer_cifar",
            {"timesteps": 4},
            "--timesteps is 4, but the weights are of a model with 3; pass --timesteps 3 or none",
        ),
        (
            "sglformer_cifar",
            {"image_size": 64},
            r"--image-size is 64, but the .* with 32 \(with --pooling 00011\); .* 32 or none",
        ),
        ("sglformer_cifar", {"pooling": "0011"}, "'0011': expected five digits, .*--pooling$"),
        ("sglformer_ima", {"pooling": None}, "pass --pooling 11110"),
        ("sglformer_ima", {"timesteps": None}, "pass --timesteps"),
        ("sglformer_ima", {"image_size": None}, "pass --image-size"),
        ("sglformer_ima", {"image_size": 48}, "48 is not a multiple of 32"),
        ("sglformer_ima", {"num_heads": None}, "pass --heads"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_in_one_line(
    name: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        config_of(name, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((12, 1, 63, 3), "full_size_conv.weight is of 63 tokens: expected those of a square"),
        ((12, 1, 64), r"full_size_conv.weight is \[12, 1, 64\]: expected 4 axes"),
    ],
)
def test_a_readout_of_another_shape_is_refused(shape: tuple[int, ...], said: str) -> None:
    state = vector("sglformer_cifar")["state_dict"]
    state["full_size_conv.weight"] = torch.zeros(shape)
    with pytest.raises(ModelError, match=said):
        config_of("sglformer_cifar", state)


def test_missing_and_unexpected_keys_are_named() -> None:
    state = vector("sglformer_ima")["state_dict"]
    del state["localblock.0.local1.dwconv3x3.bn.bias"]
    state["blocks.0.attn.x_conv.weight"] = torch.zeros(1)
    said = r"missing .*groups.0.local.conv.inner.bn.bias.*unexpected \(blocks.0.attn.x_conv.weight"
    with pytest.raises(ModelError, match=said):
        converted(state, VECTORS["sglformer_ima"])


def test_weights_of_single_timesteps_fix_their_number() -> None:
    model = make_model(config_of("sglformer_cifar"), family=SGLFORMER)
    assert model.at_timesteps(3) is model
    with pytest.raises(ModelError, match=r"runs for the 3 timesteps of its weights: .* be 2"):
        model.at_timesteps(2)
    free = make_model(config_of("sglformer_ima2"), family=SGLFORMER)
    assert free.at_timesteps(2).timesteps == 2


def test_windows_take_every_second_pixel() -> None:
    attention = SGLFORMER.build(config_of("sglformer_ima")).get_submodule("groups.0.local.attn")
    assert isinstance(attention, LocalAttention)
    x = torch.arange(2 * 16 * 4 * 6.0).reshape(2, 16, 4, 6)
    windows = attention.split(x)
    assert windows.shape == (2, 4 * 2, 8, 6)
    assert torch.equal(windows[:, 0], x[:, :8, ::2, ::2].flatten(2))
    assert torch.equal(windows[:, 3], x[:, 8:, ::2, 1::2].flatten(2))
    assert torch.equal(windows[:, 4], x[:, :8, 1::2, ::2].flatten(2))
    assert torch.equal(attention.join(windows, (4, 6)), x)


def groups_of(name: str) -> dict[str, Group]:
    config = config_of(name)
    network = SGLFORMER.build(config)
    return {group.name: group for group in find_groups(network, config.input_shape)}


def test_groups() -> None:
    groups = groups_of("sglformer_cifar")
    blocks = [f"groups.0.{block}" for block in ("local", "blocks.0", "blocks.1")]
    inner = [f"{block}.{part}" for block in blocks for part in ("attn.qk", "attn.v", "mlp")]
    stem = [f"stem.{i}" for i in range(4)]
    assert groups.keys() == {"residual", *stem, "groups.0.local.conv", *inner}
    assert groups["groups.0.local.conv"].outputs == (
        "groups.0.local.conv.expand.conv",
        "groups.0.local.conv.inner.conv",
    )
    assert groups["groups.0.local.attn.qk"].heads == groups["groups.0.blocks.1.attn.v"].heads == 2
    stream = groups["residual"]
    assert stream.heads == 1
    assert {"stem.4.conv", "readout.conv", "groups.0.local.conv.depthwise.conv"} <= set(
        stream.outputs
    )
    assert {"head", "groups.0.local.conv.expand.conv"} <= set(stream.inputs)
    assert "readout.bn" in stream.norms
    assert "readout.conv" not in groups_of("sglformer_ima")["residual"].outputs


@pytest.mark.slow
def test_the_native_engine_runs_windows_as_one_operator() -> None:
    quantized = quantize(model_of("sglformer"), 8, None)
    program = lower_to_program(quantized.module.float(), quantized.config, precision=Precision.INT8)
    found = [op for op in program.operators if isinstance(op, AttentionOp)]
    assert [(op.windows, op.columns, op.positions) for op in found] == [
        (2, 2, 4),
        (1, 16, 16),
        (1, 16, 16),
    ]
    assert not [op for op in program.operators if isinstance(op, MatMulOp)]


@pytest.mark.slow
def test_the_native_engine_runs_a_readout_of_many_timesteps(tmp_path: Path) -> None:
    """As many as event cameras give: 64 tokens, and T where a kernel has more than 256 places."""
    config = replace(
        config_of("sglformer_cifar"), timesteps=5, image_size=16, pooling="00001", stem_width=4
    )
    assert config.tokens * config.timesteps == 320
    quantized = quantize(make_model(config, family=SGLFORMER), 8, None)
    traced = trace_network(quantized.module.float(), config, exact=True)
    shipped = export_native(quantized, tmp_path / "m.svit", precision=Precision.INT8, traced=traced)
    assert shipped.float_layers["readout.conv"] == "its convolution is grouped"
    images = torch.randn(4, *config.input_shape, generator=torch.Generator().manual_seed(5))
    expected = quantized.logits(images).numpy()
    found = NativeModel(shipped.path).logits(images.numpy())
    close = np.abs(found - expected).max(axis=1) < 1e-3
    # A spike that flips at its threshold may move an image's logits.
    assert close.sum() >= 3
