"""Spike-driven Transformer V3, the base models (Yao et al., TPAMI 2025): network, checkpoints.

Its neurons fire integers in place of spikes over time. `sdt_v3_large` has the large models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.base import Family, InputDefaults, ModelOptions, State
from primesvt_deploy.families.blocks.attention import SpikingSelfAttention
from primesvt_deploy.families.blocks.neuron import Neuron, NeuronParameters
from primesvt_deploy.families.blocks.pyramid import (
    STAGE_RULES,
    ChannelMixer,
    Pyramid,
    PyramidConfig,
    ResidualBlock,
    shape_of,
)
from primesvt_deploy.families.blocks.units import ConvBN, ConvBNNeuron, make_neuron
from primesvt_deploy.families.checkpoint_keys import rename, square_kernels
from primesvt_deploy.families.network import ChannelRole

__all__ = [
    "SDT_V3",
    "IntegerPyramidConfig",
    "SDTv3",
    "SDTv3Config",
    "counting_neuron",
    "integer_arguments",
]


@dataclass(frozen=True, kw_only=True)
class IntegerPyramidConfig(PyramidConfig):
    """A pyramid of integer neurons: one timestep, in which a neuron fires 0, 1/D, ..., 1.

    The neuron in front of the head fires 0, 1, ..., D. `tau`, `v_reset` and `decay_input` change
    nothing in one timestep.

    Args:
        levels: D.
        half_up: counts round halves up, not to even.
    """

    timesteps: int = 1
    v_reset: float | None = None
    decay_input: bool = False
    levels: int = 4
    half_up: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
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
    """The neuron in front of a head: its counts are not divided."""
    return Neuron(replace(config.neuron(), spike_value=1.0), timesteps=1)


def integer_arguments(state: State, options: ModelOptions) -> dict[str, Any]:
    """Arguments that the configurations of all integer pyramids share.

    Args:
        state: under our names.
        options: what the weights do not tell.

    Raises:
        ModelError: something is missing.
    """
    return {
        "timesteps": 1 if options.timesteps is None else options.timesteps,
        "num_heads": options.demand("num_heads"),
        "image_size": options.demand("image_size"),
        "frames": bool(options.frames),
        "tau": 2.0 if options.tau is None else options.tau,
        "v_threshold": 1.0 if options.v_threshold is None else options.v_threshold,
        **shape_of(state),
    }


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
        """Currents of `x`, `[N, width, H, W]` to the same shape."""
        spikes = self.pointwise1(self.entry(x))
        return cast(torch.Tensor, self.pointwise2(self.depthwise(spikes)))

    def channel_roles(self) -> Mapping[str, ChannelRole]:
        """The hidden channels are the module's own."""
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


_UNIT_RULES = (
    (r"(.+)\.(?:Conv|conv)\.pwconv([12])\.0", r"\1.sep_conv.pointwise\2.conv"),
    (r"(.+)\.(?:Conv|conv)\.pwconv([12])\.1", r"\1.sep_conv.pointwise\2.bn"),
    (r"(.+)\.(?:Conv|conv)\.dwconv\.0", r"\1.sep_conv.depthwise.conv"),
    (r"(.+)\.(?:Conv|conv)\.dwconv\.1", r"\1.sep_conv.depthwise.bn"),
    (r"(.+\.blocks\.\d+)\.(conv|bn)([12])", r"\1.channel_conv.fc\3.\2"),
    (r"(.+\.attn\.\w+)_conv\.0", r"\1.conv"),
    (r"(.+\.attn\.\w+)_conv\.1", r"\1.bn"),
    (r"(.+\.mlp\.fc[12])_(conv|bn)", r"\1.\2"),
)


def _recognises(keys: Set[str]) -> bool:
    return {
        "downsample1_1.encode_conv.weight",
        "ConvBlock1_1.0.Conv.dwconv.0.weight",
        "block3.0.attn.q_conv.0.weight",
        "head.weight",
    } <= keys


def _convert(state: State, options: ModelOptions) -> tuple[SDTv3Config, dict[str, torch.Tensor]]:
    ours = square_kernels(rename(rename(state, STAGE_RULES), _UNIT_RULES))
    levels = 4 if options.levels is None else options.levels
    config = SDTv3Config(levels=levels, **integer_arguments(ours, options))
    return config, ours


SDT_V3 = Family(
    name="sdt-v3",
    title="Spike-driven Transformer V3, base (Yao et al., TPAMI 2025)",
    config_type=SDTv3Config,
    network=SDTv3,
    recognises=_recognises,
    convert=_convert,
    flags="--heads --image-size",
    inputs=InputDefaults(resize_at_224=232, crops_above_224=False),
)
