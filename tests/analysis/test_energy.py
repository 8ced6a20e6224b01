"""Operations counted by hand, and on every family."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pytest
import torch
from families.zoo import FORMS, ZOO, model_of, samples_of
from idioms import network_in
from other_device import OTHER, other_device
from out_of_memory import memory_for
from own_nets import Flattened, attending
from small_models import enliven
from spikingjelly.activation_based import layer, neuron
from torch import nn

from primesvt_deploy import adopt
from primesvt_deploy.analysis.cost import measure_cost
from primesvt_deploy.analysis.energy import EnergyEstimate, LayerEnergy, estimate_energy
from primesvt_deploy.analysis.firing import measure_firing_rates
from primesvt_deploy.data import DataSet
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize


class Steps:
    """Takes samples as they are."""

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        return pixels.astype(np.float32)


def listed(samples: np.ndarray) -> ImageList:
    numbers = np.arange(len(samples))
    return ImageList(lambda i: samples[i], numbers, numbers, cast(Any, Steps()))


def by_name(estimate: EnergyEstimate) -> dict[str, LayerEnergy]:
    return {found.layer.removeprefix("net."): found for found in estimate.layers}


def lif() -> nn.Module:
    return neuron.LIFNode(step_mode="m", detach_reset=True)


class ByHand(nn.Module):
    """Biases alone decide who fires: 3 of 4 channels always, 1 never, in each of 2 timesteps."""

    T = 2

    def __init__(self) -> None:
        super().__init__()
        self.stem = layer.SeqToANNContainer(nn.Conv2d(3, 4, 3, padding=1))
        self.fc = layer.SeqToANNContainer(nn.Conv2d(4, 4, 1))
        self.wide = layer.SeqToANNContainer(nn.Conv2d(4, 6, 3, padding=1, groups=2))
        self.stem_lif, self.fc_lif, self.wide_lif, self.seen = lif(), lif(), lif(), lif()
        self.head = nn.Linear(8, 5)
        with torch.no_grad():
            for container, biases in (
                # H = bias / 2 at rest: 4 is above the threshold of 1 at once, -4 never.
                (self.stem, (4.0, 4.0, 4.0, -4.0)),
                (self.fc, (4.0, -4.0, -4.0, -4.0)),
                (self.wide, (4.0, -4.0, -4.0, -4.0, -4.0, -4.0)),
            ):
                conv = container[0]
                conv.weight.zero_()
                conv.bias.copy_(torch.tensor(biases))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        x = self.stem_lif(self.stem(x))
        x = x + self.fc_lif(self.fc(x))
        y = self.wide_lif(self.wide(x)).flatten(3)[:, :, :4]
        flat = x.flatten(3)
        product = self.seen(flat @ y.transpose(-1, -2))
        logits: torch.Tensor = self.head(torch.cat([flat.mean(-1), product.mean(-1)], dim=-1))
        return logits.mean(0)


@pytest.fixture(scope="module")
def by_hand() -> SViT:
    return adopt(ByHand().eval(), image_size=8)


def test_operations_counted_by_hand(by_hand: SViT) -> None:
    samples = np.random.default_rng(0).standard_normal((3, 3, 8, 8))
    found = estimate_energy(by_hand, listed(samples), batch_size=2)
    pixels, steps = 8 * 8, 2
    layers = {name.removesuffix(".0"): entry for name, entry in by_name(found).items()}
    expected = {
        # The input is the image. MACs at the border count as everywhere: 9 for each pixel.
        "stem": (steps * pixels * 3 * 4 * 9, None),
        # Three of four channels fire.
        "fc": (steps * pixels * 4 * 4, 3 / 4),
        # The residual holds counts: 2, 1, 1 and 0. Two groups, so half of the channels meet.
        "wide": (steps * pixels * 2 * 6 * 9, 4 / 4),
        # Counts of one each on the left; on the right one of four channels: the sparser counts.
        "net": (steps * 4 * 4 * pixels, 1 / 4),
        # It reads means, quarters among them.
        "head": (steps * 8 * 5, None),
    }
    assert set(layers) == set(expected)
    for name, (macs, rate) in expected.items():
        assert (layers[name].macs, layers[name].rate) == (macs, rate), name
    accumulates = sum(macs * rate for macs, rate in expected.values() if rate is not None)
    float_macs = steps * (pixels * 3 * 4 * 9 + 8 * 5)
    assert found.accumulates == pytest.approx(accumulates)
    assert found.macs == float_macs
    assert found.microjoules == pytest.approx((0.9 * accumulates + 4.6 * float_macs) / 1e6)
    dense = sum(macs for macs, _ in expected.values())
    assert found.all_macs_microjoules == pytest.approx(4.6 * dense / 1e6)


@pytest.mark.parametrize("name", [*FORMS, "spikformer, frames", "sdt-v3-large, 8 levels, one head"])
def test_every_family_counts_all_its_products_once(name: str) -> None:
    model = model_of(name)
    found = estimate_energy(model, listed(samples_of(model, 3)), batch_size=2)
    assert found.all_macs == measure_cost(model).macs
    first = found.layers[0]
    assert first.operand == "real", "the image or the frames"
    spiking = [entry for entry in found.layers if entry.operand == "spikes"]
    assert len(spiking) > len(found.layers) / 2
    assert 0 < found.microjoules < found.all_macs_microjoules


def test_there_is_a_form_of_every_family() -> None:
    assert len(FORMS) == len({ZOO[name][0].name for name in ZOO})


def test_rates_are_those_of_the_neurons_before(tiny: SViT, tiny_data: DataSet) -> None:
    images = tiny_data.search.first(20)
    rates = {entry.layer: entry.rate for entry in measure_firing_rates(tiny, images)}
    layers = by_name(estimate_energy(tiny, images, batch_size=7))
    for consumer, fired in (
        ("blocks.0.attn.proj.conv", "blocks.0.attn"),
        ("blocks.1.mlp.fc2.conv", "blocks.1.mlp.fc1"),
    ):
        assert layers[consumer].rate == pytest.approx(rates[fired], abs=1e-9)
    stream = sum(rates[name] for name in ("stem.3", "position", "blocks.0.attn.proj"))
    assert layers["blocks.0.mlp.fc1.conv"].rate == pytest.approx(stream, abs=1e-9)
    assert layers["blocks.0.attn"].rate == pytest.approx(
        min(rates["blocks.0.attn.k"], rates["blocks.0.attn.v"]), abs=1e-9
    )
    assert layers["blocks.0.attn #2"].rate == pytest.approx(rates["blocks.0.attn.q"], abs=1e-9)
    assert layers["head"].operand == "real"


def test_batches_change_nothing(tiny: SViT, tiny_data: DataSet) -> None:
    images = tiny_data.search.first(9)
    one, all_at_once = (estimate_energy(tiny, images, batch_size=size) for size in (1, 9))
    for a, b in zip(one.layers, all_at_once.layers, strict=True):
        assert (a.layer, a.macs, a.operand) == (b.layer, b.macs, b.operand)
        assert a.rate == (None if b.rate is None else pytest.approx(b.rate))


def test_the_model_is_left_as_it_is(tiny: SViT, tiny_data: DataSet) -> None:
    before = tiny.digest
    estimate_energy(tiny, tiny_data.search.first(2))
    assert tiny.digest == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny.module.modules())


def test_layers_of_a_users_own_that_run_once_a_timestep_are_one() -> None:
    model = adopt(attending(), image_size=16)
    found = estimate_energy(model, listed(samples_of(model, 2)))
    names = [entry.layer for entry in found.layers]
    assert len(names) == len(set(names))
    assert found.all_macs == measure_cost(model).macs


def test_products_of_a_users_own_code_have_its_modules_names() -> None:
    model = adopt(network_in("attributes"), image_size=16)
    names = [entry.layer for entry in estimate_energy(model, listed(samples_of(model, 2))).layers]
    assert [name for name in names if name.startswith("net.attn")] == [
        *(f"net.attn.{unit}.linear" for unit in "qkv"),
        "net.attn",
        "net.attn #2",
        "net.attn.proj.linear",
    ]
    assert "net" not in names


def test_a_classifier_that_reads_spikes_accumulates() -> None:
    model = adopt(enliven(Flattened()), image_size=16)
    head = estimate_energy(model, listed(samples_of(model, 2))).layers[-1]
    assert head.operand == "spikes" and head.rate is not None and 0 < head.rate < 1


def test_json_says_what_it_is(tiny: SViT, tiny_data: DataSet) -> None:
    found = estimate_energy(tiny, tiny_data.search.first(4))
    content = json.loads(json.dumps(found.to_dict()))
    assert content["estimate"] is True and content["n"] == 4
    assert (content["mac_picojoules"], content["accumulate_picojoules"]) == (4.6, 0.9)
    assert any("Horowitz" in source for source in content["sources"])
    operations = sum(e["operations"] for e in content["layers"] if e["operand"] == "spikes")
    assert operations == pytest.approx(content["accumulates"], abs=len(content["layers"]))
    assert content["microjoules"] == pytest.approx(
        (4.6 * content["macs"] + 0.9 * content["accumulates"]) / 1e6, abs=2e-6
    )


def test_a_quantized_model_has_the_same_products(tiny: SViT, tiny_data: DataSet) -> None:
    images = tiny_data.search.first(4)
    dense = by_name(estimate_energy(tiny, images))
    found = by_name(estimate_energy(quantize(tiny, 8, integer_input=True), images))
    first, *others = dense
    assert set(found) == set(dense)
    # One channel more: that of ones.
    assert 3 * found[first].macs == 4 * dense[first].macs and found[first].operand == "real"
    for name in others:
        assert (found[name].macs, found[name].operand) == (dense[name].macs, dense[name].operand)


def test_operations_on_another_device_are_the_same(tiny: SViT, tiny_data: DataSet) -> None:
    images = tiny_data.search.first(12)
    expected = estimate_energy(tiny, images)
    with other_device():
        assert estimate_energy(tiny, images, device=OTHER) == expected


def test_products_of_a_batch_that_did_not_fit_are_not_counted(
    tiny: SViT, tiny_data: DataSet
) -> None:
    images = tiny_data.search.first(12)
    expected = estimate_energy(tiny, images)
    with memory_for(6, tiny.timesteps) as failed:
        found = estimate_energy(tiny, images)
    assert failed == [12]
    assert [layer.macs for layer in found.layers] == [layer.macs for layer in expected.layers]
    assert [layer.layer for layer in found.layers] == [layer.layer for layer in expected.layers]
    assert found.microjoules == pytest.approx(expected.microjoules, rel=1e-9)
