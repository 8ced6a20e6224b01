"""A quantized twin's weights as small tensors: int8 codes and powers of two, float32 for the rest.

The layer `name` has `name.codes` (int8, of the weight's shape) and `name.exponents` (int8, one an
output channel) in place of `name.weight`: `weight = codes * 2 ** exponents`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from primesvt_deploy.lowering.integer.weight_grid import grid_of
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import twin_of

__all__ = ["quantized_state", "with_quantized_state"]


def quantized_state(twin: SViT) -> dict[str, torch.Tensor]:
    """The tensors of a twin from `quantize`."""
    state = {k: v.detach().contiguous().clone() for k, v in twin.module.state_dict().items()}
    for name, weight in _weights(twin.module).items():
        grid = grid_of(weight)
        if grid is not None:
            del state[f"{name}.weight"]
            state[f"{name}.codes"] = torch.from_numpy(grid.codes)
            state[f"{name}.exponents"] = torch.from_numpy(grid.exponents.astype(np.int8))
    return state


def with_quantized_state(model: SViT, state: Mapping[str, torch.Tensor]) -> SViT:
    """The twin of `model` whose tensors are `state`.

    Raises:
        RuntimeError: they are not of this model.
    """
    whole = dict(state)
    for key in [k for k in state if k.endswith(".codes")]:
        name = key.removesuffix(".codes")
        codes, exponents = whole.pop(key), whole.pop(f"{name}.exponents")
        powers = torch.exp2(exponents.float()).reshape(-1, *[1] * (codes.ndim - 1))
        whole[f"{name}.weight"] = codes.float() * powers
    twin = lower_module(model.module.float())
    if twin.state_dict().keys() != whole.keys():
        twin = twin_of(model)
    twin.load_state_dict(whole)
    return model.with_module(twin)


def _weights(network: nn.Module) -> dict[str, np.ndarray]:
    return {
        name: layer.weight.detach().numpy()
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
    }
