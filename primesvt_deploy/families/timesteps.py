"""Run a network for another number of timesteps than it was built for, with the same weights."""

from __future__ import annotations

from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.blocks.units import Repeat
from primesvt_deploy.families.network import SpikingNetwork

__all__ = ["set_timesteps"]


def set_timesteps(network: SpikingNetwork, timesteps: int) -> None:
    """Make a family's network of static images run for `timesteps`, in place."""
    for module in network.modules():
        if isinstance(module, Neuron | Repeat | SpikingNetwork):
            module.timesteps = timesteps
