"""The units SViTs are made of, with timesteps folded into the batch.

Every tensor between units is `[T*N, C, H, W]`, timestep-major: rows `t*N .. t*N + N-1` belong
to timestep t. Layers without state then need no time axis, and only neurons unfold it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from spikingjelly.activation_based import neuron as sj_neuron
from torch import nn

from primesvt_deploy.errors import ModelError

__all__ = ["ConvBNNeuron", "Neuron", "NeuronParameters"]


@dataclass(frozen=True, kw_only=True)
class NeuronParameters:
    """What a leaky integrate-and-fire (LIF) neuron computes.

    Charge `H[t] = V[t-1] + (X[t] - (V[t-1] - v_reset)) / tau` (X[t] is not divided when
    `decay_input` is False), fire `S[t] = H[t] >= v_threshold`, reset `V[t] = v_reset` where it
    fired (hard) or `H[t] - v_threshold * S[t]` (soft, `v_reset` None). V starts at `v_reset`
    (soft: 0). Source: SpikingJelly 2.0, `neuron.LIFNode`.
    """

    tau: float = 2.0
    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    decay_input: bool = True

    def __post_init__(self) -> None:
        """Refuse what no LIF neuron can have."""
        if not self.tau > 1.0:
            raise ModelError(f"tau is {self.tau}: a LIF neuron needs tau > 1; check --tau")
        if self.v_reset is not None and not self.v_threshold > self.v_reset:
            raise ModelError(
                f"v_threshold {self.v_threshold} is not above v_reset {self.v_reset}: "
                "the neuron would fire at rest; check the model's neuron parameters"
            )


class Neuron(nn.Module):
    """A SpikingJelly LIF neuron on time-folded input, at rest before each forward pass.

    Args:
        parameters: tau, threshold and reset.
        timesteps: T.
        static_input: the input is `[N, ...]` and is presented T times over, as the first layer
            of a model of static images sees it; otherwise it is `[T*N, ...]`.
    """

    def __init__(
        self, parameters: NeuronParameters, *, timesteps: int, static_input: bool = False
    ) -> None:
        super().__init__()
        self.parameters_ = parameters
        self.timesteps = timesteps
        self.static_input = static_input
        self.node = sj_neuron.LIFNode(
            tau=parameters.tau,
            decay_input=parameters.decay_input,
            v_threshold=parameters.v_threshold,
            v_reset=parameters.v_reset,
            detach_reset=True,
            step_mode="m",
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes `[T*N, ...]` of 0 and 1 for input currents `[T*N, ...]` (or static `[N, ...]`)."""
        self.node.reset()
        if self.static_input:
            sequence = x.unsqueeze(0).expand(self.timesteps, *x.shape)
        else:
            sequence = x.unflatten(0, (self.timesteps, -1))
        spikes = cast(torch.Tensor, self.node(sequence)).flatten(0, 1)
        self.node.reset()
        return spikes


class ConvBNNeuron(nn.Module):
    """Convolution, batch norm, optional 3x3 stride-2 max pooling, neuron.

    The pool stands before the neuron, as in SpikingJelly's Spikformer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        neuron: nn.Module,
        pool: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False
        )
        self.bn: nn.Module = nn.BatchNorm2d(out_channels)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool else nn.Identity()
        self.neuron = neuron

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes `[T*N, out_channels, H', W']` of `x` `[T*N, in_channels, H, W]`."""
        return cast(torch.Tensor, self.neuron(self.pool(self.bn(self.conv(x)))))

    @torch.no_grad()
    def absorb_gain(self, gain: float) -> None:
        """Multiply what the neuron receives by `gain` > 0; the norm must be folded."""
        self.conv.weight.mul_(gain)
        if self.conv.bias is not None:
            self.conv.bias.mul_(gain)


def split_state(state: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """Split a fused layer's tensors into `parts` equal layers along the output channels.

    Exact: output channels of a convolution and of its batch norm do not interact. Scalars
    (`num_batches_tracked`) are repeated.
    """
    chunks: list[dict[str, Any]] = [{} for _ in range(parts)]
    for name, tensor in state.items():
        pieces = tensor.chunk(parts, dim=0) if tensor.ndim else [tensor] * parts
        for chunk, piece in zip(chunks, pieces, strict=True):
            chunk[name] = piece.clone()
    return chunks
