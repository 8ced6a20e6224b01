"""Spike-driven Transformer V2, Meta-SpikeFormer (Yao et al., ICLR 2024): network, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn

from primesvt_deploy.families.base import Family, InputDefaults, ModelOptions, State
from primesvt_deploy.families.blocks.attention import SpikingSelfAttention
from primesvt_deploy.families.blocks.pyramid import (
    STAGE_RULES,
    ChannelMixer,
    Pyramid,
    PyramidConfig,
    ResidualBlock,
    shape_of,
)
from primesvt_deploy.families.blocks.rep_conv import RepConv
from primesvt_deploy.families.blocks.units import ConvBN, ConvBNNeuron, make_neuron
from primesvt_deploy.families.checkpoint_keys import rename, square_kernels
from primesvt_deploy.families.network import ChannelRole

__all__ = ["SDT_V2", "SDTv2", "SDTv2Config"]


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

    The last convolution sees real currents.
    """

    def __init__(self, config: SDTv2Config, width: int) -> None:
        super().__init__()
        hidden = int(width * config.separable_ratio)
        self.entry = make_neuron(config)
        self.pointwise1 = ConvBNNeuron(width, hidden, neuron=make_neuron(config))
        self.depthwise = nn.Conv2d(hidden, hidden, 7, padding=3, groups=hidden, bias=False)
        self.pointwise2 = ConvBN(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Currents of `x`, `[T*N, width, H, W]` to the same shape."""
        spikes = self.pointwise1(self.entry(x))
        return cast(torch.Tensor, self.pointwise2(self.depthwise(spikes)))

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """The hidden channels are the module's own."""
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


_UNIT_RULES = (
    (r"(.+)\.Conv\.pwconv([12])", r"\1.sep_conv.pointwise\2.conv"),
    (r"(.+)\.Conv\.bn([12])", r"\1.sep_conv.pointwise\2.bn"),
    (r"(.+)\.Conv\.dwconv", r"\1.sep_conv.depthwise"),
    (r"(.+\.blocks\.\d+)\.(conv|bn)([12])", r"\1.channel_conv.fc\3.\2"),
    (r"(.+\.attn\.\w+)_conv\.0\.body\.0", r"\1.pointwise1.conv"),
    (r"(.+\.attn\.\w+)_conv\.0\.body\.1\.bn", r"\1.pointwise1.bn"),
    (r"(.+\.attn\.\w+)_conv\.0\.body\.2\.0", r"\1.depthwise"),
    (r"(.+\.attn\.\w+)_conv\.0\.body\.2\.1", r"\1.pointwise2.conv"),
    (r"(.+\.attn\.\w+)_conv\.0\.body\.2\.2", r"\1.pointwise2.bn"),
    (r"(.+\.attn\.\w+)_conv\.1", r"\1.pointwise2.norm2"),
    (r"(.+\.mlp\.fc[12])_(conv|bn)", r"\1.\2"),
)


def _recognises(keys: Set[str]) -> bool:
    return {
        "downsample1_1.encode_conv.weight",
        "ConvBlock1_1.0.Conv.dwconv.weight",
        "block3.0.attn.q_conv.0.body.0.weight",
        "head.weight",
    } <= keys


def _convert(state: State, options: ModelOptions) -> tuple[SDTv2Config, dict[str, torch.Tensor]]:
    ours = square_kernels(rename(rename(state, STAGE_RULES), _UNIT_RULES))
    shape = shape_of(ours)
    config = SDTv2Config(
        timesteps=options.demand("timesteps"),
        num_heads=options.demand("num_heads"),
        image_size=options.demand("image_size"),
        frames=options.takes_frames(shape["in_channels"]),
        tau=2.0 if options.tau is None else options.tau,
        v_threshold=1.0 if options.v_threshold is None else options.v_threshold,
        **shape,
    )
    return config, ours


SDT_V2 = Family(
    name="sdt-v2",
    title="Spike-driven Transformer V2 (Yao et al., ICLR 2024)",
    config_type=SDTv2Config,
    network=SDTv2,
    recognises=_recognises,
    convert=_convert,
    flags="--timesteps --heads --image-size",
    inputs=InputDefaults(resize_at_224=256, crops_above_224=False),
)
