"""A quantized twin's weights as small tensors: int8 codes and powers of two, float32 for the rest.

The layer `name` has `name.codes` (int8, of the weight's shape) and `name.exponents` (int8, one an
output channel) in place of `name.weight`: `weight = codes * 2 ** exponents`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from primesvt_deploy.lowering.fold import lower
from primesvt_deploy.lowering.grid import grid_of
from primesvt_deploy.lowering.packing import pack
from primesvt_deploy.model import SViT

__all__ = ["bits_of", "restored", "stored_state"]


def stored_state(twin: SViT) -> dict[str, torch.Tensor]:
    """The tensors of a twin from `quantize`."""
    state = {k: v.detach().contiguous().clone() for k, v in twin.module.state_dict().items()}
    for name, weight in _weights(twin.module).items():
        grid = grid_of(weight)
        if grid is not None:
            del state[f"{name}.weight"]
            state[f"{name}.codes"] = torch.from_numpy(grid.codes)
            state[f"{name}.exponents"] = torch.from_numpy(grid.exponents.astype(np.int8))
    return state


def restored(model: SViT, state: Mapping[str, torch.Tensor]) -> SViT:
    """The twin of `model` whose tensors are `state`.

    Raises:
        RuntimeError: they are not of this model.
    """
    twin = lower(model.module.float())
    whole = dict(state)
    for key in [k for k in state if k.endswith(".codes")]:
        name = key.removesuffix(".codes")
        codes, exponents = whole.pop(key), whole.pop(f"{name}.exponents")
        powers = torch.exp2(exponents.float()).reshape(-1, *[1] * (codes.ndim - 1))
        whole[f"{name}.weight"] = codes.float() * powers
    twin.load_state_dict(whole)
    return model.with_module(twin)


def bits_of(twin: SViT, most: int) -> dict[str, int]:
    """Bits a weight takes in each layer on a grid, where `most` (8 or 4) are asked for."""
    bits: dict[str, int] = {}
    for name, weight in _weights(twin.module).items():
        grid = grid_of(weight)
        if grid is None:
            continue
        layer = twin.module.get_submodule(name)
        small = most == 4 and getattr(layer, "groups", 1) == 1 and pack(_rows(grid.codes))
        bits[name] = 4 if small else 8
    return bits


def _rows(codes: np.ndarray) -> np.ndarray:
    """Codes `[K, N]` as an artifact multiplies by them."""
    if codes.ndim == 2:
        return codes.T
    return codes.transpose(2, 3, 1, 0).reshape(-1, len(codes))


def _weights(network: nn.Module) -> dict[str, np.ndarray]:
    return {
        name: layer.weight.detach().numpy()
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
