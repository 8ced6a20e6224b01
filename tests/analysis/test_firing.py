from __future__ import annotations

import torch

from primesvt_deploy.analysis.firing import measure_firing_rates
from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT


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
