"""Set the number of timesteps that a network runs for, with the same weights."""

from __future__ import annotations

from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.blocks.spatial_temporal_attention import SpatialTemporalAttention
from primesvt_deploy.families.blocks.units import Repeat
from primesvt_deploy.families.network import SpikingNetwork

__all__ = ["set_timesteps"]


def set_timesteps(network: SpikingNetwork, timesteps: int) -> None:
    """Set T of a family's network, which takes static images, in place.

    Args:
        network: a network of a family, not an adopted one, whose code may hold T.
        timesteps: T.
    """
    for module in network.modules():
        if isinstance(module, Neuron | Repeat | SpatialTemporalAttention | SpikingNetwork):
            module.timesteps = timesteps
