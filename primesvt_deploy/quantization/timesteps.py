"""Run a quantized model for fewer timesteps with the same integer weights.

Norms that are re-estimated for another T (`pruning.recovery.timesteps`) scale the channels of the
layers before them, and shift them. So the integers of the quantized model stay as they are: each
channel is multiplied by the ratio of its two scales, rounded to six bits times a power of two,
which an integer grid holds exactly (`lowering.integer.weight_grid`), and has another bias. Sums
stay as exact as the quantized model's, whose biases are finer than its weights by as many bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from primesvt_deploy.lowering.integer.weight_grid import grid_of
from primesvt_deploy.model.layer_matrix import Weighted
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.pixel_input import take_pixels
from primesvt_deploy.quantization.quantize import lower_for_quantization

__all__ = [
    "STAGES_FILE",
    "RescaledLayer",
    "find_rescaling",
    "rescaled",
    "stages_from_state",
    "stages_state",
]

STAGES_FILE = "stages.safetensors"
"""File of a bundle that holds them."""

_RATIO_BITS = 6
_SAME = 1e-5
"""Relative difference of two biases that only rounding sets apart."""
_RATIO, _BIAS = ".ratio", ".bias"


@dataclass(frozen=True)
class RescaledLayer:
    """Scales and bias of a layer at another T, relative to the quantized model's.

    Args:
        ratio: `[N]`, by which the weights of each output channel are multiplied.
        bias: `[N]`; None: the layer has none.
    """

    ratio: torch.Tensor
    bias: torch.Tensor | None


@torch.no_grad()
def find_rescaling(quantized: SViT, model: SViT, fewer: SViT) -> dict[str, RescaledLayer]:
    """Find the rescaled layers of a quantized model at another T, by name.

    Args:
        quantized: from `quantize`.
        model: the float32 model that was quantized.
        fewer: the same model at another T, with norms of its own; see `with_timesteps`.
    """
    before, after = lower_for_quantization(model), lower_for_quantization(fewer)
    found = {}
    for name, layer in quantized.module.named_modules():
        if isinstance(layer, Weighted):
            given, wanted = before.get_submodule(name), after.get_submodule(name)
            assert isinstance(given, Weighted) and isinstance(wanted, Weighted)
            found[name] = _rescaled_layer(layer, given, wanted)
    return found


def rescaled(quantized: SViT, fewer: SViT, layers: Mapping[str, RescaledLayer]) -> SViT:
    """The quantized model at another T.

    Args:
        quantized: from `quantize`.
        fewer: the float32 model at that T, whatever its norms are.
        layers: from `find_rescaling`.
    """
    network = lower_for_quantization(fewer)
    if quantized.sample_dtype != fewer.sample_dtype:
        fewer = take_pixels(fewer, network)
    network.load_state_dict(quantized.module.state_dict())
    for name, layer in network.named_modules():
        if isinstance(layer, Weighted):
            changed, weight = layers[name], layer.weight
            weight.data = weight * changed.ratio.reshape(-1, *[1] * (weight.ndim - 1))
            if layer.bias is not None and changed.bias is not None:
                layer.bias.data = changed.bias.clone()
    return fewer.with_module(network)


def stages_state(stages: Mapping[int, Mapping[str, RescaledLayer]]) -> dict[str, torch.Tensor]:
    """Tensors of rescaled layers, to be stored: `T/NAME.ratio` and `T/NAME.bias`, if it has one.

    Args:
        stages: by number of timesteps, then by name.
    """
    state = {}
    for timesteps, layers in stages.items():
        for name, layer in layers.items():
            state[f"{timesteps}/{name}{_RATIO}"] = layer.ratio.contiguous().clone()
            if layer.bias is not None:
                state[f"{timesteps}/{name}{_BIAS}"] = layer.bias.contiguous().clone()
    return state


def stages_from_state(state: Mapping[str, torch.Tensor]) -> dict[int, dict[str, RescaledLayer]]:
    """Rescaled layers from stored tensors, by number of timesteps and name."""
    stages: dict[int, dict[str, RescaledLayer]] = {}
    for key, ratio in state.items():
        if key.endswith(_RATIO):
            whole = key.removesuffix(_RATIO)
            timesteps, _, name = whole.partition("/")
            layer = RescaledLayer(ratio, state.get(whole + _BIAS))
            stages.setdefault(int(timesteps), {})[name] = layer
    return stages


def _rescaled_layer(layer: Weighted, before: Weighted, after: Weighted) -> RescaledLayer:
    """Compare a layer, which is quantized, as it is and as it should be, both of them float32."""
    old, new = (x.weight.detach().double().flatten(1) for x in (before, after))
    ratio = (old * new).sum(dim=1) / (old * old).sum(dim=1).clamp_min(1e-300)
    # Nothing is to be scaled where there is nothing, or where the sign turned.
    ratio = torch.where(ratio > 0, ratio, 1.0)
    significand, exponent = torch.frexp(ratio)
    whole, power = torch.round(significand * 2**_RATIO_BITS), exponent - _RATIO_BITS
    ratio = torch.ldexp(whole, power)
    if layer.bias is None:
        return RescaledLayer(ratio.float(), None)
    old_bias, new_bias = (
        torch.zeros_like(ratio) if x.bias is None else x.bias.detach().double()
        for x in (before, after)
    )
    held = layer.bias.detach().double()
    bias = new_bias + (held - old_bias) * ratio
    grid = grid_of(layer.weight.detach().numpy())
    if grid is not None:
        unit = torch.ldexp(torch.ones_like(ratio), power + torch.from_numpy(grid.exponents))
        bias = (bias / unit).round() * unit
    difference = (new_bias - old_bias).abs().max()
    unchanged = bool((ratio == 1.0).all()) and difference <= _SAME * old_bias.abs().max()
    return RescaledLayer(ratio.float(), (held if unchanged else bias).float())
