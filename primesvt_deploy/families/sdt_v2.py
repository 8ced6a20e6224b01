"""Network of Spike-driven Transformer V2, Meta-SpikeFormer (Yao et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn

from primesvt_deploy.families.blocks.attention import SpikingSelfAttention
from primesvt_deploy.families.blocks.pyramid import (
    ChannelMixer,
    Pyramid,
    PyramidConfig,
    ResidualBlock,
)
from primesvt_deploy.families.blocks.rep_conv import RepConv
from primesvt_deploy.families.blocks.units import ConvBN, ConvBNNeuron, make_neuron
from primesvt_deploy.families.coupling import ChannelRole

__all__ = ["SDTv2", "SDTv2Config"]


@dataclass(frozen=True, kw_only=True)
class SDTv2Config(PyramidConfig):
    """A Spike-driven Transformer V2 before pruning; see `PyramidConfig`.

    Args:
        separable_ratio: hidden width of separable convolutions by the stream's.
        attention_v_threshold: threshold of the neuron behind the attention product.
        attention_scale: factor on the attention product.
    """

    separable_ratio: float = 2.0
    attention_v_threshold: float = 0.5
    attention_scale: float = 0.125


class SeparableConv(nn.Module):
    """SepConv: neuron, 1x1 convolution, neuron, depthwise 7x7 and 1x1 convolutions.

    The last convolution reads currents, not spikes.
    """

    def __init__(self, config: SDTv2Config, width: int) -> None:
        super().__init__()
        hidden = int(width * config.separable_ratio)
        self.entry = make_neuron(config)
        self.pointwise1 = ConvBNNeuron(width, hidden, neuron=make_neuron(config))
        self.depthwise = nn.Conv2d(hidden, hidden, 7, padding=3, groups=hidden, bias=False)
        self.pointwise2 = ConvBN(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Currents of the same shape as `x`, `[T*N, width, H, W]`."""
        spikes = self.pointwise1(self.entry(x))
        return cast(torch.Tensor, self.pointwise2(self.depthwise(spikes)))

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """Role of the hidden channels, which only this module uses."""
        return {"pointwise1": ChannelRole(""), "depthwise": ChannelRole("")}


def _conv_block(config: SDTv2Config, width: int) -> ResidualBlock:
    return ResidualBlock(
        sep_conv=SeparableConv(config, width),
        channel_conv=ChannelMixer(config, width, 3, bias=False),
    )


def _block(config: SDTv2Config, width: int) -> ResidualBlock:
    return ResidualBlock(attn=_attention(config, width), mlp=ChannelMixer(config, width))


def _attention(config: SDTv2Config, width: int) -> SpikingSelfAttention:
    def unit() -> RepConv:
        return RepConv(width, width, width, neuron=make_neuron(config))

    return SpikingSelfAttention(
        entry=make_neuron(config),
        q=unit(),
        k=unit(),
        v=unit(),
        neuron=make_neuron(config, v_threshold=config.attention_v_threshold),
        proj=RepConv(width, width, width),
        num_heads=config.num_heads,
        scale=config.attention_scale,
    )


class SDTv2(Pyramid):
    """Three stages of separable and channel convolutions, two of SSA and MLPs, one or two heads."""

    def __init__(self, config: SDTv2Config) -> None:
        super().__init__(
            config,
            partial(_conv_block, config),
            partial(_block, config),
            head_neuron=make_neuron(config),
        )
