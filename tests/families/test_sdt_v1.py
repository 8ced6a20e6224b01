"""Spike-driven Transformer (V1): what upstream's code and SpikingJelly's class of it compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families.vectors import FIXTURES, assert_live, converted, singly, vector
from small_models import enliven
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spike_driven_transformer import (
    SpikeDrivenTransformer as Upstream,
)
from torch import nn

from primesvt_deploy import load
from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import recognise
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.families.sdt_v1 import SDTV1Config
from primesvt_deploy.families.sdt_v1_checkpoint import SDT_V1
from primesvt_deploy.model.state_dict import network_with_weights

VECTORS = {
    "sdt_v1_1111": ModelOptions(timesteps=4, image_size=64, pooling="1111"),
    "sdt_v1_0011": ModelOptions(timesteps=4, num_heads=4, image_size=32, patch_size=4),
    "sdt_v1_dvs": ModelOptions(timesteps=3, image_size=32, pooling="0011"),
    "sdt_v1_gesture": ModelOptions(timesteps=3, image_size=32, pooling="0111"),
}
every_vector = pytest.mark.parametrize("name", VECTORS)


def config_of(name: str, state: Any = None, **changes: Any) -> SDTV1Config:
    """What a vector's weights say, given its options so changed."""
    state = vector(name)["state_dict"] if state is None else state
    config, _ = SDT_V1.convert(state, replace(VECTORS[name], **changes))
    assert isinstance(config, SDTV1Config)
    return config


@every_vector
def test_converted_network_equals_upstreams_code(name: str) -> None:
    recorded = vector(name)
    family, config, network = converted(recorded["state_dict"], VECTORS[name])
    assert family is SDT_V1
    assert isinstance(config, SDTV1Config)
    assert config.num_heads == 4
    assert config.depth == 2
    assert config.frames == (name in ("sdt_v1_dvs", "sdt_v1_gesture"))
    assert config.pooled_attention == (name == "sdt_v1_dvs")
    expected = recorded["y_single64"].flatten(0, -2)
    assert expected.std(dim=0).max() > 1e-2, "the logits do not depend on the image"
    torch.testing.assert_close(singly(network, recorded["x"]), expected, rtol=0.0, atol=1e-9)
    x = recorded["x"].double()
    assert_live(network, x.transpose(0, 1) if config.frames else x)


def test_a_training_scripts_container_tells_all_but_the_image_size() -> None:
    path = FIXTURES / "container_timm_module_prefix.pth.tar"
    model = load(path, image_size=64)
    assert model.family is SDT_V1
    assert model.config == config_of("sdt_v1_1111")
    recorded = vector("sdt_v1_1111")
    expected = recorded["y_single64"].flatten(0, -2)
    found = singly(model.module, recorded["x"])
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-9)
    assert load(path, image_size=224).preprocessing.resize == 235


def test_pooling_inside_attention_makes_a_difference() -> None:
    recorded = vector("sdt_v1_dvs")
    config, state = SDT_V1.convert(recorded["state_dict"], VECTORS["sdt_v1_dvs"])
    wrong = network_with_weights(
        SDT_V1, replace(config, pooled_attention=False), state, Path("x.pth")
    )
    expected = recorded["y_single64"].flatten(0, -2)
    assert (singly(wrong, recorded["x"]) - expected).abs().max() > 1e-2


