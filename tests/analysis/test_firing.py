from __future__ import annotations

import pytest
import torch
from other_device import OTHER, other_device
from out_of_memory import memory_for

from primesvt_deploy.analysis.firing import measure_firing_rates
from primesvt_deploy.data import DataSet
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.verification.spikes import observed


def test_rates_are_the_share_of_ones(tiny: SViT, tiny_data: DataSet) -> None:
    images = tiny_data.search.first(20)
    spikes: list[torch.Tensor] = []
    handle = tiny.module.get_submodule("stem.1.neuron").register_forward_hook(
        lambda _m, _i, out: spikes.append(out)
    )
    tiny.logits(torch.from_numpy(images.inputs(0, 20)))
    handle.remove()
    rates = {layer.layer: layer for layer in measure_firing_rates(tiny, images, batch_size=7)}
    assert abs(rates["stem.1"].rate - float(spikes[0].double().mean())) < 1e-12
    assert set(rates) >= {"stem.0", "position", "blocks.0.attn", "blocks.1.mlp.fc2"}
    assert all(layer.n == 20 for layer in rates.values())


def test_a_silenced_channel_is_counted_as_silent(tiny: SViT, tiny_data: DataSet) -> None:
    images = tiny_data.search.first(20)
    before = next(r for r in measure_firing_rates(tiny, images) if r.layer == "stem.0")
    with torch.no_grad():
        tiny.module.get_parameter("stem.0.bn.weight")[0] = 0.0
        tiny.module.get_parameter("stem.0.bn.bias")[0] = 0.0
    after = next(r for r in measure_firing_rates(tiny, images) if r.layer == "stem.0")
    assert after.silent == before.silent + 1


def test_rates_by_timestep_and_channels_that_always_fire(tiny: SViT, tiny_data: DataSet) -> None:
    images = tiny_data.search.first(20)
    with torch.no_grad():
        tiny.module.get_parameter("stem.1.bn.weight")[:2] = 0.0
        tiny.module.get_parameter("stem.1.bn.bias")[:2] = torch.tensor([9.0, -9.0])
    _, spikes = observed(tiny, torch.from_numpy(images.inputs(0, 20)))
    for layer in measure_firing_rates(tiny, images, batch_size=7):
        fired = spikes[layer.layer].unflatten(0, (3, 20)).transpose(1, 2).flatten(2).double()
        assert torch.allclose(torch.tensor(layer.by_timestep).double(), fired.mean(dim=(1, 2)))
        assert layer.constant == int((fired > 0).all(dim=2).all(dim=0).sum())
    found = next(r for r in measure_firing_rates(tiny, images) if r.layer == "stem.1")
    assert found.constant >= 1 and found.silent >= 1


def test_a_quantized_model_has_rates_of_its_own(tiny: SViT, tiny_data: DataSet) -> None:
    images = tiny_data.search.first(9)
    quantized = quantize(tiny, 8, integer_input=True)
    found = {rate.layer: rate.rate for rate in measure_firing_rates(quantized, images)}
    _, spikes = observed(quantized, torch.from_numpy(images.as_pixels().inputs(0, 9)))
    assert found == {name: float(fired.double().mean()) for name, fired in spikes.items()}
    dense = {rate.layer: rate.rate for rate in measure_firing_rates(tiny, images)}
    assert found.keys() == dense.keys() and found != dense


def test_rates_on_another_device_are_the_same(tiny: SViT, tiny_data: DataSet) -> None:
    images = tiny_data.search.first(20)
    expected = measure_firing_rates(tiny, images)
    with other_device():
        assert measure_firing_rates(tiny, images, device=OTHER) == expected


def test_spikes_of_a_batch_that_did_not_fit_are_not_counted(tiny: SViT, tiny_data: DataSet) -> None:
    images = tiny_data.search.first(20)
    expected = measure_firing_rates(tiny, images)
    with memory_for(5, tiny.timesteps) as failed:
        assert measure_firing_rates(tiny, images) == expected
    assert failed == [20, 10]
    with memory_for(0, tiny.timesteps), pytest.raises(SettingsError, match="a single sample"):
        measure_firing_rates(tiny, images)
