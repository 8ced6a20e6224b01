"""Give a network the widths of a state_dict, so that pruned weights can be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from primesvt_deploy.errors import ModelError

__all__ = ["fit_tensors", "fit_widths"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def fit_widths(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Resize every convolution, linear layer and batch norm of a module to a state_dict, in place.

    Only channels and the presence of biases change; values are not copied. A depthwise
    convolution stays depthwise, another grouped one keeps its number of groups. Layers that
    `state` does not name stay as they are.

    Args:
        module: resized.
        state: state_dict with the widths, under the module's own names.

    Raises:
        ModelError: a shape differs in more than channels.
    """
    for name, layer in module.named_modules():
        weight = state.get(f"{name}.weight")
        if weight is None or not isinstance(layer, (*_CONVOLUTIONS, *_NORMS, nn.Linear)):
            continue
        shape = layer.weight.shape
        if len(shape) != weight.ndim or shape[2:] != weight.shape[2:]:
            raise ModelError(
                f"{name}.weight is {list(weight.shape)}, expected {_pattern(shape)}: "
                "is it of this family?"
            )
        if isinstance(layer, _NORMS):
            _resize_norm(layer, len(weight))
        else:
            _resize_layer(layer, weight.shape, f"{name}.bias" in state)


def fit_tensors(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Resize parameters and buffers of a module's own code to a state_dict, in place.

    Values are not copied. Those that `state` does not name, or that have other axes there, stay.

    Args:
        module: resized; its layers have the widths of `state` already (`fit_widths`).
        state: state_dict under the module's own names.
    """
    own = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in own:
        wanted = state.get(name)
        if wanted is None or wanted.shape == tensor.shape or wanted.ndim != tensor.ndim:
            continue
        owner, _, tail = name.rpartition(".")
        if isinstance(tensor, nn.Parameter):
            setattr(module.get_submodule(owner), tail, _empty(tensor, wanted.shape))
        else:
            setattr(module.get_submodule(owner), tail, tensor.new_zeros(wanted.shape))


def _resize_norm(layer: Any, width: int) -> None:
    layer.num_features = width
    for name in ("weight", "bias"):
        if getattr(layer, name) is not None:
            setattr(layer, name, _empty(getattr(layer, name), (width,)))
    for name in ("running_mean", "running_var"):
        if getattr(layer, name) is not None:
            setattr(layer, name, torch.ones_like(getattr(layer, name)[:1]).repeat(width))


def _resize_layer(layer: Any, shape: torch.Size, biased: bool) -> None:
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    else:
        depthwise = layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1
        if depthwise:
            layer.groups = shape[0]
        layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups
    layer.weight = _empty(layer.weight, shape)
    layer.bias = _empty(layer.weight, shape[:1]) if biased else None


def _empty(like: torch.Tensor, shape: torch.Size | tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(like.detach().new_zeros(shape), requires_grad=like.requires_grad)


def _pattern(shape: torch.Size) -> str:
    return f"[channels{''.join(f', {n}' for n in ['channels', *shape[2:]])}]"
