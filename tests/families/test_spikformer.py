"""Spikformer computes what SpikingJelly's class of that name computes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import TINY, enliven
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based.model.spikformer import Spikformer as Upstream
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import family_named, recognise
from primesvt_deploy.families.base import ModelOptions
from primesvt_deploy.families.spikformer import SPIKFORMER
from primesvt_deploy.families.spikformer_net import SpikformerConfig
from primesvt_deploy.families.units import Neuron


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


def model_of(config: SpikformerConfig, seed: int = 0) -> nn.Module:
    return enliven(SPIKFORMER.build(config), seed).double()


@torch.no_grad()
def upstream_logits(model: Any, batch: torch.Tensor) -> torch.Tensor:
    functional.reset_net(model)
    return model(batch).mean(dim=0)


def assert_live(model: nn.Module, batch: torch.Tensor) -> None:
    """Every neuron layer both fires and stays silent: nothing is equal for want of spikes."""
    rates: dict[str, float] = {}

    def record(name: str) -> Any:
        return lambda _module, _inputs, spikes: rates.update({name: float(spikes.mean())})

    handles = [
        module.register_forward_hook(record(name))
        for name, module in model.named_modules()
        if isinstance(module, Neuron)
    ]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    assert rates
    dull = {name: rate for name, rate in rates.items() if not 0.01 < rate < 0.99}
    assert not dull


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
    config, state = SPIKFORMER.convert(theirs.state_dict(), options)
    ours = SPIKFORMER.build(config).double()
    ours.load_state_dict(state)
    batch = images(config, 4)
    assert_live(ours, batch)
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
    config, state = SPIKFORMER.convert(theirs.state_dict(), options)
    # A neuron class of one's own gets its parameters everywhere, attention included.
    config = replace(config, v_reset=v_reset, decay_input=decay_input, attention_tau=1.6)
    ours = SPIKFORMER.build(config).double()
    ours.load_state_dict(state)
    batch = images(config, 4)
    with torch.no_grad():
        found = ours(batch)
    torch.testing.assert_close(found, upstream_logits(theirs, batch), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("arguments", [{"tau": 1.6}, {"v_threshold": 0.8}], ids=str)
def test_neuron_options_mean_what_spikingjellys_arguments_mean(arguments: dict[str, float]) -> None:
    """Its Spikformer keeps tau from attention, but hands v_threshold on to it."""
    options = ModelOptions(timesteps=4, num_heads=2, image_size=16, patch_size=4, **arguments)
    theirs = upstream(options, embed=16, depth=1, seed=2, **arguments)
    config, state = SPIKFORMER.convert(theirs.state_dict(), options)
    ours = SPIKFORMER.build(config).double()
    ours.load_state_dict(state)
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
        patch_size=4,
        in_channels=3,
        num_classes=7,
        num_heads=2,
        embed_dim=16,
        stem_widths=(2, 4, 8),
        qk_widths=(16, 16),
        v_widths=(16, 16),
        mlp_widths=(40, 40),
    )
    assert config.depth == 2
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


@pytest.mark.parametrize("timesteps", [1, 3])
def test_chained_segments_give_the_logits(timesteps: int) -> None:
    config = replace(TINY, timesteps=timesteps)
    model = model_of(config)
    batch = images(config, 3)
    with torch.no_grad():
        state = batch
        for segment in SPIKFORMER.segments(model):
            state = segment.run(state)
        assert torch.equal(state, model(batch))


def test_segments_name_every_parameter_once() -> None:
    model = model_of(TINY)
    units = [unit for segment in SPIKFORMER.segments(model) for unit in segment.units]
    owners = {
        name: [unit for unit in units if name.startswith(f"{unit}.")]
        for name, _ in model.named_parameters()
    }
    assert all(len(found) == 1 for found in owners.values()), owners


def test_change_inside_a_segments_units_changes_no_earlier_segment() -> None:
    model = model_of(TINY)
    batch = images(TINY, 2)

    @torch.no_grad()
    def states() -> list[torch.Tensor]:
        found = [batch]
        for segment in SPIKFORMER.segments(model):
            found.append(segment.run(found[-1]))
        return found[1:]

    for index, segment in enumerate(SPIKFORMER.segments(model)):
        before = states()
        weights = [p for unit in segment.units for p in model.get_submodule(unit).parameters()]
        kept = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight in weights:
                weight.mul_(-1.0)
        after = states()
        with torch.no_grad():
            for weight, value in zip(weights, kept, strict=True):
                weight.copy_(value)
        assert all(map(torch.equal, before[:index], after[:index])), segment.name
        assert not torch.equal(before[index], after[index]), segment.name


@pytest.mark.parametrize("v_reset", [0.0, -0.5, None])
def test_configuration_survives_json(v_reset: float | None) -> None:
    config = replace(TINY, v_reset=v_reset, tau=1.5, decay_input=False, attention_scale=0.25)
    values = json.loads(json.dumps(config.to_dict()))
    assert None not in values.values(), "TOML has no null"
    assert SPIKFORMER.config_from_dict(values) == config


def test_defaults_may_be_left_out_of_a_configuration() -> None:
    values = TINY.to_dict()
    del values["tau"], values["v_reset"]
    assert SPIKFORMER.config_from_dict(values) == TINY


def test_unknown_argument_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown Spikformer argument 'depth': expected some of"):
        SPIKFORMER.config_from_dict({**TINY.to_dict(), "depth": 2})


@pytest.mark.parametrize(
    "name", ["timesteps", "image_size", "embed_dim", "stem_widths", "mlp_widths"]
)
def test_missing_argument_is_refused(name: str) -> None:
    values = TINY.to_dict()
    del values[name]
    with pytest.raises(ModelError, match=f"incomplete Spikformer configuration: .*{name}"):
        SPIKFORMER.config_from_dict(values)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"timesteps": 0}, "timesteps is 0"),
        ({"timesteps": "3"}, "timesteps is '3'"),
        ({"timesteps": 3.5}, "timesteps is 3.5"),
        ({"timesteps": True}, "timesteps is True"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": 18}, "image size 18 is not a multiple of the patch size 4"),
        ({"patch_size": 8}, "patch size 8: a Spikformer stem has 4 or 16"),
        ({"image_size": 8, "patch_size": 16}, "image size 8 is not a multiple"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"in_channels": -1}, "in_channels is -1"),
        ({"embed_dim": "wide"}, "embed_dim is 'wide'"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"num_heads": 3}, "3 heads do not divide the q/k width 16; .*--heads"),
        ({"v_widths": [16, 7]}, "2 heads do not divide the v width 7"),
        ({"stem_widths": [6, 8]}, "stem_widths is .*expected 3 whole numbers"),
        ({"stem_widths": 6}, "stem_widths is 6"),
        ({"stem_widths": [6, 8, 0]}, "stem_widths is"),
        ({"qk_widths": [16]}, "qk_widths is .*expected 2 whole numbers"),
        ({"v_widths": [16, 8, 8]}, "v_widths is"),
        ({"mlp_widths": 24}, "mlp_widths is 24"),
        ({"mlp_widths": [24, "x"]}, "mlp_widths is"),
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


def test_neurons_are_at_rest_before_each_call() -> None:
    model = model_of(TINY)
    batch = images(TINY, 3)
    with torch.no_grad():
        first = model(batch)
        model(images(TINY, 2, seed=9))
        assert torch.equal(model(batch), first)


@pytest.mark.parametrize("timesteps", [1, 4])
def test_images_of_a_batch_do_not_touch_each_other(timesteps: int) -> None:
    config = replace(TINY, timesteps=timesteps)
    model = model_of(config)
    batch = images(config, 3)
    with torch.no_grad():
        together = model(batch)
        singly = torch.cat([model(batch[i : i + 1]) for i in range(3)])
    assert together.shape == (3, 5)
    torch.testing.assert_close(together, singly, rtol=0.0, atol=1e-12)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_time_makes_a_difference() -> None:
    batch = images(TINY, 4)
    with torch.no_grad():
        one, four = (model_of(replace(TINY, timesteps=t))(batch) for t in (1, 4))
    assert (one - four).abs().max() > 1e-3


def test_resized_reads_the_widths_from_the_weights() -> None:
    narrow = replace(
        TINY,
        embed_dim=14,
        stem_widths=(5, 7, 11),
        qk_widths=(8, 10),
        v_widths=(6, 4),
        mlp_widths=(3, 20),
    )
    state = SPIKFORMER.build(narrow).state_dict()
    assert SPIKFORMER.resized(TINY, state) == narrow
