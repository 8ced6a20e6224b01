"""Have a network's first convolution take pixels, with mean and deviation in its weights.

The layer is `lowering.pixel_conv.PixelConv`, which has the equations. Its weights, which are few,
are integers of up to 16 bits times a power of two, as fine as float32 still holds all sums exactly:
some 13 bits for a kernel of 3x3. So no layer before the classifier depends on the order of adding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.lowering.integer.weight_grid import FLOAT_BITS, MAX_INT16
from primesvt_deploy.lowering.pixel_conv import LARGEST_PIXEL, PixelConv, largest_inputs
from primesvt_deploy.model.layer_matrix import Weighted, set_weights, weight_matrix
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.rounding import Grid, powers_above, round_bias, round_to_grid

__all__ = ["round_pixel_layer", "take_pixels"]

_ADVICE = "build without --integer-input"
_TOLERANCE = 1e-9


@torch.no_grad()
def take_pixels(model: SViT, network: SpikingNetwork) -> SViT:
    """The model with a first convolution that takes pixels; its weights are not rounded yet.

    Args:
        model: a SViT, for its preprocessing.
        network: its lowered network, whose first convolution is replaced.

    Raises:
        SettingsError: it takes event frames, its mean is none of pixels, or its first layer is no
            plain convolution of the image.
    """
    steps = _steps(model)
    name = _first_convolution(model, network)
    layer = _pixel_layer(network.get_submodule(name), steps)
    if not network.couplings_declared:
        _require_equal(model, network, name, layer)
    _replace(network, name, layer.float())
    return replace(model, module=network, preprocessing=replace(steps, pixels=True))


@torch.no_grad()
def round_pixel_layer(layer: PixelConv, pixels: torch.Tensor | None) -> None:
    """Round the weights of a layer that takes pixels to its grid, in place.

    Args:
        layer: from `take_pixels`.
        pixels: samples `[N, C, H, W]`, for whose mean the bias takes up what rounding leaves; None:
            their mean is m.
    """
    assert layer.bias is not None
    weights = weight_matrix(layer)
    mean = torch.zeros(layer.centre.shape[1])
    if pixels is not None:
        mean = (pixels.double() - layer.centre).mean(dim=(0, 2, 3)).float()
    taps = weights.shape[1] // layer.in_channels
    means = torch.cat([mean, torch.ones(1)]).repeat(taps)
    inputs = largest_inputs(layer.centre).float().repeat(taps)
    largest = weights.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
    powers = powers_above(largest / MAX_INT16)
    while True:
        rounded = round_to_grid(weights, Grid(powers, MAX_INT16, powers))
        # Whole multiples of the power: pixels are large, so that nothing finer matters.
        bias = round_bias(layer.bias + (weights - rounded) @ means, powers, bits=0)
        most = rounded.abs() @ inputs + bias.abs()
        inexact = most[:, None] >= powers * 2.0**FLOAT_BITS
        if not inexact.any():
            break
        powers = torch.where(inexact, 2.0 * powers, powers)
    set_weights(layer, rounded)
    layer.bias.copy_(bias)


def _steps(model: SViT) -> Preprocessing:
    steps = model.preprocessing
    if not isinstance(steps, Preprocessing):
        raise SettingsError(
            f"{model.name} takes event frames: an integer first layer takes pixels of images; "
            f"{_ADVICE}"
        )
    if not all(0.0 <= mean <= 1.0 for mean in steps.mean):
        raise SettingsError(
            f"{model.name} is normalised by the mean {list(steps.mean)}, an integer first layer by "
            f"one from 0 to 1: {_ADVICE}"
        )
    return steps


def _first_convolution(model: SViT, network: SpikingNetwork) -> str:
    """Name of the convolution that takes the image as it is.

    Raises:
        SettingsError: the layer that is called first is none.
    """
    calls: list[tuple[nn.Module, torch.Tensor]] = []
    handles = [
        layer.register_forward_pre_hook(lambda module, given: calls.append((module, given[0])))
        for layer in network.modules()
        if isinstance(layer, Weighted)
    ]
    image = torch.randn(model.config.example(2).shape, generator=_generator())
    try:
        network.segments()[0].run(network.fold(image))
    finally:
        for handle in handles:
            handle.remove()
    layer, given = calls[0]
    name: str = {module: name for name, module in network.named_modules()}[layer]
    once = [called for called, _ in calls].count(layer) == 1
    # A subclass may compute something else.
    plain = type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros"
    if not (once and plain and torch.equal(given, image)):
        raise SettingsError(
            f"{name}, the first layer of {model.name}, is no plain convolution of the image, which "
            f"an integer first layer has to be: {_ADVICE}"
        )
    return name


def _pixel_layer(layer: nn.Module, steps: Preprocessing) -> PixelConv:
    """The convolution of pixels that is a convolution of the normalised image; float64."""
    assert isinstance(layer, nn.Conv2d)
    mean, std = (LARGEST_PIXEL * _channels(values) for values in (steps.mean, steps.std))
    weights = layer.weight.double() / std
    left = (weights * (mean.round() - mean)).sum(dim=1, keepdim=True)
    taken = PixelConv(layer, mean.round()).double().eval()
    assert taken.bias is not None
    taken.weight.copy_(torch.cat([weights, left], dim=1))
    taken.bias.copy_(torch.zeros(len(weights)) if layer.bias is None else layer.bias)
    return taken


def _replace(network: SpikingNetwork, name: str, layer: PixelConv) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, layer)


def _require_equal(model: SViT, network: SpikingNetwork, name: str, layer: PixelConv) -> None:
    """Refuse a user's own network that does something else with the image besides.

    Raises:
        SettingsError: it gives other logits once its first convolution takes pixels.
    """
    steps = _steps(model)
    shape = (2, *model.config.input_shape)
    pixels = torch.randint(LARGEST_PIXEL + 1, shape, generator=_generator()).double()
    exact = copy.deepcopy(network).double()
    expected = exact((pixels / LARGEST_PIXEL - _channels(steps.mean)) / _channels(steps.std))
    _replace(exact, name, layer)
    difference = (exact(pixels) - expected).abs().max()
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise SettingsError(
            f"{model.name} does more with the image than its first convolution, and so cannot take "
            f"pixels: {_ADVICE}"
        )


def _channels(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(tuple(values), dtype=torch.float64).reshape(-1, 1, 1)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
