"""A network without thresholds, which shows every channel, sample and setting that matters."""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from torch import nn

from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.network import SpikingNetwork

__all__ = ["smooth_copy", "smooth_logits"]


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


@torch.no_grad()
def smooth_logits(network: SpikingNetwork) -> list[float]:
    """Logits `[K]` of a fixed sample, in fp64 and without thresholds.

    No spike can flip in them, so that they are the same on every machine but for rounding.
    """
    config = cast(NetworkConfig, network.config)
    shape = config.example(1).shape
    sample = torch.sin(12.9898 * torch.arange(math.prod(shape), dtype=torch.float64))
    logits: list[float] = smooth_copy(network)(sample.reshape(shape))[0].tolist()
    return logits
