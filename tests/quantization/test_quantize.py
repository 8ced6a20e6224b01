"""Quantized models: which layers, on what grids, and that the model is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families.zoo import ZOO, model_of, samples_of
from other_device import OTHER, is_there, other_device
from out_of_memory import memory_for
from recorded_progress import Recorded
from small_models import SHALLOW, make_model

from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.lowering.integer.weight_grid import grid_of
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.quantization.serialization import quantized_state, with_quantized_state
from primesvt_deploy.settings import Precision


def bits_of(quantized: SViT, bits: int, directory: Path) -> dict[str, int]:
    """Bits of the weights in the file."""
    precision = Precision.INT4 if bits == 4 else Precision.INT8
    return dict(export_onnx(quantized, directory / "model.onnx", precision=precision).weight_bits)


def samples(model: SViT, count: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(count, *model.config.input_shape, generator=generator)


def test_all_but_the_first_layer_and_the_head_are_on_grids(tiny: SViT, tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in tiny.module.state_dict().items()}
    bits = bits_of(quantize(tiny, 8), 8, tmp_path)
    weighted = {
        name
        for name, layer in lower_module(tiny.module).named_modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    }
    assert weighted - set(bits) == {"stem.0.conv", "head"}
    after = tiny.module.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_four_bits_are_four_where_spikes_arrive(tiny: SViT, tmp_path: Path) -> None:
    quantized = quantize(tiny, 4, samples(tiny))
    assert set(bits_of(quantized, 4, tmp_path).values()) == {4}


def test_layers_that_real_numbers_reach_get_eight_bits(tmp_path: Path) -> None:
    family, config = ZOO["sdt-v2"]
    model = make_model(config, family=family)
    bits = bits_of(quantize(model, 4, samples(model)), 4, tmp_path)
    assert set(bits.values()) == {4, 8}


def test_eight_bits_hardly_move_a_layers_currents(tiny: SViT) -> None:
    """Logits of random networks tell nothing: one flipped spike changes all that follows."""
    batch = samples(tiny)
    exact, found = (
        _currents(module, batch) for module in (lower_module(tiny.module), quantize(tiny, 8).module)
    )
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()
    assert not torch.equal(found, exact)


def test_calibrated_biases_hold_the_mean_currents(tiny: SViT) -> None:
    """Rounding to four bits moves a layer's mean current; the bias takes it up."""
    batch = samples(tiny, 32)
    exact, plain, calibrated = (
        lower_module(tiny.module),
        quantize(tiny, 4),
        quantize(tiny, 4, batch),
    )
    means = [_mean_current(m, batch) for m in (exact, plain.module, calibrated.module)]
    error = [(mean - means[0]).abs().mean() for mean in means[1:]]
    assert error[1] < 0.5 * error[0]


def _mean_current(module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return _currents(module, batch).mean(dim=(0, 2, 3))


def _currents(module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Currents of the first layer behind spikes, whose input is the same in all networks."""
    seen: list[torch.Tensor] = []
    layer = module.get_submodule("stem.1.conv")
    handle = layer.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    with torch.no_grad():
        module(batch)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_stored_quantized_model_comes_back(tiny: SViT, bits: int) -> None:
    quantized = quantize(tiny, bits, samples(tiny))
    state = quantized_state(quantized)
    assert state["stem.1.conv.codes"].dtype == torch.int8
    assert "stem.1.conv.weight" not in state
    again = with_quantized_state(tiny, state)
    batch = samples(tiny, 8)
    assert torch.equal(again.logits(batch), quantized.logits(batch))
    assert grid_of(again.module.get_submodule("stem.1.conv").weight.numpy()) is not None


def test_quantizing_is_deterministic(tiny: SViT) -> None:
    batch = samples(tiny)
    first, second = (quantized_state(quantize(tiny, 4, batch)) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def pixels(model: SViT, count: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    shape = (count, *model.config.input_shape)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def equal_weights(one: SViT, other: SViT) -> bool:
    first, second = one.module.state_dict(), other.module.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("form", ["noise", "samples", "pixels"])
def test_weights_are_rounded_alike_on_another_device(bits: int, form: str) -> None:
    model = make_model(SHALLOW)
    calibration = {"noise": None, "samples": samples(model), "pixels": pixels(model)}[form]
    asked = {"samples": calibration, "integer_input": form == "pixels"}
    expected = quantize(model, bits, **asked)
    with other_device():
        found = quantize(model, bits, device=OTHER, **asked)
    assert not any(map(is_there, found.module.state_dict().values()))
    assert equal_weights(found, expected)
    assert not equal_weights(expected, model.with_module(lower_module(model.module)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_family_is_rounded_alike_on_another_device(name: str) -> None:
    model = model_of(name)
    given = torch.from_numpy(samples_of(model, 4))
    expected = quantize(model, 4, given)
    with other_device():
        assert equal_weights(quantize(model, 4, given, device=OTHER), expected)


def test_a_batch_that_does_not_fit_begins_anew_with_half(tiny: SViT) -> None:
    progress = Recorded()
    given = samples(tiny, 24)
    with memory_for(12, tiny.timesteps) as failed:
        found = quantize(tiny, 4, given, progress=progress)
    assert failed == [24, 16]
    assert progress.messages == [
        "a batch of 32 does not fit the device's memory: 16 from now on",
        "a batch of 16 does not fit the device's memory: 8 from now on",
    ]
    # Sums of spikes are whole: they are the same in batches of any size.
    assert equal_weights(found, quantize(tiny, 4, given))
    with memory_for(0, tiny.timesteps), pytest.raises(SettingsError, match="a single sample"):
        quantize(tiny, 4, given)
