"""The LIF neuron as stateless arithmetic over time-folded input.

With d = 1 - 1/tau, g = 1/tau (1 without `decay_input`) and c = v_reset/tau (0 for soft reset):

    H[t] = d V[t-1] + g X[t] + c        S[t] = H[t] >= v_threshold
    V[t] = v_reset where S[t], else H[t]   (soft: H[t] - v_threshold S[t])

which is SpikingJelly 2.0's `LIFNode` with the products multiplied out. A neuron of D > 1 levels
fires `S[t] = round(clip(H[t] / v_threshold, 0, D))` and resets softly. While torch.onnx traces,
a neuron is one opaque node `ai.primesvt::LIF`, which `lowering.unroll` or `lowering.integer`
expands in the graph.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from primesvt_deploy.families.blocks.neuron import Neuron

__all__ = [
    "LIF_DOMAIN",
    "LIF_OP",
    "ChargeFireReset",
    "UnrolledNeuron",
    "UnrolledSequence",
    "integrate_and_fire",
]

LIF_DOMAIN = "ai.primesvt"
"""ONNX domain of operators that are not standard."""
LIF_OP = "LIF"
"""Operator of a neuron that is not lowered yet."""


@dataclass(frozen=True, kw_only=True)
class ChargeFireReset:
    """Constants of the equations above, and how many timesteps the input holds.

    Args:
        timesteps: T.
        static_input: the input is one step, presented T times.
        decay, gain, offset: d, g and c.
        v_threshold: threshold of H.
        v_reset: potential after a spike; None resets softly.
        levels: D, the largest count fired in a timestep; 1: spikes.
        spike_value: the output for a count of one.
        half_up: counts round halves up, not to even.
    """

    timesteps: int
    static_input: bool
    decay: float
    gain: float
    offset: float
    v_threshold: float
    v_reset: float | None
    levels: int = 1
    spike_value: float = 1.0
    half_up: bool = False

    @classmethod
    def of(cls, neuron: Neuron) -> ChargeFireReset:
        """Constants of a neuron with state."""
        lif = neuron.parameters_
        return cls(
            timesteps=neuron.timesteps,
            static_input=neuron.static_input,
            decay=1.0 - 1.0 / lif.tau,
            gain=1.0 / lif.tau if lif.decay_input else 1.0,
            offset=(lif.v_reset or 0.0) / lif.tau,
            v_threshold=lif.v_threshold,
            v_reset=lif.v_reset,
            levels=lif.levels,
            spike_value=lif.spike_value,
            half_up=lif.half_up,
        )

    @property
    def first_offset(self) -> float:
        """Offset of the first step: c and the decayed potential at rest, `c + d v_reset`."""
        return self.offset + self.decay * (self.v_reset or 0.0)


class UnrolledNeuron(nn.Module):
    """A neuron without state; `constants.gain` is 1 once the layer before has absorbed it.

    Args:
        constants: what it computes.
        used: whether the network ever calls it.
    """

    def __init__(self, constants: ChargeFireReset, *, used: bool = True) -> None:
        super().__init__()
        self.constants = constants
        self.used = used

    def give_up_gain(self) -> float:
        """Return the input gain for another layer to apply, and apply none from now on."""
        gain = self.constants.gain
        self.constants = replace(self.constants, gain=1.0)
        return gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes `[T*N, ...]` of currents `[T*N, ...]`, or `[N, ...]` if the input is static."""
        if torch.onnx.is_in_onnx_export():
            return self._as_node(x)
        return integrate_and_fire(x, self.constants)

    def folded(self, spikes: torch.Tensor) -> torch.Tensor:
        """Outputs of this neuron as `[T*N, ...]`."""
        return spikes

    def _as_node(self, x: torch.Tensor) -> torch.Tensor:
        attributes = {k: v for k, v in asdict(self.constants).items() if v is not None}
        for flag in ("static_input", "half_up"):
            attributes[flag] = int(attributes[flag])
        steps = self.constants.timesteps if self.constants.static_input else 1
        return torch.onnx.ops.symbolic(
            f"{LIF_DOMAIN}::{LIF_OP}",
            (x,),
            attributes,
            dtype=x.dtype,
            shape=(x.shape[0] * steps, *x.shape[1:]),
            version=1,
        )


class UnrolledSequence(UnrolledNeuron):
    """A neuron without state on input with a time axis, `[T, N, ...]`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes `[T, N, ...]` of currents `[T, N, ...]`."""
        spikes = super().forward(x.flatten(0, 1))
        unfolded: torch.Tensor = spikes.unflatten(0, (self.constants.timesteps, -1))
        return unfolded

    def folded(self, spikes: torch.Tensor) -> torch.Tensor:
        """Outputs of this neuron as `[T*N, ...]`."""
        return spikes.flatten(0, 1)


def integrate_and_fire(x: torch.Tensor, constants: ChargeFireReset) -> torch.Tensor:
    """Outputs `[T*N, ...]` of a neuron for currents `[T*N, ...]`, or `[N, ...]` if static.

    Source: SpikingJelly 2.0, `neuron.LIFNode` and `neuron.ILIFNode`.

    Args:
        x: currents; they are left as they are.
        constants: what the neuron computes, T and whether the input is static.
    """
    steps, static = constants.timesteps, constants.static_input
    n = x.shape[0] if static else x.shape[0] // steps
    # `repeat` keeps x's memory format, so channels-last stays channels-last.
    spikes = torch.cat([x] * steps) if static else torch.empty_like(x)
    membrane: torch.Tensor | None = None
    for t in range(steps):
        current = x if static else x[t * n : (t + 1) * n]
        if membrane is None:
            charged = current * constants.gain
            shift = constants.first_offset
        else:
            charged = membrane.mul_(constants.decay).add_(current, alpha=constants.gain)
            shift = constants.offset
        if shift:
            charged.add_(shift)
        fired = spikes[t * n : (t + 1) * n]
        if constants.levels > 1:
            fired.copy_(_count(charged, constants))
        else:
            torch.ge(charged, constants.v_threshold, out=fired)
        membrane = _reset(charged, fired, constants)
    return spikes if constants.spike_value == 1.0 else spikes.mul_(constants.spike_value)


def _count(charged: torch.Tensor, constants: ChargeFireReset) -> torch.Tensor:
    clipped = (charged / constants.v_threshold).clamp_(0, constants.levels)
    return clipped.add_(0.5).floor_() if constants.half_up else clipped.round_()


def _reset(charged: torch.Tensor, fired: torch.Tensor, constants: ChargeFireReset) -> torch.Tensor:
    if constants.v_reset is None:
        return charged.sub_(fired, alpha=constants.v_threshold)
    if constants.v_reset == 0.0:
        return charged.addcmul_(charged, fired, value=-1.0)
    return charged.masked_fill_(fired.bool(), constants.v_reset)
