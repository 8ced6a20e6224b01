"""Pyramid of integer neurons, which the models of Spike-driven Transformer V3 share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.blocks.neuron import Neuron, NeuronParameters
from primesvt_deploy.families.blocks.pyramid import PyramidConfig

__all__ = ["IntegerPyramidConfig", "counting_neuron"]


@dataclass(frozen=True, kw_only=True)
class IntegerPyramidConfig(PyramidConfig):
    """A pyramid of integer neurons before pruning: one timestep, outputs 0, 1/D, ..., 1.

    The neuron in front of the head fires 0, 1, ..., D. `tau`, `v_reset` and `decay_input` change
    nothing in one timestep.

    Args:
        levels: D.
        half_up: neurons round halves up, not to even.
    """

    timesteps: int = 1
    v_reset: float | None = None
    decay_input: bool = False
    levels: int = 4
    half_up: bool = False

    def __post_init__(self) -> None:
        """Refuse arguments with which no network can be built."""
        super().__post_init__()
        if self.timesteps != 1 or self.frames:
            raise ModelError(
                "this family has no time axis: its neurons fire integers instead (of what is "
                "published as 1x4, 4 is --levels); drop --timesteps and --frames"
            )
        if self.levels < 2:
            raise ModelError(f"levels is {self.levels}: expected 2 or more; pass another --levels")

    def neuron(self, v_threshold: float | None = None) -> NeuronParameters:
        """See `NetworkConfig.neuron`."""
        return NeuronParameters(
            tau=math.inf,
            v_threshold=self.v_threshold if v_threshold is None else v_threshold,
            v_reset=None,
            decay_input=False,
            levels=self.levels,
            spike_value=1.0 / self.levels,
            half_up=self.half_up,
        )


def counting_neuron(config: IntegerPyramidConfig) -> Neuron:
    """The neuron in front of a head, which fires 0, 1, ..., D."""
    return Neuron(replace(config.neuron(), spike_value=1.0), timesteps=1)
