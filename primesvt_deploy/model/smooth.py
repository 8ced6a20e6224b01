"""A copy of a network without thresholds, which shows every channel and sample that matters."""

from __future__ import annotations

import copy

from torch import nn

from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.network import SpikingNetwork

__all__ = ["smooth_copy"]


def smooth_copy(network: SpikingNetwork) -> SpikingNetwork:
    """A copy in fp64 whose neurons are `tanh`: a threshold could hide a wrong value.

    Args:
        network: not changed.
    """
    smooth = copy.deepcopy(network).double().eval()
    for parent in list(smooth.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Neuron):
                setattr(parent, name, nn.Tanh())
    return smooth
