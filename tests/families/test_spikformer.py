"""Spikformer computes what upstream's code and SpikingJelly's class of that name compute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from families.vectors import assert_live, converted, singly, vector
from small_models import TINY, enliven
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based.model.spikformer import Spikformer as Upstream
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import family_named, recognise
from primesvt_deploy.families.fit_widths import fit_widths
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.families.spikformer import SpikformerConfig
from primesvt_deploy.families.spikformer_checkpoint import SPIKFORMER


def upstream(options: ModelOptions, *, embed: int, depth: int, seed: int, **neurons: Any) -> Any:
    """SpikingJelly's Spikformer in fp64 with random weights under which its layers spike."""
    size, patch = options.image_size, options.patch_size
    model = Upstream(
        T=options.timesteps,
        img_size_h=size,
        img_size_w=size,
        patch_size=patch,
        num_classes=7,
        embed_dims=embed,
        num_heads=options.num_heads,
        depths=depth,
        mlp_ratio=2.5,
        **neurons,
    )
    return enliven(model, seed).double()


@torch.no_grad()
def lift_attention(model: Any, amount: float) -> None:
    """Let q, k and v fire more, so that products over few tokens reach the threshold."""
    for block in model.blocks:
        block.attn.qkv_conv_bn[1].bias.add_(amount)


def images(config: SpikformerConfig, count: int, seed: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *config.input_shape, dtype=torch.float64, generator=generator)


def loaded(
    theirs: Any, options: ModelOptions, **changes: Any
) -> tuple[SpikformerConfig, nn.Module]:
    """Our network with their weights, fp64, its configuration changed so."""
    config, state = SPIKFORMER.convert(theirs.state_dict(), options)
    assert isinstance(config, SpikformerConfig)
    config = replace(config, **changes)
    ours = SPIKFORMER.build(config)
    fit_widths(ours, state)
    ours.double().load_state_dict(state)
    return config, ours


@torch.no_grad()
def upstream_logits(model: Any, batch: torch.Tensor) -> torch.Tensor:
    functional.reset_net(model)
    return model(batch).mean(dim=0)


