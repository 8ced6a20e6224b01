"""Spikingformer and Spikingformer-CML compute what upstream's code computes."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families.vectors import FIXTURES, assert_live, converted, family_of, singly, vector

from primesvt_deploy import load
from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import Family, families_with, family_named, recognise
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.families.spikformer_checkpoint import SPIKFORMER
from primesvt_deploy.families.spikingformer import SpikingformerConfig
from primesvt_deploy.families.spikingformer_checkpoint import SPIKINGFORMER, SPIKINGFORMER_CML
from primesvt_deploy.model.state_dict import network_with_weights

VECTORS = {
    "spikingformer_imagenet": ModelOptions(timesteps=4, num_heads=4, image_size=48),
    "spikingformer_cifar": ModelOptions(timesteps=4, num_heads=2, image_size=16),
    "spikingformer_dvs": ModelOptions(timesteps=3, num_heads=4, image_size=128),
    "spikingformer_cml_imagenet": ModelOptions(
        timesteps=4, num_heads=2, image_size=48, patch_size=16
    ),
    "spikingformer_cml_cifar": ModelOptions(timesteps=4, num_heads=4, image_size=16, patch_size=4),
    "spikingformer_cml_dvs": ModelOptions(timesteps=3, num_heads=2, image_size=128),
}
SAME_KEYS = sorted(VECTORS.keys() - {"spikingformer_cifar"})
"""Forms whose layers have the same names."""
every_vector = pytest.mark.parametrize("name", VECTORS)


def family_by_name(name: str) -> Family:
    return SPIKINGFORMER_CML if "_cml_" in name else SPIKINGFORMER


def other_family(name: str) -> Family:
    return SPIKINGFORMER if "_cml_" in name else SPIKINGFORMER_CML


def config_of(name: str, **changes: Any) -> SpikingformerConfig:
    """What a vector's weights say, given its options so changed."""
    options = replace(VECTORS[name], **changes)
    config, _ = family_by_name(name).convert(vector(name)["state_dict"], options)
    assert isinstance(config, SpikingformerConfig)
    return config


@every_vector
def test_converted_network_equals_upstreams_code(name: str) -> None:
    recorded = vector(name)
    family = family_by_name(name)
    assert family_of(name) is family
    _, config, network = converted(recorded["state_dict"], VECTORS[name], family)
    assert isinstance(config, SpikingformerConfig)
    assert config.pooling == ("0011" if name.endswith("cifar") else "1111")
    assert config.frames == name.endswith("dvs")
    expected = recorded["y_single64"]
    assert expected.std(dim=0).max() > 1e-2, "the logits do not depend on the image"
    torch.testing.assert_close(singly(network, recorded["x"]), expected, rtol=0.0, atol=1e-9)
    x = recorded["x"].double()
    assert_live(network, x.transpose(0, 1) if config.frames else x, least=0.05)


@every_vector
def test_the_order_of_pooling_and_neuron_makes_a_difference(name: str) -> None:
    recorded = vector(name)
    config, state = family_by_name(name).convert(recorded["state_dict"], VECTORS[name])
    wrong = network_with_weights(other_family(name), config, state, Path("x.pth"))
    assert (singly(wrong, recorded["x"]) - recorded["y_single64"]).abs().max() > 1e-2


def test_depth_and_widths_are_read_from_the_weights() -> None:
    assert [config_of(name).depth for name in VECTORS] == [2, 1, 1, 1, 2, 1]
    assert [config_of(name).mlp_ratio for name in VECTORS] == [2.0, 4.0, 4.0, 4.0, 1.0, 2.0]
    assert [config_of(name).embed_dim for name in VECTORS] == [24, 32, 24, 24, 24, 24]


def test_a_hidden_width_like_the_streams_adds_no_shortcut() -> None:
    """Spike-driven Transformer V1 and Max-Former add one there, in the same MLP."""
    groups = groups_of("spikingformer_cml_cifar")
    assert groups["blocks.0.mlp"].width == groups["residual"].width
    assert groups["blocks.0.mlp"].outputs == ("blocks.0.mlp.fc1.conv",)


@pytest.mark.parametrize(
    ("name", "tau"), [("spikingformer_dvs", 1.5), ("spikingformer_cml_dvs", 1.75)]
)
def test_time_constant_of_frames_is_that_of_upstreams_code(name: str, tau: float) -> None:
    assert config_of(name).tau == tau
    assert config_of(name, tau=2.0).tau == 2.0
    assert config_of(name, frames=False, patch_size=16).tau == 2.0
    recorded = vector(name)
    options = replace(VECTORS[name], tau=2.0)
    _, _, wrong = converted(recorded["state_dict"], options, family_by_name(name))
    assert (singly(wrong, recorded["x"]) - recorded["y_single64"]).abs().max() > 1e-2


def test_keys_alone_tell_one_form_only() -> None:
    cifar = vector("spikingformer_cifar")["state_dict"].keys()
    assert recognise(cifar) is SPIKINGFORMER
    assert recognise(cifar - {"head.weight"}) is None
    for name in SAME_KEYS:
        keys = vector(name)["state_dict"].keys()
        assert families_with(keys) == (SPIKINGFORMER, SPIKINGFORMER_CML)
        assert recognise(keys) is None
        assert families_with(keys - {"head.weight"}) == ()


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.pt")), ids=lambda path: path.stem)
def test_no_other_familys_keys_are_taken_for_it_nor_the_other_way(path: Path) -> None:
    found = families_with(vector(path.stem)["state_dict"].keys())
    ours = {SPIKINGFORMER, SPIKINGFORMER_CML}
    assert found
    assert ours.issuperset(found) if path.stem in VECTORS else ours.isdisjoint(found)
    assert len(found) == (2 if path.stem in SAME_KEYS else 1)


