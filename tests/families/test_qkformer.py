"""QKFormer computes what upstream's code and SpikingJelly's class of that name compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families.vectors import assert_live, converted, singly, vector
from small_models import enliven
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.qkformer import QKFormer as Upstream
from torch import nn

from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import recognise
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.families.qkformer import QKFormerConfig
from primesvt_deploy.families.qkformer_checkpoint import QKFORMER
from primesvt_deploy.model.state_dict import network_with_weights

VECTORS = {
    "qkformer_imagenet": ModelOptions(timesteps=4, num_heads=4, image_size=64),
    "qkformer_cifar": ModelOptions(timesteps=4, image_size=16),
    "qkformer_dvs": ModelOptions(timesteps=4, stage_heads=(4, 4), image_size=48),
}
every_vector = pytest.mark.parametrize("name", VECTORS)


def config_of(name: str, **changes: Any) -> QKFormerConfig:
    """What a vector's weights say, given its options so changed."""
    options = replace(VECTORS[name], **changes)
    config, _ = QKFORMER.convert(vector(name)["state_dict"], options)
    assert isinstance(config, QKFormerConfig)
    return config


@every_vector
def test_converted_network_equals_upstream_on_each_sample(name: str) -> None:
    recorded = vector(name)
    family, config, network = converted(recorded["state_dict"], VECTORS[name])
    assert family is QKFORMER
    assert isinstance(config, QKFormerConfig)
    assert config.depths == recorded["config"]["depths"]
    assert config.embed_dim == recorded["config"]["dim"]
    expected = recorded["y_single64"].squeeze(1)
    torch.testing.assert_close(singly(network, recorded["x"]), expected, rtol=0.0, atol=1e-9)


@every_vector
def test_samples_do_not_leak_as_they_do_upstream(name: str) -> None:
    recorded = vector(name)
    _, config, network = converted(recorded["state_dict"], VECTORS[name])
    x = recorded["x"].double()
    with torch.no_grad():
        together = network.double()(x.transpose(0, 1) if config.frames else x)
    assert (recorded["y64"] - recorded["y_single64"].squeeze(1)).abs().max() > 0.1
    torch.testing.assert_close(together, recorded["y_single64"].squeeze(1), rtol=0.0, atol=1e-9)
    assert "issue 14" in QKFORMER.note


