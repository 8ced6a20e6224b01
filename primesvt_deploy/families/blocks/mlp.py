"""MLPs of Spikformer and of the Spike-driven Transformer, shared with later families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from primesvt_deploy.families.blocks.units import ConvBNNeuron, NeuronConvBN, make_neuron
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.coupling import ChannelRole

__all__ = ["MembraneMLP", "SpikingMLP"]


class SpikingMLP(nn.Module):
    """Two 1x1 convolutions, each with batch norm and neuron (Spikformer, QKFormer).

    Args:
        config: of the network.
        width: channels of the input and the output.
        hidden: channels in between.
    """

    def __init__(self, config: NetworkConfig, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = ConvBNNeuron(width, hidden, neuron=make_neuron(config))
        self.fc2 = ConvBNNeuron(hidden, width, neuron=make_neuron(config))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes of the same shape as `x`, `[T*N, width, H, W]`."""
        return cast(torch.Tensor, self.fc2(self.fc1(x)))

    def channel_roles(self) -> dict[str, ChannelRole]:
        """Role of the hidden channels, which only the MLP uses."""
        return {"fc1": ChannelRole("")}


class MembraneMLP(nn.Module):
    """Two 1x1 convolutions, a neuron before each, added to a stream of membrane currents.

    As in Spike-driven Transformer V1, Max-Former and Spikingformer.

    Args:
        config: of the network.
        width: channels of the stream.
        hidden: channels in between.
        inner_shortcut: whether the first convolution adds to the stream as well where the hidden
            width is the stream's.
    """

    def __init__(
        self, config: NetworkConfig, width: int, hidden: int, *, inner_shortcut: bool = True
    ) -> None:
        super().__init__()
        self.inner_shortcut = inner_shortcut and width == hidden
        self.fc1 = NeuronConvBN(width, hidden, neuron=make_neuron(config))
        self.fc2 = NeuronConvBN(hidden, width, neuron=make_neuron(config))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The stream after the MLP, of the same shape as `x`, `[T*N, width, H, W]`."""
        hidden = self.fc1(x)
        if self.inner_shortcut:
            hidden = x = x + hidden
        return cast(torch.Tensor, x + self.fc2(hidden))

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """Role of the hidden channels, which only the MLP uses unless they are the stream's."""
        return {} if self.inner_shortcut else {"fc1": ChannelRole("")}
