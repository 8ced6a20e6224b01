"""The spiking neuron of every family, on tensors whose timesteps are folded into the batch.

Every tensor between units is `[T*N, C, H, W]`, timestep-major: rows `t*N .. t*N + N-1` belong
to timestep t. Layers without state then need no time axis, and only neurons unfold it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from spikingjelly.activation_based import neuron as sj_neuron
from torch import nn

from primesvt_deploy.errors import ModelError

__all__ = ["Neuron", "NeuronParameters", "SequenceNeuron"]


@dataclass(frozen=True, kw_only=True)
class NeuronParameters:
    """Constants of an integrate-and-fire neuron.

    In each timestep it charges, `H[t] = V[t-1] + (X[t] - (V[t-1] - v_reset)) / tau` (X[t] is not
    divided when `decay_input` is False), fires, `S[t] = H[t] >= v_threshold`, and resets,
    `V[t] = v_reset` where it fired (hard) or `H[t] - v_threshold * S[t]` (soft, `v_reset` None).
    V starts at `v_reset` (soft: 0). Source: SpikingJelly 2.0, `neuron.LIFNode`.

    With `levels` D > 1 it fires integers, `S[t] = round(clip(H[t] / v_threshold, 0, D))`
    (I-LIF: Luo et al., ECCV 2024; Yao et al., Spike-driven Transformer V3).

    Args:
        tau: membrane time constant, timesteps; infinite: nothing leaks (IF).
        v_threshold: firing threshold.
        v_reset: potential after a spike; None resets softly.
        decay_input: whether the input is divided by tau as well.
        levels: largest integer fired in a timestep; 1: spikes.
        spike_value: output for one spike; outputs are multiples of it.
        half_up: round halves up, not to even.
    """

    tau: float = 2.0
    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    decay_input: bool = True
    levels: int = 1
    spike_value: float = 1.0
    half_up: bool = False

    def __post_init__(self) -> None:
        """Refuse constants that no such neuron can have."""
        if not self.tau > 1.0:
            raise ModelError(f"tau is {self.tau}: a LIF neuron needs tau > 1; check --tau")
        if math.isinf(self.tau) and self.decay_input:
            raise ModelError("an infinite tau with decay_input would divide the input to nothing")
        if self.v_reset is not None and not self.v_threshold > self.v_reset:
            raise ModelError(
                f"v_threshold {self.v_threshold} is not above v_reset {self.v_reset}: "
                "the neuron would fire at rest; check the model's neuron parameters"
            )
        if self.v_reset is None and not self.v_threshold > 0.0:
            raise ModelError(f"v_threshold is {self.v_threshold}: expected more than 0")
        if self.levels < 1:
            raise ModelError(f"levels are {self.levels}: expected 1 or more; check --levels")
        if self.levels > 1 and (self.v_reset is not None or self.decay_input):
            raise ModelError("an integer neuron resets softly and does not divide its input")


class Neuron(nn.Module):
    """A SpikingJelly neuron on time-folded input, at rest before each forward pass.

    Args:
        parameters: constants of the neuron.
        timesteps: T.
        static_input: the input is `[N, ...]` and is presented T times over, as the first layer
            of a model of static images sees it; otherwise it is `[T*N, ...]`.
        node: the SpikingJelly neuron that `parameters` describe; None: one is made.

    Attributes:
        used: whether the network ever calls the neuron.
    """

    def __init__(
        self,
        parameters: NeuronParameters,
        *,
        timesteps: int,
        static_input: bool = False,
        node: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self._parameters_given = parameters
        self.timesteps = timesteps
        self.static_input = static_input
        self.used = True
        self.node = _node(parameters) if node is None else node

    @property
    def parameters_(self) -> NeuronParameters:
        """Constants of the neuron; of a PLIF neuron with the tau that its weight gives."""
        if isinstance(self.node, sj_neuron.ParametricLIFNode):
            # 1 / sigmoid(w), in double as SpikingJelly has it when the model is double.
            w = self.node.w.detach().double()
            return replace(self._parameters_given, tau=float(1.0 + (-w).exp()))
        return self._parameters_given

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes `[T*N, ...]` for input currents `[T*N, ...]` (or static `[N, ...]`)."""
        node = cast(Any, self.node)
        node.reset()
        if self.static_input:
            sequence = x.unsqueeze(0).expand(self.timesteps, *x.shape)
        else:
            sequence = x.unflatten(0, (self.timesteps, -1))
        spikes = cast(torch.Tensor, node(sequence)).flatten(0, 1)
        node.reset()
        value = self.parameters_.spike_value
        return spikes if value == 1.0 else spikes * value

    def folded(self, spikes: torch.Tensor) -> torch.Tensor:
        """Outputs of this neuron as `[T*N, ...]`."""
        return spikes


class SequenceNeuron(Neuron):
    """A neuron whose input has a time axis, `[T, N, ...]`, as in adopted modules."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes `[T, N, ...]` for input currents `[T, N, ...]`.

        Raises:
            ModelError: the first axis is not T.
        """
        if x.shape[0] != self.timesteps:
            raise ModelError(
                f"a neuron receives {list(x.shape)}: expected {self.timesteps} timesteps first; "
                "check --timesteps, and that the model's neurons see [T, N, ...]"
            )
        spikes = super().forward(x.flatten(0, 1))
        unfolded: torch.Tensor = spikes.unflatten(0, (self.timesteps, -1))
        return unfolded

    def folded(self, spikes: torch.Tensor) -> torch.Tensor:
        """Outputs of this neuron as `[T*N, ...]`."""
        return spikes.flatten(0, 1)


class _IntegerNode(nn.Module):
    """I-LIF neuron without state between calls; its gradient is straight-through inside the range.

    SpikingJelly 2.0's `ILIFNode` has neither an infinite tau nor halves rounded up.
    """

    def __init__(self, parameters: NeuronParameters) -> None:
        super().__init__()
        self.parameters_ = parameters

    def reset(self) -> None:
        """Do nothing, as no state is kept between calls."""

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        """Integers `[T, ...]` fired for input currents `[T, ...]`."""
        lif = self.parameters_
        counts: list[torch.Tensor] = []
        membrane: torch.Tensor | float = 0.0
        for current in sequence:
            charged = membrane * (1.0 - 1.0 / lif.tau) + current
            level = (charged / lif.v_threshold).clamp(0, lif.levels)
            count = (level + 0.5).floor() if lif.half_up else level.round()
            if level.requires_grad:
                count = level + (count - level).detach()
            counts.append(count)
            membrane = charged - count.detach() * lif.v_threshold
        return torch.stack(counts)


def _node(parameters: NeuronParameters) -> nn.Module:
    node: nn.Module
    if parameters.levels > 1:
        node = _IntegerNode(parameters)
    elif math.isinf(parameters.tau):
        node = sj_neuron.IFNode(
            v_threshold=parameters.v_threshold,
            v_reset=parameters.v_reset,
            detach_reset=True,
            step_mode="m",
        )
    else:
        node = sj_neuron.LIFNode(
            tau=parameters.tau,
            decay_input=parameters.decay_input,
            v_threshold=parameters.v_threshold,
            v_reset=parameters.v_reset,
            detach_reset=True,
            step_mode="m",
        )
    return node