def spikingjelly(seed: int, **arguments: Any) -> Any:
    """SpikingJelly's QKFormer in fp64 with random weights under which its layers spike."""
    arguments = {"embed_dims": 32, "num_heads": (4, 8, 4), "depths": (1, 2, 1)} | arguments
    model = enliven(Upstream(num_classes=7, mlp_ratio=2.5, **arguments), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.bias is not None:
                layer.bias.copy_(0.2 * torch.randn(layer.bias.shape, generator=generator))
            elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and model.T == 1:
                layer.bias.add_(0.5)  # charge does not add up over time
    return model.double()


def compare_with_spikingjelly(theirs: Any, options: ModelOptions, **changes: Any) -> None:
    """Converted, its configuration changed so, the network gives their logits and is live."""
    config, state = QKFORMER.convert(theirs.state_dict(), options)
    ours = network_with_weights(QKFORMER, replace(config, **changes), state, Path("x.pth")).double()
    ours.load_state_dict(state)
    generator = torch.Generator().manual_seed(5)
    batch = torch.randn(4, *config.input_shape, dtype=torch.float64, generator=generator)
    functional.reset_net(theirs)
    with torch.no_grad():
        found, expected = ours(batch), theirs(batch)
    assert_live(ours, batch)
    assert expected.std(dim=0).min() > 1e-3, "the logits do not depend on the image"
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("timesteps", [1, 2, 4])
@pytest.mark.parametrize("kind", ["token", "channel"])
def test_converted_network_equals_spikingjelly(timesteps: int, kind: str) -> None:
    theirs = spikingjelly(timesteps, T=timesteps, qka_type=kind)
    options = ModelOptions(timesteps=timesteps, stage_heads=(4, 8, 4), image_size=64)
    compare_with_spikingjelly(theirs, options, qk_attention=kind)


@pytest.mark.parametrize("arguments", [{"tau": 1.6}, {"v_threshold": 0.8}], ids=str)
def test_neuron_options_mean_what_spikingjellys_arguments_mean(arguments: dict[str, float]) -> None:
    """Its QKFormer hands both on to every neuron, those of attention included."""
    theirs = spikingjelly(2, T=4, **arguments)
    options = ModelOptions(timesteps=4, stage_heads=(4, 8, 4), image_size=64, **arguments)
    compare_with_spikingjelly(theirs, options)


def test_spikingjellys_heads_may_differ_from_stage_to_stage_and_are_demanded() -> None:
    theirs = spikingjelly(0)
    assert recognise(theirs.state_dict().keys()) is QKFORMER
    options = ModelOptions(timesteps=4, num_heads=4, image_size=64)
    with pytest.raises(
        ModelError,
        match="heads of each stage cannot be read from the weights: pass --stage-heads",
    ):
        QKFORMER.convert(theirs.state_dict(), options)


@every_vector
def test_recognised_by_its_keys_and_not_under_our_names(name: str) -> None:
    state = vector(name)["state_dict"]
    _, _, network = converted(state, VECTORS[name])
    assert recognise(state.keys()) is QKFORMER
    assert not QKFORMER.recognises(network.state_dict().keys())
    assert not QKFORMER.recognises(state.keys() - {"head.weight"})


def test_configuration_read_from_the_weights() -> None:
    assert config_of("qkformer_dvs") == QKFormerConfig(
        timesteps=4,
        image_size=48,
        in_channels=2,
        num_classes=7,
        frames=True,
        form="dvs",
        stage_heads=(4, 4),
        embed_dim=32,
        depths=(1, 1),
    )
    assert config_of("qkformer_cifar").form == "cifar"
    assert config_of("qkformer_imagenet").form == "imagenet"


@pytest.mark.parametrize(("width", "heads"), [(384, 6), (512, 8), (768, 12)])
def test_heads_of_the_published_imagenet_models_are_known(width: int, heads: int) -> None:
    state = dict(vector("qkformer_imagenet")["state_dict"])
    state["patch_embed3.proj4_conv.weight"] = torch.empty(width, width, 3, 3, device="meta")
    config, _ = QKFORMER.convert(state, ModelOptions(timesteps=4, image_size=224))
    assert vars(config)["stage_heads"] == (heads,) * 3


def test_heads_that_upstreams_code_fixes_are_known() -> None:
    assert config_of("qkformer_cifar").stage_heads == (8, 8, 8)
    assert config_of("qkformer_cifar", num_heads=8).stage_heads == (8, 8, 8)
    assert config_of("qkformer_cifar", stage_heads=(4, 2, 1)).stage_heads == (4, 2, 1)
    assert config_of("qkformer_dvs", stage_heads=None).stage_heads == (16, 16)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            "qkformer_imagenet",
            {"num_heads": None},
            "the number of heads cannot be read from the weights: pass --heads",
        ),
        ("qkformer_imagenet", {"num_heads": 3}, "3 heads do not divide .* 16; .*--heads"),
        (
            "qkformer_imagenet",
            {"timesteps": None},
            "number of timesteps cannot be read from the weights: pass --timesteps",
        ),
        (
            "qkformer_imagenet",
            {"image_size": None},
            "the image size cannot be read from the weights: pass --image-size",
        ),
        ("qkformer_imagenet", {"image_size": 72}, "size 72 is not a multiple of 16.*--image-size"),
        ("qkformer_imagenet", {"stage_heads": (4, 4)}, r"\(4, 4\): .*3 stages; pass --stage-heads"),
        ("qkformer_cifar", {"image_size": 18}, "image size 18 is not a multiple of 4"),
        ("qkformer_cifar", {"num_heads": 4}, "has 8 in every stage.*--stage-heads 4,4,4 if"),
        ("qkformer_dvs", {"stage_heads": (5, 4)}, "5 heads do not divide .* 16"),
    ],
)
def test_options_that_do_not_fit_are_refused(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        config_of(name, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"form": "mnist"}, "form is 'mnist': expected one of imagenet, cifar, dvs"),
        ({"qk_attention": "both"}, "qk_attention is 'both': expected token or channel"),
        ({"depths": (1, 2)}, "depths are .*3 stages"),
        ({"embed_dim": 12}, "embed_dim is 12: expected a multiple of 8"),
    ],
)
def test_configuration_that_cannot_be_built_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        replace(config_of("qkformer_imagenet"), **changes)