def test_cml_in_a_spikformer_shows_in_its_keys() -> None:
    assert recognise(vector("spikformer_cml_cifar")["state_dict"].keys()) is SPIKFORMER


def saved(tmp_path: Path, name: str, **arguments: Any) -> Path:
    """A container as the training script of that vector writes it."""
    path = tmp_path / "model_best.pth.tar"
    content = {"state_dict": vector(name)["state_dict"], "args": argparse.Namespace(**arguments)}
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", SAME_KEYS)
def test_a_family_that_keys_do_not_show_is_asked_for(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path, name, model="vitsnn", time_step=4, num_heads=4, patch_size=16)
    with pytest.raises(ModelError) as caught:
        load(path, image_size=48)
    assert str(caught.value).endswith(
        "models of spikingformer and spikingformer-cml have the same keys and compute something "
        "else: pass --family with the one it was trained as"
    )


@pytest.mark.parametrize(
    ("name", "arguments", "given"),
    [
        (
            "spikingformer_imagenet",
            {"time_step": 4, "num_heads": 4, "img_size": 48, "patch_size": 16},
            {"family": "spikingformer"},
        ),
        (
            "spikingformer_cifar",
            {"time_step": 4, "num_heads": 2, "img_size": 16, "patch_size": 4},
            {},
        ),
        (
            "spikingformer_cml_cifar",
            {"time_step": 4, "num_heads": 4, "img_size": 16, "patch_size": 4},
            {"family": "spikingformer-cml"},
        ),
        (
            "spikingformer_cml_dvs",
            {"T": 3, "model": "SEWResNet"},
            {"family": "spikingformer-cml", "image_size": 128, "num_heads": 2},
        ),
    ],
)
def test_the_rest_is_read_from_a_training_scripts_container(
    name: str, arguments: dict[str, Any], given: dict[str, Any], tmp_path: Path
) -> None:
    model = load(saved(tmp_path, name, **arguments), **given)
    assert model.family is family_by_name(name)
    assert model.config == config_of(name)


def test_the_other_familys_name_is_refused_where_keys_exclude_it(tmp_path: Path) -> None:
    path = saved(tmp_path, "spikingformer_cifar")
    with pytest.raises(ModelError, match=r"is not a spikingformer-cml: .* look like spikingformer"):
        load(path, family="spikingformer-cml")
    path = saved(tmp_path, "spikingformer_imagenet")
    with pytest.raises(
        ModelError, match=r"is not a sdt-v1: .* look like spikingformer or spikingformer-cml"
    ):
        load(path, family="sdt-v1")


def groups_of(name: str) -> dict[str, Group]:
    config = config_of(name)
    network = family_by_name(name).build(config)
    return {group.name: group for group in find_groups(network, config.input_shape)}


def test_groups() -> None:
    groups = groups_of("spikingformer_imagenet")
    blocks = [f"blocks.{i}.{part}" for i in range(2) for part in ("attn.qk", "attn.v", "mlp")]
    assert groups.keys() == {"residual", *(f"stem.{i}" for i in range(4)), *blocks}
    assert groups["blocks.1.attn.qk"].outputs == tuple(f"blocks.1.attn.{p}.conv" for p in "kq")
    assert groups["blocks.1.attn.qk"].heads == groups["blocks.1.attn.v"].heads == 4
    assert groups["blocks.0.attn.v"].inputs == ("blocks.0.attn.proj.conv",)
    assert set(groups["residual"].outputs) == {
        "stem.4.conv",
        *(f"blocks.{i}.{unit}.conv" for i in range(2) for unit in ("attn.proj", "mlp.fc2")),
    }
    assert {"head", "blocks.0.attn.q.conv", "blocks.1.mlp.fc1.conv"} <= set(
        groups["residual"].inputs
    )


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("spikingformer_cifar", {"num_heads": None}, "the number of heads .*: pass --heads"),
        (
            "spikingformer_cifar",
            {"timesteps": None},
            "the number of timesteps .*: pass --timesteps",
        ),
        ("spikingformer_cifar", {"num_heads": 5}, "5 heads do not divide the attention width 32"),
        ("spikingformer_cifar", {"image_size": 18}, "image size 18 is not a multiple of 4"),
        ("spikingformer_imagenet", {"image_size": 40}, "image size 40 is not a multiple of 16"),
        (
            "spikingformer_cml_cifar",
            {"patch_size": None},
            r"the patch size \(4 or 16\) cannot be read from the weights: pass --patch-size",
        ),
        ("spikingformer_cml_cifar", {"patch_size": 8}, "patch size 8: this stem has 4 or 16"),
        ("spikingformer_cml_cifar", {"pooling": "01"}, "pooling is '01': expected four digits"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    name: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        config_of(name, **changes)
    assert "\n" not in str(caught.value)


def test_another_stem_can_be_asked_for() -> None:
    for name in ("spikingformer_cifar", "spikingformer_cml_imagenet"):
        assert config_of(name, pooling="0111").pooling == "0111"


def test_a_layer_that_is_not_upstreams_is_named() -> None:
    state = vector("spikingformer_cifar")["state_dict"]
    state["patch_embed.rpe_conv.weight"] = torch.zeros(1)
    del state["block.0.mlp.mlp2_bn.bias"]
    with pytest.raises(ModelError, match=r"1 keys missing \(blocks.0.mlp.fc2.bn.bias\)") as caught:
        converted(state, VECTORS["spikingformer_cifar"])
    assert "1 keys unexpected (patch_embed.rpe_conv.weight)" in str(caught.value)


def test_families_can_be_named() -> None:
    assert family_named("spikingformer") is SPIKINGFORMER
    assert family_named("spikingformer-cml") is SPIKINGFORMER_CML
