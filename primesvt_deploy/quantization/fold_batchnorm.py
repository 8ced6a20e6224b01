"""Fold batch norms of a user's own module into the layers before them.

The networks of known families fold theirs when they are lowered (`lowering.fold_batchnorm`). In
other modules only a run shows which norm receives a layer's output as it is; such pairs become one
layer.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

__all__ = ["fold_following_norms"]

_TOLERANCE = 1e-9
_Layer = nn.Conv1d | nn.Conv2d | nn.Linear
_Norm = nn.BatchNorm1d | nn.BatchNorm2d
_Module = TypeVar("_Module", bound=nn.Module)


@torch.no_grad()
def fold_following_norms(network: _Module, example: torch.Tensor) -> _Module:
    """Fold the norms that follow a layer directly, if the outputs stay the same.

    Args:
        network: lowered, float32; it is left as it is.
        example: an input.

    Returns:
        A folded copy, or `network` itself where nothing can be folded.
    """
    pairs = _pairs(network, example)
    if not pairs:
        return network
    folded = copy.deepcopy(network)
    names = {module: name for name, module in network.named_modules()}
    for layer, norm in pairs:
        _fuse(folded, names[layer], names[norm])
    before, after = (copy.deepcopy(n).double()(example.double()) for n in (network, folded))
    close = float((before - after).abs().max()) <= _TOLERANCE * max(1.0, float(before.abs().max()))
    return folded if close else network


def _pairs(network: nn.Module, example: torch.Tensor) -> list[tuple[nn.Module, nn.Module]]:
    """Pairs of a layer and the norm that takes its very output, both called once."""
    outputs: list[tuple[nn.Module, torch.Tensor]] = []
    inputs: list[tuple[nn.Module, torch.Tensor]] = []

    def keep_output(layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        outputs.append((layer, output))

    def keep_input(norm: nn.Module, taken: tuple[torch.Tensor, ...]) -> None:
        inputs.append((norm, taken[0]))

    handles = []
    for module in network.modules():
        if isinstance(module, _Layer):
            handles.append(module.register_forward_hook(keep_output))
        elif isinstance(module, _Norm) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(keep_input))
    try:
        network(example)
    finally:
        for handle in handles:
            handle.remove()
    once = [module for module, _ in (*outputs, *inputs)]
    return [
        (layer, norm)
        for norm, taken in inputs
        for layer, output in outputs
        if taken is output and once.count(layer) == once.count(norm) == 1
    ]


def _fuse(network: nn.Module, layer_name: str, norm_name: str) -> None:
    layer = cast(Any, network.get_submodule(layer_name))
    norm = cast(Any, network.get_submodule(norm_name))
    fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    weight, bias = fuse(
        layer.weight,
        layer.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    parent, _, name = norm_name.rpartition(".")
    setattr(network.get_submodule(parent), name, nn.Identity().eval())