def test_missing_and_unexpected_keys_are_listed() -> None:
    state = dict(vector("qkformer_cifar")["state_dict"])
    del state["stage2.0.tssa.k_bn.weight"]
    state["stage3.1.ssa.talking_heads.weight"] = torch.ones(1)
    with pytest.raises(ModelError) as caught:
        converted(state, VECTORS["qkformer_cifar"])
    assert "1 keys missing (stages.1.blocks.0.attn.k.bn.weight)" in str(caught.value)
    assert "1 keys unexpected (stage3.1.ssa.talking_heads.weight)" in str(caught.value)


def groups_of(name: str, **changes: Any) -> dict[str, Group]:
    config = replace(config_of(name), **changes)
    found = find_groups(QKFORMER.build(config), config.input_shape)
    return {group.name: group for group in found}


def test_groups_of_the_imagenet_form() -> None:
    groups = groups_of("qkformer_imagenet", stage_heads=(2, 4, 8))
    q_and_k = {(0, 0): 2, (1, 0): 4, (1, 1): 4}
    heads = {f"stages.{s}.blocks.{b}.attn.{u}": h for (s, b), h in q_and_k.items() for u in "qk"}
    heads |= {f"stages.2.blocks.{b}.attn.{u}": 8 for b in range(2) for u in ("qk", "v")}
    plain = {f"stages.{s}.embed.{i}" for s, i in [(0, 0), (0, 1), (1, 0), (2, 0)]}
    plain |= {f"stages.{s}.blocks.{b}.mlp" for s, b in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]}
    plain |= {"residual.1", "residual.2", "residual.3"}
    assert {name: group.heads for name, group in groups.items()} == heads | dict.fromkeys(plain, 1)


def test_what_the_groups_hold() -> None:
    groups = groups_of("qkformer_imagenet")
    stem = groups["stages.0.embed.0"]
    assert stem.outputs == ("stages.0.embed.convs.0.conv",)
    assert stem.inputs == ("stages.0.embed.convs.1.conv", "stages.0.embed.shortcut.conv")
    assert groups["stages.0.blocks.0.attn.q"].inputs == ()
    assert groups["stages.0.blocks.0.attn.k"].inputs == ("stages.0.blocks.0.attn.proj.conv",)
    first = groups["residual.1"]
    assert first.outputs == (
        "stages.0.blocks.0.attn.proj.conv",
        "stages.0.blocks.0.mlp.fc2.conv",
        "stages.0.embed.convs.2.conv",
        "stages.0.embed.shortcut.conv",
    )
    assert {"stages.1.embed.convs.0.conv", "stages.1.embed.shortcut.conv"} < set(first.inputs)
    assert "head" in groups["residual.3"].inputs


def test_channel_attention_ties_q_to_k_without_heads() -> None:
    group = groups_of("qkformer_cifar", qk_attention="channel")["stages.1.blocks.0.attn.qk"]
    assert group.heads == 1
    assert group.outputs == (
        "stages.1.blocks.0.attn.k.conv",
        "stages.1.blocks.0.attn.q.conv",
    )
    assert group.inputs == ("stages.1.blocks.0.attn.proj.conv",)


def test_larger_images_are_evaluated_without_a_crop_as_upstream_does() -> None:
    assert [QKFORMER.inputs.resize(size) for size in (32, 224, 288, 384)] == [32, 256, 288, 384]
