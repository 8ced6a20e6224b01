"""Max-Former computes what upstream's code and SpikingJelly's class of that name compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families.vectors import assert_live, converted, singly, vector
from small_models import enliven
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.maxformer import MaxFormer as Upstream
from torch import nn

from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import recognise
from primesvt_deploy.families.maxformer import MaxFormerConfig
from primesvt_deploy.families.maxformer_checkpoint import MAXFORMER
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.model.state_dict import network_with_weights

VECTORS = {
    "maxformer_imagenet": ModelOptions(timesteps=4, image_size=48),
    "maxformer_cifar": ModelOptions(timesteps=4, image_size=32),
}
every_vector = pytest.mark.parametrize("name", VECTORS)


def config_of(name: str, **changes: Any) -> MaxFormerConfig:
    """What a vector's weights say, given its options so changed."""
    options = replace(VECTORS[name], **changes)
    config, _ = MAXFORMER.convert(vector(name)["state_dict"], options)
    assert isinstance(config, MaxFormerConfig)
    return config


@every_vector
def test_converted_network_equals_upstreams_code(name: str) -> None:
    recorded = vector(name)
    family, config, network = converted(recorded["state_dict"], VECTORS[name])
    assert family is MAXFORMER
    assert isinstance(config, MaxFormerConfig)
    assert config.cifar == (name == "maxformer_cifar")
    assert config.attention_on_spikes
    assert config.depths == ((1, 1, 2) if config.cifar else (1, 2, 2))
    assert config.num_heads == (8 if config.cifar else 1)
    expected = recorded["y_single64"].flatten(0, -2)
    assert expected.std(dim=0).max() > 1e-2, "the logits do not depend on the image"
    torch.testing.assert_close(singly(network, recorded["x"]), expected, rtol=0.0, atol=1e-9)
    assert_live(network, recorded["x"].double())


def test_heads_that_upstreams_script_stores_are_not_the_models() -> None:
    """Its CIFAR configuration says 12 and is not read; the code says 8."""
    assert config_of("maxformer_cifar", num_heads=12).num_heads == 8


def test_place_of_the_neuron_in_attention_makes_a_difference() -> None:
    recorded = vector("maxformer_imagenet")
    config, state = MAXFORMER.convert(recorded["state_dict"], VECTORS["maxformer_imagenet"])
    wrong = network_with_weights(
        MAXFORMER, replace(config, attention_on_spikes=False), state, Path("x.pth")
    )
    expected = recorded["y_single64"].flatten(0, -2)
    assert (singly(wrong, recorded["x"]) - expected).abs().max() > 1e-2


