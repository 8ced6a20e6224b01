"""Store a quantized model's weights as small tensors: int8 codes and powers of two.

The layer `name` has `name.codes` (int8, of the weight's shape) and `name.exponents` (int8, one an
output channel) in place of `name.weight`: `weight = codes * 2 ** exponents`. Weights that lie on
no grid stay float32. A first layer that takes pixels has `name.centre` as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.lowering.integer.weight_grid import grid_of
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.pixel_input import take_pixels
from primesvt_deploy.quantization.quantize import lower_for_quantization

__all__ = ["quantized_state", "with_quantized_state"]

_MAX_INT8 = 127
_CENTRE = "centre"
"""What a layer that takes pixels has besides; see `lowering.pixel_conv`."""


def quantized_state(quantized: SViT) -> dict[str, torch.Tensor]:
    """Tensors of a quantized model, to be stored.

    Args:
        quantized: from `quantize`.
    """
    state = {k: v.detach().contiguous().clone() for k, v in quantized.module.state_dict().items()}
    for name, weight in _weights(quantized.module).items():
        grid = grid_of(weight)
        if grid is None:
            continue
        codes = grid.codes * grid.factors.reshape(-1, *[1] * (weight.ndim - 1))
        if np.abs(codes).max(initial=0) <= _MAX_INT8:
            del state[f"{name}.weight"]
            state[f"{name}.codes"] = torch.from_numpy(codes.astype(np.int8))
            state[f"{name}.exponents"] = torch.from_numpy(grid.exponents.astype(np.int8))
    return state


def with_quantized_state(model: SViT, state: Mapping[str, torch.Tensor]) -> SViT:
    """Quantized model from stored tensors.

    Args:
        model: the model that was quantized, with its own preprocessing.
        state: from `quantized_state`.

    Raises:
        RuntimeError: the tensors are not of this model.
    """
    whole = dict(state)
    for key in [k for k in state if k.endswith(".codes")]:
        name = key.removesuffix(".codes")
        codes, exponents = whole.pop(key), whole.pop(f"{name}.exponents")
        powers = torch.exp2(exponents.float()).reshape(-1, *[1] * (codes.ndim - 1))
        whole[f"{name}.weight"] = codes.float() * powers
    of_pixels = any(key.rpartition(".")[2] == _CENTRE for key in whole)
    quantized = _empty(model, lower_module(model.module.float()), of_pixels)
    if quantized.module.state_dict().keys() != whole.keys():
        quantized = _empty(model, lower_for_quantization(model), of_pixels)
    quantized.module.load_state_dict(whole)
    return quantized


def _empty(model: SViT, network: SpikingNetwork, of_pixels: bool) -> SViT:
    """The quantized model, whose weights are not loaded yet."""
    return take_pixels(model, network) if of_pixels else model.with_module(network)


def _weights(network: nn.Module) -> dict[str, np.ndarray]:
    return {
        name: layer.weight.detach().numpy()
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
    }