def spikingjelly(options: ModelOptions, *, seed: int, **arguments: Any) -> Any:
    """SpikingJelly's class in fp64 with random weights under which its layers spike."""
    settings: dict[str, Any] = {"embed_dims": 32, "num_heads": 2, "depths": 2, "mlp_ratio": 2.5}
    model = Upstream(
        T=options.timesteps,
        num_classes=7,
        pooling_stat=options.pooling,
        **settings | arguments,
    )
    enliven(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                layer.bias.copy_(0.2 * torch.randn(layer.bias.shape, generator=generator))
            elif isinstance(layer, nn.BatchNorm2d):
                # Currents of both signs, or the stream would drive every neuron alike.
                layer.bias.copy_(0.6 + torch.randn(layer.bias.shape, generator=generator))
        for block in model.blocks:
            # Few tokens: k and v must meet often enough for the sum to reach the threshold.
            block.attn.k_bn.bias.add_(1.0)
            block.attn.v_bn.bias.add_(1.0)
    return model.double()


def images(config: SDTV1Config, count: int = 4) -> torch.Tensor:
    """Noise of another brightness in each image."""
    steps = (config.timesteps,) if config.frames else ()
    generator = torch.Generator().manual_seed(5)
    shape = (*steps, count, *config.input_shape)
    noise = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return noise + torch.linspace(-2.0, 2.0, count, dtype=torch.float64)[:, None, None, None]


def compare_with_spikingjelly(theirs: Any, options: ModelOptions, **changes: Any) -> None:
    """Converted, its configuration changed so, the network gives their logits and is live."""
    assert recognise(theirs.state_dict().keys()) is SDT_V1
    config, state = SDT_V1.convert(theirs.state_dict(), options)
    assert isinstance(config, SDTV1Config)
    config = replace(config, **changes)
    ours = network_with_weights(SDT_V1, config, state, Path("x.pth")).double()
    ours.load_state_dict(state)
    batch = images(config)
    assert_live(ours, batch)
    functional.reset_net(theirs)
    with torch.no_grad():
        found, expected = ours(batch), theirs(batch)
    assert expected.std(dim=0).max() > 1e-2, "the logits do not depend on the image"
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("timesteps", [1, 2, 4])
@pytest.mark.parametrize("pooling", ["0011", "0111", "1111", "1000"])
def test_converted_network_equals_spikingjelly(timesteps: int, pooling: str) -> None:
    options = ModelOptions(timesteps=timesteps, image_size=32, pooling=pooling)
    compare_with_spikingjelly(spikingjelly(options, seed=timesteps), options)


@pytest.mark.parametrize(
    ("arguments", "image_size"),
    [
        ({"in_channels": 2}, 16),
        ({"mlp_ratio": 1.0, "depths": 1}, 16),
        ({"embed_dims": 24, "num_heads": 3, "depths": 1}, 32),
    ],
    ids=str,
)
def test_other_shapes_equal_spikingjelly(arguments: dict[str, Any], image_size: int) -> None:
    options = ModelOptions(timesteps=3, image_size=image_size, pooling="0011")
    compare_with_spikingjelly(spikingjelly(options, seed=3, **arguments), options)


@pytest.mark.parametrize("arguments", [{"tau": 1.6}, {"v_threshold": 0.8}], ids=str)
def test_neuron_options_mean_what_spikingjellys_arguments_mean(arguments: dict[str, float]) -> None:
    """It hands both on to every neuron, those of attention included."""
    options = ModelOptions(timesteps=4, image_size=16, pooling="0011", **arguments)
    compare_with_spikingjelly(spikingjelly(options, seed=2, depths=1, **arguments), options)


@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("v_reset", [None, -0.2])
def test_other_neurons_equal_spikingjelly(decay_input: bool, v_reset: float | None) -> None:
    options = ModelOptions(timesteps=4, image_size=16, pooling="0011", v_threshold=1.5)
    neurons = {"decay_input": decay_input, "v_reset": v_reset}
    theirs = spikingjelly(options, seed=2, depths=1, v_threshold=1.5, **neurons)
    compare_with_spikingjelly(theirs, options, **neurons)


def groups_of(name: str, **changes: Any) -> dict[str, Group]:
    config = config_of(name, **changes)
    network = SDT_V1.build(config)
    return {group.name: group for group in find_groups(network, config.input_shape)}


def test_groups() -> None:
    groups = groups_of("sdt_v1_0011")
    blocks = [f"blocks.{i}.{part}" for i in range(2) for part in ("attn.qkv", "mlp")]
    assert groups.keys() == {"residual", "stem.0", "stem.1", "stem.2", *blocks}
    assert {group.heads for group in groups.values()} == {1}
    attention = groups["blocks.1.attn.qkv"]
    assert attention.outputs == tuple(f"blocks.1.attn.{part}.conv" for part in "kqv")
    assert attention.norms == tuple(f"blocks.1.attn.{part}.bn" for part in "kqv")
    assert attention.inputs == ("blocks.1.attn.proj.conv",)
    assert groups["blocks.0.mlp"].outputs == ("blocks.0.mlp.fc1.conv",)
    assert groups["blocks.0.mlp"].inputs == ("blocks.0.mlp.fc2.conv",)
    assert set(groups["residual"].outputs) == {
        "stem.3.conv",
        "position.conv",
        *(f"blocks.{i}.{unit}.conv" for i in range(2) for unit in ("attn.proj", "mlp.fc2")),
    }
    assert {"head", "position.conv", "blocks.0.attn.q.conv"} <= set(groups["residual"].inputs)


def test_a_hidden_width_with_a_shortcut_is_the_streams() -> None:
    groups = groups_of("sdt_v1_gesture")
    assert "blocks.0.mlp" not in groups
    assert {"blocks.0.mlp.fc1.conv", "blocks.0.mlp.fc2.conv"} <= set(groups["residual"].outputs)


def test_channels_that_are_pooled_with_their_neighbours_all_stay() -> None:
    group = groups_of("sdt_v1_dvs")["blocks.0.attn.qkv"]
    assert group.heads == group.width == 32


def test_configuration_needs_no_heads() -> None:
    config = SDTV1Config(
        timesteps=1,
        image_size=16,
        in_channels=3,
        num_classes=5,
        embed_dim=16,
        depth=1,
        pooling="0011",
    )
    assert config.num_heads == 1
    assert SDT_V1.config_from_dict(config.to_dict()) == config


def test_own_names_are_not_taken_for_upstreams_but_can_be_read() -> None:
    config, state = SDT_V1.convert(vector("sdt_v1_0011")["state_dict"], VECTORS["sdt_v1_0011"])
    assert recognise(state.keys()) is None
    again, same = SDT_V1.convert(state, VECTORS["sdt_v1_0011"])
    assert again == config
    assert same.keys() == state.keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_heads": 3}, "3 heads, but the weights are of a model with 4; pass --heads 4"),
        ({"image_size": 30}, "image size 30 is not a multiple of 4, .* pass another --image-size"),
        ({"image_size": 24, "pooling": "1111"}, "image size 24 is not a multiple of 16"),
        (
            {"timesteps": None},
            "the number of timesteps cannot be read from the weights: pass --timesteps",
        ),
        ({"image_size": None}, "the image size cannot be read from the weights: pass --image-size"),
        (
            {"patch_size": None},
            "which stem stages pool cannot be read from the weights: pass --pooling, such as 1111",
        ),
        ({"patch_size": 8}, "patch size 8: this stem has 4 or 16; pass --patch-size or --pooling"),
        ({"pooling": "0121"}, "pooling is '0121': expected four digits"),
        ({"tau": 1.0}, "tau is 1.0"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        SDT_V1.build(config_of("sdt_v1_0011", **changes))
    assert "\n" not in str(caught.value)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(
        ModelError, match=r"5 heads do not divide the attention width 32; .*--heads"
    ):
        replace(config_of("sdt_v1_0011"), num_heads=5)


def without(state: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: tensor for key, tensor in state.items() if key not in keys}


def test_missing_and_unexpected_keys_are_named() -> None:
    state = vector("sdt_v1_0011")["state_dict"]
    state = without(state, "block.1.mlp.fc2_bn.running_var")
    state["block.0.attn.q_lif.w"] = torch.zeros(())
    with pytest.raises(ModelError, match=r"1 keys missing .*blocks.1.mlp.fc2.bn.running_var") as it:
        converted(state, VECTORS["sdt_v1_0011"])
    assert r"1 keys unexpected (block.0.attn.q_lif.w)" in str(it.value)


def test_a_bias_that_one_block_lacks_is_named() -> None:
    state = without(vector("sdt_v1_0011")["state_dict"], "block.1.attn.proj_conv.bias")
    with pytest.raises(ModelError, match=r"blocks.1.attn.proj.conv.bias is missing"):
        converted(state, VECTORS["sdt_v1_0011"])


def test_other_families_keys_are_not_taken_for_it() -> None:
    assert not SDT_V1.recognises(vector("spikformer_imagenet")["state_dict"].keys())
    assert not SDT_V1.recognises(vector("sdt_v2_T4")["state_dict"].keys())
    assert not SDT_V1.recognises(vector("maxformer_cifar")["state_dict"].keys())
