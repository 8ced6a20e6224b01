"""Network of Spike-driven Transformer V3, the large models (Yao et al., TPAMI 2025).

They are pretrained as masked autoencoders and then fine-tuned; this is the fine-tuned classifier
(upstream's `spikformer12_512` and `spikformer12_768`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn

from primesvt_deploy.families.blocks.attention import SpikingSelfAttention
from primesvt_deploy.families.blocks.integer_pyramid import IntegerPyramidConfig, counting_neuron
from primesvt_deploy.families.blocks.pyramid import ChannelMixer, Pyramid, ResidualBlock
from primesvt_deploy.families.blocks.rep_conv import RepConv
from primesvt_deploy.families.blocks.units import make_neuron

__all__ = ["SDTv3Large", "SDTv3LargeConfig"]


@dataclass(frozen=True, kw_only=True)
class SDTv3LargeConfig(IntegerPyramidConfig):
    """A large model before pruning; see `IntegerPyramidConfig`.

    Args:
        rep_conv: blocks start with a branch of two convolutions (the 83M model).
        attention_ratio: hidden width of q's, k's, v's and proj's convolutions by their input's.
        attention_scale: factor on the attention product.
    """

    half_up: bool = True
    rep_conv: bool = False
    attention_ratio: float = 1.5
    attention_scale: float = 0.125


def _conv_block(config: SDTv3LargeConfig, width: int) -> ResidualBlock:
    return ResidualBlock(channel_conv=ChannelMixer(config, width, 3))


def _block(config: SDTv3LargeConfig, width: int) -> ResidualBlock:
    attn, mlp = _attention(config, width), ChannelMixer(config, width, scaled=True)
    if not config.rep_conv:
        return ResidualBlock(attn=attn, mlp=mlp)
    entry = make_neuron(config)
    rep_conv = RepConv(width, width, width, kernel_size=1, twice_normed=False, entry=entry)
    return ResidualBlock(rep_conv=rep_conv, attn=attn, mlp=mlp)


def _attention(config: SDTv3LargeConfig, width: int) -> SpikingSelfAttention:
    hidden = int(width * config.attention_ratio)

    def unit() -> RepConv:
        return RepConv(width, hidden, width, kernel_size=1, neuron=make_neuron(config))

    return SpikingSelfAttention(
        entry=make_neuron(config),
        q=unit(),
        k=unit(),
        v=unit(),
        neuron=make_neuron(config),
        proj=RepConv(width, hidden, width, kernel_size=1, scaled=True),
        num_heads=config.num_heads,
        scale=config.attention_scale,
    )


class SDTv3Large(Pyramid):
    """Three stages of channel convolutions, one of SSA and MLPs with layer scale.

    The head takes the mean over tokens as it is; a second head, if any, takes the integers that a
    neuron fires for it.
    """

    def __init__(self, config: SDTv3LargeConfig) -> None:
        super().__init__(
            config,
            partial(_conv_block, config),
            partial(_block, config),
            head_neuron=counting_neuron(config) if config.distilled else nn.Identity(),
        )

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of the stream `[N, D, H, W]`."""
        features = x.mean(dim=(2, 3))
        logits = cast(torch.Tensor, self.head(features))
        if not self.distilled:
            return logits
        return cast(torch.Tensor, (logits + self.head_kd(self.head_neuron(features))) / 2)
