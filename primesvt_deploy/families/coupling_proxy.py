"""The coupling proxy: a copy of a network that DepGraph can trace to find coupled channels.

DepGraph (Fang et al., CVPR 2023, as in torch-pruning) takes the unbinding of timesteps for a
split over channels, and does not know that a matrix product shares an index between its operands.
The proxy has no time axis: neurons become stateless elementwise functions, and modules with
couplings that cannot be traced are replaced by their stand-ins (`coupling.Coupled`). It is
traced, never evaluated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.blocks.units import Repeat
from primesvt_deploy.families.coupling import Coupled
from primesvt_deploy.families.network import SpikingNetwork

__all__ = ["coupling_proxy", "keeps_channels_in_groups"]


def coupling_proxy(
    network: SpikingNetwork,
) -> tuple[nn.Module, Callable[[Any, torch.Tensor], tuple[torch.Tensor, ...]]]:
    """Copy a network into one that DepGraph can trace.

    Args:
        network: not changed.

    Returns:
        The proxy, a deep copy with the same parameter names, and a function that runs it on one
        image `[1, C, H, W]` and gives every tensor that must be on the traced graph.
    """
    proxy = copy.deepcopy(network)
    kept: list[tuple[nn.Module, str]] = []
    _replace_below(proxy, kept)

    def run(module: Any, example: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (module(example), *(getattr(owner, name) for owner, name in kept))

    return proxy, run


def _replace_below(parent: nn.Module, kept: list[tuple[nn.Module, str]]) -> None:
    # The code of an adopted module may hold T itself.
    if isinstance(parent, Repeat) or (
        isinstance(parent, SpikingNetwork) and parent.couplings_declared
    ):
        parent.timesteps = 1
    for name, child in list(parent.named_children()):
        replacement: nn.Module = child
        if isinstance(child, Neuron):
            replacement = nn.Sigmoid()
        elif isinstance(child, Coupled):
            replacement, keeps = child.coupled()
            kept.extend((replacement, attribute) for attribute in keeps)
        elif keeps_channels_in_groups(child):
            replacement = _depthwise(cast(nn.Conv2d, child))
        setattr(parent, name, replacement)
        _replace_below(replacement, kept)


def keeps_channels_in_groups(layer: nn.Module) -> bool:
    """Whether this is a grouped, not depthwise, convolution with as many channels out as in.

    The proxy takes its output channels for its input channels, in order, as a residual around it
    would: then both leave together.
    """
    return (
        isinstance(layer, nn.Conv2d) and 1 < layer.groups < layer.in_channels == layer.out_channels
    )


def _depthwise(conv: nn.Conv2d) -> nn.Conv2d:
    """Depthwise convolution in place of a grouped one: DepGraph sees that channels keep order."""
    return nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        cast(tuple[int, int], conv.kernel_size),
        stride=cast(tuple[int, int], conv.stride),
        padding=cast(tuple[int, int], conv.padding),
        dilation=cast(tuple[int, int], conv.dilation),
        groups=conv.in_channels,
        bias=conv.bias is not None,
        dtype=conv.weight.dtype,
    )