@pytest.mark.parametrize("timesteps", [1, 2, 4])
@pytest.mark.parametrize(
    ("image_size", "patch_size", "embed", "heads", "depth", "lift"),
    [
        (32, 4, 16, 2, 2, 0.0),
        (32, 16, 24, 3, 1, 2.0),
        (64, 16, 16, 4, 2, 1.0),
        (64, 4, 16, 1, 1, -0.6),
    ],
)
def test_converted_model_equals_upstream(
    timesteps: int,
    image_size: int,
    patch_size: int,
    embed: int,
    heads: int,
    depth: int,
    lift: float,
) -> None:
    options = ModelOptions(
        timesteps=timesteps, num_heads=heads, image_size=image_size, patch_size=patch_size
    )
    theirs = upstream(options, embed=embed, depth=depth, seed=timesteps)
    lift_attention(theirs, lift)
    config, ours = loaded(theirs, options)
    batch = images(config, 4)
    assert_live(ours, batch, least=0.01)
    with torch.no_grad():
        found = ours(batch)
    expected = upstream_logits(theirs, batch)
    assert expected.std(dim=0).min() > 1e-3, "the logits do not depend on the image"
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("v_reset", [None, 0.0, -0.2])
def test_neurons_with_other_parameters_equal_upstream(
    decay_input: bool, v_reset: float | None
) -> None:
    options = ModelOptions(
        timesteps=4, num_heads=2, image_size=16, patch_size=4, tau=1.6, v_threshold=0.8
    )
    theirs = upstream(
        options,
        embed=16,
        depth=1,
        seed=2,
        spiking_neuron=neuron.LIFNode,
        tau=1.6,
        v_threshold=0.8,
        v_reset=v_reset,
        decay_input=decay_input,
    )
    # A neuron class of one's own gets its parameters everywhere, attention included.
    config, ours = loaded(
        theirs, options, v_reset=v_reset, decay_input=decay_input, attention_tau=1.6
    )
    batch = images(config, 4)
    with torch.no_grad():
        found = ours(batch)
    torch.testing.assert_close(found, upstream_logits(theirs, batch), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("arguments", [{"tau": 1.6}, {"v_threshold": 0.8}], ids=str)
def test_neuron_options_mean_what_spikingjellys_arguments_mean(arguments: dict[str, float]) -> None:
    """Its Spikformer keeps tau from attention, but hands v_threshold on to it."""
    options = ModelOptions(timesteps=4, num_heads=2, image_size=16, patch_size=4, **arguments)
    theirs = upstream(options, embed=16, depth=1, seed=2, **arguments)
    config, ours = loaded(theirs, options)
    batch = images(config, 4)
    with torch.no_grad():
        found = ours(batch)
    torch.testing.assert_close(found, upstream_logits(theirs, batch), rtol=0.0, atol=1e-9)


def test_configuration_read_from_an_upstream_checkpoint() -> None:
    options = ModelOptions(timesteps=4, num_heads=2, image_size=16, patch_size=4)
    theirs = upstream(options, embed=16, depth=2, seed=0)
    config, _ = SPIKFORMER.convert(theirs.state_dict(), options)
    assert config == SpikformerConfig(
        timesteps=4,
        image_size=16,
        in_channels=3,
        num_classes=7,
        num_heads=2,
        embed_dim=16,
        depth=2,
        pooling="0011",
    )
    assert config.input_shape == (3, 16, 16)


def test_family_is_recognised_by_its_keys() -> None:
    options = ModelOptions(timesteps=1, num_heads=2, image_size=16, patch_size=4)
    keys = set(upstream(options, embed=16, depth=1, seed=0).state_dict())
    assert recognise(keys) is SPIKFORMER
    assert recognise(keys - {"head.weight"}) is None
    assert family_named("spikformer") is SPIKFORMER


def test_unknown_family_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown family 'resnet': expected one of spikformer"):
        family_named("resnet")


VECTORS = {
    "spikformer_imagenet": ModelOptions(timesteps=4, num_heads=4, image_size=64),
    "spikformer_cifar": ModelOptions(timesteps=4, num_heads=4, image_size=32),
    "spikformer_dvs": ModelOptions(timesteps=3, num_heads=4, image_size=128),
    "spikformer_cml_cifar": ModelOptions(timesteps=4, num_heads=4, image_size=16),
}


@pytest.mark.parametrize("name", VECTORS)
def test_converted_model_equals_upstreams_code(name: str) -> None:
    content = vector(name)
    family, config, ours = converted(content["state_dict"], VECTORS[name])
    assert family is SPIKFORMER
    assert isinstance(config, SpikformerConfig)
    assert config.pooling == ("0011" if name.endswith("cifar") else "1111")
    assert config.pool_after_neuron == (name != "spikformer_cml_cifar")
    assert config.frames == (name == "spikformer_dvs")
    expected = content["y_single64"].flatten(0, -2)
    assert expected.std(dim=0).min() > 1e-3, "the logits do not depend on the image"
    torch.testing.assert_close(singly(ours, content["x"]), expected, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("name", ["spikformer_imagenet", "spikformer_cml_cifar"])
def test_stem_order_matters(name: str) -> None:
    """The trap of the mapping: upstream pools after the neuron, SpikingJelly and CML before it."""
    content = vector(name)
    config, state = SPIKFORMER.convert(content["state_dict"], VECTORS[name])
    assert isinstance(config, SpikformerConfig)
    wrong = SPIKFORMER.build(replace(config, pool_after_neuron=not config.pool_after_neuron))
    fit_widths(wrong, state)
    wrong.load_state_dict(state)
    expected = content["y_single64"].flatten(0, -2)
    assert (singly(wrong, content["x"]) - expected).abs().max() > 1e-2


def test_defaults_may_be_left_out_of_a_configuration() -> None:
    values = TINY.to_dict()
    del values["tau"], values["v_reset"]
    assert SPIKFORMER.config_from_dict(values) == TINY


def test_unknown_argument_is_refused() -> None:
    with pytest.raises(ModelError, match="spikformer: unknown argument 'dropout': expected some"):
        SPIKFORMER.config_from_dict({**TINY.to_dict(), "dropout": 2})


@pytest.mark.parametrize("name", ["timesteps", "image_size", "embed_dim", "depth"])
def test_missing_argument_is_refused(name: str) -> None:
    values = TINY.to_dict()
    del values[name]
    with pytest.raises(ModelError, match=f"spikformer: incomplete configuration: .*{name}"):
        SPIKFORMER.config_from_dict(values)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"timesteps": 0}, "timesteps is 0"),
        ({"timesteps": "3"}, "timesteps is '3'"),
        ({"timesteps": 3.5}, "timesteps is 3.5"),
        ({"timesteps": True}, "timesteps is True"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": 18}, "image size 18 is not a multiple of 4"),
        ({"image_size": 8, "pooling": "1111"}, "image size 8 is not a multiple of 16"),
        ({"pooling": "11"}, "pooling is '11': expected four digits"),
        ({"pooling": 11}, "pooling is 11: expected a string"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"in_channels": -1}, "in_channels is -1"),
        ({"embed_dim": "wide"}, "embed_dim is 'wide'"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"num_heads": 3}, "3 heads do not divide the attention width 16; .*--heads"),
        ({"tau": "x"}, "tau is 'x'"),
        ({"tau": float("nan")}, "tau is nan"),
        ({"v_threshold": None}, "v_threshold is None"),
        ({"v_reset": "hard"}, "v_reset is 'hard'"),
        ({"attention_scale": "x"}, "attention_scale is 'x'"),
        ({"attention_v_threshold": float("inf")}, "attention_v_threshold is inf"),
        ({"decay_input": 1}, "decay_input is 1"),
    ],
)
def test_configuration_that_cannot_be_built_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        SPIKFORMER.config_from_dict({**TINY.to_dict(), **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tau": 1.0}, "tau is 1.0: a LIF neuron needs tau > 1"),
        ({"v_threshold": -0.1}, "v_threshold -0.1 is not above v_reset 0.0"),
        ({"attention_v_threshold": 0.0}, "v_threshold 0.0 is not above v_reset 0.0"),
    ],
)
def test_neurons_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        SPIKFORMER.build(replace(TINY, **changes))


def test_time_makes_a_difference() -> None:
    batch = images(TINY, 4)
    with torch.no_grad():
        one, four = (
            enliven(SPIKFORMER.build(replace(TINY, timesteps=t))).double()(batch) for t in (1, 4)
        )
    assert (one - four).abs().max() > 1e-3
