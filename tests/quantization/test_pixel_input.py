"""First layers that take pixels: the layer before, borders included, on integers that are exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families.zoo import model_of
from pixel_nets import GEOMETRIES, MEAN, STD, Small, own, pixels
from torch.nn import functional

from primesvt_deploy.errors import SettingsError
from primesvt_deploy.lowering.integer.weight_grid import grid_of
from primesvt_deploy.lowering.pixel_conv import PixelConv, largest_inputs, pixel_conv
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.pixel_input import round_pixel_layer, take_pixels
from primesvt_deploy.quantization.quantize import lower_for_quantization, quantize
from primesvt_deploy.quantization.serialization import quantized_state, with_quantized_state


class Squared(Small):
    """Its convolution takes another image."""

    def currents(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x.square())  # type: ignore[no-any-return]


class Twice(Small):
    """The image reaches more than its convolution."""

    def currents(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + x.mean((1, 2, 3), keepdim=True)  # type: ignore[no-any-return]


class Circular(Small):
    """Its convolution does not pad with zeros."""

    def __init__(self) -> None:
        super().__init__(kernel_size=3, padding=1, padding_mode="circular")


def taken(model: SViT) -> tuple[PixelConv, SViT]:
    found = take_pixels(model, lower_for_quantization(model))
    layer = pixel_conv(found.module)
    assert layer is not None
    return layer, found


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_currents_are_those_of_the_normalised_image(geometry: str) -> None:
    model = own(**GEOMETRIES[geometry])
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in (MEAN, STD))
    normalised = (pixels(4).double() / 255 - mean) / std
    layer, found = taken(model)
    conv = model.module.get_submodule("net.conv").double()
    assert found.sample_dtype == np.uint8
    # The weights are float32 here.
    torch.testing.assert_close(layer.double()(pixels(4)), conv(normalised), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["spikformer, SpikingJelly", "sdt-v2"])
def test_borders_are_as_right_as_the_inside(name: str) -> None:
    model = model_of(name)
    layer, _ = taken(replace(model, preprocessing=replace(model.preprocessing, mean=MEAN)))
    images = pixels(2, model.config.image_size)
    expected = layer.double()(images)
    round_pixel_layer(layer.float(), None)
    errors = (layer.double()(images) - expected).abs()
    inside = errors[..., 2:-2, 2:-2].square().mean().sqrt()
    assert 0 < inside < 5e-4 * expected.square().mean().sqrt()
    assert errors[..., 0, :].square().mean().sqrt() < 1.5 * inside


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_sums_are_exact_in_any_order(geometry: str) -> None:
    layer, _ = taken(own(**GEOMETRIES[geometry]))
    round_pixel_layer(layer, None)
    grid = grid_of(layer.weight.numpy(), bits=16)
    assert grid is not None and layer.bias is not None
    assert np.abs(grid.codes).max() > 500
    assert grid.sums_are_exact(layer.bias.numpy(), largest_inputs(layer.centre).numpy())
    whole = layer(pixels(4))
    assert torch.equal(whole.double(), layer.double()(pixels(4)))


def test_channels_of_a_bias_alone_are_exact() -> None:
    model = own(kernel_size=3)
    conv = model.module.get_submodule("net.conv")
    with torch.no_grad():
        conv.weight[0] = 0.0
        conv.weight[1] *= 1e-9
        conv.bias[:2] = 0.7  # type: ignore[index]
    layer, _ = taken(model)
    round_pixel_layer(layer, None)
    assert torch.equal(layer(pixels(1)).double(), layer.double()(pixels(1)))
    constant = torch.full((1, 2, 14, 14), 0.7, dtype=torch.float64)
    torch.testing.assert_close(layer(pixels(1))[:, :2], constant, rtol=0, atol=1e-6)


def test_the_bias_takes_up_the_mean_of_what_rounding_leaves() -> None:
    model = own(kernel_size=5)
    dark = pixels(16) // 4
    expected = taken(model)[0].double()(dark)
    errors = []
    for samples in (None, dark):
        layer, _ = taken(model)
        round_pixel_layer(layer, samples)
        difference = (layer.double()(dark) - expected).mean(dim=(0, 2, 3))
        errors.append(float(difference.abs().mean()))
    assert errors[1] < errors[0] / 4


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: model_of("spikformer, frames"), "takes event frames"),
        (lambda: own(Squared, kernel_size=3), "no plain convolution of the image"),
        (lambda: own(Circular), "no plain convolution of the image"),
        (lambda: own(kernel_size=3, groups=3), "no plain convolution of the image"),
        (lambda: own(Twice, kernel_size=3), "does more with the image"),
    ],
)
def test_refused_in_one_line(make: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        quantize(make(), 8, integer_input=True)
    assert "--integer-input" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_mean_that_is_none_of_pixels_is_refused(tiny: SViT) -> None:
    steps = replace(tiny.preprocessing, mean=(123.7, 116.3, 103.5))  # type: ignore[type-var]
    with pytest.raises(SettingsError, match=r"mean \[123.7, 116.3, 103.5\], .* from 0 to 1"):
        quantize(replace(tiny, preprocessing=steps), 8, integer_input=True)


def test_the_model_itself_is_left_alone(tiny: SViT) -> None:
    before = {k: v.clone() for k, v in tiny.module.state_dict().items()}
    quantized = quantize(tiny, 8, integer_input=True)
    after = tiny.module.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert tiny.preprocessing == replace(quantized.preprocessing, pixels=False)  # type: ignore[type-var]


@pytest.mark.parametrize("bits", [8, 4])
def test_stored_and_read_again(tiny: SViT, bits: int) -> None:
    quantized = quantize(tiny, bits, pixels(4), integer_input=True)
    again = with_quantized_state(tiny, quantized_state(quantized))
    assert again.sample_dtype == np.uint8
    assert torch.equal(again.logits(pixels(8)), quantized.logits(pixels(8)))
    with pytest.raises(RuntimeError):
        with_quantized_state(tiny, {**quantized_state(quantized), "other.centre": torch.zeros(3)})


def test_pixels_in_other_batches_and_types_are_the_same(tiny: SViT) -> None:
    quantized = quantize(tiny, 8, integer_input=True)
    logits = quantized.logits(pixels(8))
    assert torch.equal(quantized.logits(pixels(8).float()), logits)
    apart = torch.cat([quantized.logits(part) for part in pixels(8).split(1)])
    torch.testing.assert_close(apart, logits, rtol=0, atol=1e-6)
    assert not torch.equal(logits, quantized.logits(functional.pad(pixels(8), (1, -1))))
