"""A network in DepGraph's language: what its channels depend on, without time and products.

DepGraph takes the unbinding of timesteps for a split over channels, and does not know that a
matrix product shares an index between its operands. The twin has no time: neurons become
stateless elementwise functions, and modules with couplings of their own are replaced by what
they say of themselves (`families.network.Coupled`). It is traced, never evaluated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.blocks.units import Repeat
from primesvt_deploy.families.network import Coupled, SpikingNetwork

__all__ = ["coupling_twin", "keeps_channels_in_groups"]


def coupling_twin(
    network: SpikingNetwork,
) -> tuple[nn.Module, Callable[[Any, torch.Tensor], tuple[torch.Tensor, ...]]]:
    """A deep copy under the same parameter names, and how to run it on `[1, C, H, W]`."""
    twin = copy.deepcopy(network)
    kept: list[tuple[nn.Module, str]] = []
    _replace_below(twin, kept)

    def run(module: Any, example: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (module(example), *(getattr(owner, name) for owner, name in kept))

    return twin, run


def _replace_below(parent: nn.Module, kept: list[tuple[nn.Module, str]]) -> None:
    # A user's own module has T in its code.
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

    The twin takes its output channels for its input channels, in order, as a residual around it
    would: then both leave together.
    """
    return (
        isinstance(layer, nn.Conv2d) and 1 < layer.groups < layer.in_channels == layer.out_channels
    )


def _depthwise(conv: nn.Conv2d) -> nn.Conv2d:
    """A grouped convolution as DepGraph can follow it: its channels keep their order."""
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