def spikingjelly(seed: int, **arguments: Any) -> Any:
    """SpikingJelly's class in fp64 with random weights under which its layers spike."""
    settings: dict[str, Any] = {"embed_dims": 32, "depths": (1, 2, 2), "mlp_ratio": 2.5}
    model = enliven(Upstream(num_classes=7, **settings | arguments), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.bias is not None:
                layer.bias.copy_(0.2 * torch.randn(layer.bias.shape, generator=generator))
            elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                # Currents of both signs, or the stream would drive every neuron alike.
                layer.bias.copy_(0.8 + torch.randn(layer.bias.shape, generator=generator))
    return model.double()


def images(config: MaxFormerConfig, count: int = 4) -> torch.Tensor:
    """Noise of another brightness in each image."""
    steps = (config.timesteps,) if config.frames else ()
    generator = torch.Generator().manual_seed(5)
    shape = (*steps, count, *config.input_shape)
    noise = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return noise + torch.linspace(-2.0, 2.0, count, dtype=torch.float64)[:, None, None, None]


def compare_with_spikingjelly(theirs: Any, options: ModelOptions, **changes: Any) -> None:
    """Converted, its configuration changed so, the network gives their logits and is live."""
    assert recognise(theirs.state_dict().keys()) is MAXFORMER
    config, state = MAXFORMER.convert(theirs.state_dict(), options)
    assert isinstance(config, MaxFormerConfig)
    config = replace(config, **changes)
    ours = network_with_weights(MAXFORMER, config, state, Path("x.pth")).double()
    ours.load_state_dict(state)
    batch = images(config)
    assert_live(ours, batch)
    functional.reset_net(theirs)
    with torch.no_grad():
        found, expected = ours(batch), theirs(batch)
    assert expected.std(dim=0).max() > 1e-2, "the logits do not depend on the image"
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("timesteps", [1, 2, 4])
@pytest.mark.parametrize("cifar", [False, True])
def test_converted_network_equals_spikingjelly(timesteps: int, cifar: bool) -> None:
    theirs = spikingjelly(timesteps + 4, T=timesteps, cifar=cifar)
    options = ModelOptions(timesteps=timesteps, image_size=24 if cifar else 64)
    compare_with_spikingjelly(theirs, options)


@pytest.mark.parametrize(
    ("arguments", "image_size"),
    [
        ({"in_channels": 2}, 48),
        ({"in_channels": 2, "cifar": True}, 16),
        ({"mlp_ratio": 1.0}, 48),
        ({"embed_dims": 128, "depths": (1, 1, 1), "mlp_ratio": 1.5}, 48),
    ],
    ids=str,
)
def test_other_shapes_equal_spikingjelly(arguments: dict[str, Any], image_size: int) -> None:
    options = ModelOptions(timesteps=3, image_size=image_size)
    compare_with_spikingjelly(spikingjelly(3, T=3, **arguments), options)


@pytest.mark.parametrize("arguments", [{"tau": 1.6}, {"v_threshold": 0.8}], ids=str)
@pytest.mark.parametrize("cifar", [False, True])
def test_neuron_options_mean_what_spikingjellys_arguments_mean(
    arguments: dict[str, float], cifar: bool
) -> None:
    """It hands both on to every neuron, those of attention included."""
    theirs = spikingjelly(2, T=4, cifar=cifar, depths=(1, 1, 1), **arguments)
    options = ModelOptions(timesteps=4, image_size=16 if cifar else 48, **arguments)
    compare_with_spikingjelly(theirs, options)


def test_configuration_read_from_spikingjellys_imagenet_form() -> None:
    theirs = spikingjelly(0, T=4, embed_dims=192, depths=(1, 1, 1))
    options = ModelOptions(timesteps=4, image_size=224)
    config, _ = MAXFORMER.convert(theirs.state_dict(), options)
    assert config == MaxFormerConfig(
        timesteps=4,
        image_size=224,
        in_channels=3,
        num_classes=7,
        num_heads=3,
        embed_dim=192,
        depths=(1, 1, 1),
        attention_on_spikes=False,
        mlp_ratio=2.5,
    )
    assert MAXFORMER.inputs.resize(224) == 256


def groups_of(name: str) -> dict[str, Group]:
    config = config_of(name)
    network = MAXFORMER.build(config)
    return {group.name: group for group in find_groups(network, config.input_shape)}


def block_groups(depths: tuple[int, ...]) -> set[str]:
    mlps = {f"stages.{i}.{j}.mlp" for i, depth in enumerate(depths) for j in range(depth)}
    return mlps | {f"stages.2.{j}.attn.{part}" for j in range(depths[2]) for part in ("qk", "v")}


def test_groups_of_the_imagenet_form() -> None:
    groups = groups_of("maxformer_imagenet")
    streams = {"residual.1", "residual.2", "residual.3"}
    stem = {"stem.conv1", "stem.conv2", "embeddings.0.conv1", "embeddings.1.conv1"}
    assert groups.keys() == streams | stem | block_groups((1, 2, 2))
    assert set(groups["residual.1"].outputs) == {
        "stem.conv3.conv",
        "stem.shortcut.conv",
        "stages.0.0.dwconv.conv",
        "stages.0.0.mlp.fc2.conv",
    }
    assert set(groups["residual.1"].inputs) == {
        "stages.0.0.mlp.fc1.conv",
        "embeddings.0.conv1.conv",
        "embeddings.0.shortcut.conv",
    }
    assert "embeddings.0.shortcut.conv" in groups["residual.2"].outputs
    assert {"head", "stages.2.0.attn.q.conv"} <= set(groups["residual.3"].inputs)
    assert set(groups["stem.conv1"].inputs) == {"stem.conv2.conv", "stem.shortcut.conv"}


def test_groups_of_the_cifar_form() -> None:
    groups = groups_of("maxformer_cifar")
    streams = {"residual.1", "residual.2", "residual.3"}
    stem = {"stem.conv1", "embeddings.0.conv1", "embeddings.1.conv1"}
    assert groups.keys() == streams | stem | block_groups((1, 1, 2))
    heads = {name: group.heads for name, group in groups.items() if group.heads > 1}
    assert heads == {f"stages.2.{j}.attn.{part}": 8 for j in range(2) for part in ("qk", "v")}
    query_key = groups["stages.2.1.attn.qk"]
    assert query_key.outputs == ("stages.2.1.attn.k.conv", "stages.2.1.attn.q.conv")
    assert query_key.inputs == ()
    assert groups["stages.2.1.attn.v"].inputs == ("stages.2.1.attn.proj.conv",)


def test_own_names_are_not_taken_for_upstreams() -> None:
    recorded = vector("maxformer_cifar")["state_dict"]
    _, state = MAXFORMER.convert(recorded, VECTORS["maxformer_cifar"])
    assert recognise(state.keys()) is None


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("maxformer_imagenet", {"image_size": 40}, "image size 40 is not a multiple of 16"),
        ("maxformer_cifar", {"image_size": 30}, "image size 30 is not a multiple of 4, .*another"),
        (
            "maxformer_cifar",
            {"timesteps": None},
            "the number of timesteps cannot be read from the weights: pass --timesteps",
        ),
        (
            "maxformer_cifar",
            {"image_size": None},
            "the image size cannot be read from the weights: pass --image-size",
        ),
        ("maxformer_cifar", {"tau": 1.0}, "tau is 1.0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    name: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        MAXFORMER.build(config_of(name, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_heads": 3}, "3 heads do not divide the attention width 32; .*--heads"),
        ({"depths": (1, 2)}, r"depths are \[1, 2\]: expected one of each of 3 stages"),
        ({"depths": (1, 0, 2)}, r"depths is \(1, 0, 2\): expected whole numbers, 1 or more"),
    ],
)
def test_configuration_that_cannot_be_built_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        replace(config_of("maxformer_cifar"), **changes)


def test_missing_and_unexpected_keys_are_named() -> None:
    state = dict(vector("maxformer_imagenet")["state_dict"])
    del state["stage2.1.mlp.fc2_bn.running_var"]
    state["stage3.0.attn.dwc.weight"] = torch.zeros(32, 1, 5, 5)
    state["pos_embed"] = torch.zeros(1)
    with pytest.raises(ModelError, match=r"1 keys missing .*stages.1.1.mlp.fc2.bn") as caught:
        converted(state, VECTORS["maxformer_imagenet"])
    unexpected = "2 keys unexpected (pos_embed, stages.2.0.attn.dwc.weight)"
    assert unexpected in str(caught.value)


def test_other_families_keys_are_not_taken_for_it() -> None:
    for name in ("qkformer_imagenet", "qkformer_cifar", "sdt_v1_0011", "sdt_v2_T4"):
        assert not MAXFORMER.recognises(vector(name)["state_dict"].keys())
