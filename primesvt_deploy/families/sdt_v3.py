"""Network of Spike-driven Transformer V3, the base models (Yao et al., TPAMI 2025).

Its neurons fire integers in place of spikes over time. `sdt_v3_large` has the large models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn

from primesvt_deploy.families.blocks.attention import SpikingSelfAttention
from primesvt_deploy.families.blocks.integer_pyramid import IntegerPyramidConfig, counting_neuron
from primesvt_deploy.families.blocks.pyramid import ChannelMixer, Pyramid, ResidualBlock
from primesvt_deploy.families.blocks.units import ConvBN, ConvBNNeuron, make_neuron
from primesvt_deploy.families.coupling import ChannelRole

__all__ = ["SDTv3", "SDTv3Config"]


@dataclass(frozen=True, kw_only=True)
class SDTv3Config(IntegerPyramidConfig):
    """A base model before pruning; see `IntegerPyramidConfig`.

    Args:
        separable_ratio: hidden width of separable convolutions by the stream's.
        v_ratio: width of v by that of q and k.
        attention_gain: the attention product's factor is this by the root of q's width in a head
            before pruning.
    """

    separable_ratio: float = 2.0
    v_ratio: float = 4.0
    attention_gain: float = 2.0


class SpikingSeparableConv(nn.Module):
    """SepConv: neuron, 1x1 convolution, neuron, depthwise convolution, neuron, 1x1 convolution."""

    def __init__(self, config: SDTv3Config, width: int, kernel_size: int) -> None:
        super().__init__()
        hidden = int(width * config.separable_ratio)
        self.entry = make_neuron(config)
        self.pointwise1 = ConvBNNeuron(width, hidden, neuron=make_neuron(config))
        self.depthwise = ConvBNNeuron(
            hidden, hidden, kernel_size, groups=hidden, neuron=make_neuron(config)
        )
        self.pointwise2 = ConvBN(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Currents of the same shape as `x`, `[N, width, H, W]`."""
        spikes = self.pointwise1(self.entry(x))
        return cast(torch.Tensor, self.pointwise2(self.depthwise(spikes)))

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """Role of the hidden channels, which only this module uses."""
        return {"pointwise1": ChannelRole(""), "depthwise": ChannelRole("")}


def _conv_block(config: SDTv3Config, width: int) -> ResidualBlock:
    return ResidualBlock(
        sep_conv=SpikingSeparableConv(config, width, 7),
        channel_conv=ChannelMixer(config, width, 3, bias=False),
    )


def _block(config: SDTv3Config, width: int) -> ResidualBlock:
    return ResidualBlock(
        sep_conv=SpikingSeparableConv(config, width, 3),
        attn=_attention(config, width),
        mlp=ChannelMixer(config, width),
    )


def _attention(config: SDTv3Config, width: int) -> SpikingSelfAttention:
    v_width = int(width * config.v_ratio)

    def unit(out_channels: int) -> ConvBNNeuron:
        return ConvBNNeuron(width, out_channels, neuron=make_neuron(config))

    return SpikingSelfAttention(
        entry=make_neuron(config),
        q=unit(width),
        k=unit(width),
        v=unit(v_width),
        neuron=make_neuron(config),
        proj=ConvBN(v_width, width),
        num_heads=config.num_heads,
        scale=config.attention_gain * (width // config.num_heads) ** -0.5,
    )


class SDTv3(Pyramid):
    """Three stages of separable and channel convolutions, two that have SSA and MLPs as well."""

    def __init__(self, config: SDTv3Config) -> None:
        super().__init__(
            config,
            partial(_conv_block, config),
            partial(_block, config),
            head_neuron=counting_neuron(config),
        )
