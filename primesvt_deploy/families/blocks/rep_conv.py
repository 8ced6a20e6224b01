"""RepConv: convolutions without a neuron between them (Spike-driven Transformers V2 and V3).

In evaluation they are one linear map, yet cost less apart. Sources: Ding et al., RepVGG, CVPR
2021; Yao et al., ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from primesvt_deploy.families.blocks.units import ConvBN, ConvBNNeuron
from primesvt_deploy.families.coupling import ChannelRole

__all__ = ["RepConv"]


class RepConv(nn.Module):
    """1x1 convolution, depthwise convolution, 1x1 convolution.

    The depthwise convolution's input is padded with what the first norm makes of zeros, which
    equals padding the first convolution's input with zeros. (One dense 3x3 convolution would do
    the same at 9/2 of the cost where all widths are equal.)

    Args:
        in_channels: channels of the input.
        hidden: channels in between.
        out_channels: channels of the output.
        kernel_size: kernel size of the depthwise convolution; 1: there is none.
        twice_normed: whether another norm follows the last.
        scaled: whether channels of the output have a learnt factor (layer scale).
        entry: neuron in front; None: there is none.
        neuron: neuron behind; None: there is none, outputs are currents.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        twice_normed: bool = True,
        scaled: bool = False,
        entry: nn.Module | None = None,
        neuron: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.entry = nn.Identity() if entry is None else entry
        self.pointwise1 = ConvBN(in_channels, hidden, padding=kernel_size // 2)
        self.depthwise: nn.Module = (
            nn.Identity()
            if kernel_size == 1
            else nn.Conv2d(hidden, hidden, kernel_size, groups=hidden, bias=False)
        )
        self.pointwise2 = (
            ConvBN(hidden, out_channels, twice_normed=twice_normed, scaled=scaled)
            if neuron is None
            else ConvBNNeuron(hidden, out_channels, neuron=neuron, twice_normed=twice_normed)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes or currents `[T*N, out_channels, H, W]` of `x` `[T*N, in_channels, H, W]`."""
        hidden = self.depthwise(self.pointwise1(self.entry(x)))
        return cast(torch.Tensor, self.pointwise2(hidden))

    @torch.no_grad()
    def simplify_folded(self) -> None:
        """Pad the depthwise convolution's input instead of the first's; the norms must be folded.

        This costs less. The first convolution's bias reaches every pixel that the depthwise one
        reads, those of the padding included: it becomes a bias of the depthwise convolution,
        `b' = b sum(w)`.
        """
        first, depthwise = self.pointwise1.conv, self.depthwise
        if isinstance(depthwise, nn.Conv2d) and first.bias is not None:
            bias = first.bias * depthwise.weight.sum(dim=(1, 2, 3))
            depthwise.bias = nn.Parameter(bias, requires_grad=False)
            depthwise.padding, first.padding = first.padding, (0, 0)
            first.bias = None

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """Role of the hidden channels, which only this module uses."""
        return {"pointwise1": ChannelRole("hidden"), "depthwise": ChannelRole("hidden")}
