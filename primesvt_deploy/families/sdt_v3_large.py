"""Spike-driven Transformer V3, the large models (Yao et al., TPAMI 2025): network, checkpoints.

They are pretrained as masked autoencoders and then fine-tuned; this is the fine-tuned classifier
(upstream's `spikformer12_512` and `spikformer12_768`).
"""

from __future__ import annotations

from collections.abc import Set
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
    ResidualBlock,
)
from primesvt_deploy.families.blocks.rep_conv import RepConv
from primesvt_deploy.families.blocks.units import make_neuron
from primesvt_deploy.families.checkpoint_keys import rename, square_kernels
from primesvt_deploy.families.sdt_v3 import (
    IntegerPyramidConfig,
    counting_neuron,
    integer_arguments,
)

__all__ = ["SDT_V3_LARGE", "SDTv3Large", "SDTv3LargeConfig"]


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

    The head reads the mean over tokens as it is; a second one, if any, its counts.
    """

    def __init__(self, config: SDTv3LargeConfig) -> None:
        super().__init__(
            config,
            partial(_conv_block, config),
            partial(_block, config),
            head_neuron=counting_neuron(config) if config.distilled else nn.Identity(),
        )

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """Stream `[N, D, H, W]` to logits `[N, K]`."""
        features = x.mean(dim=(2, 3))
        logits = cast(torch.Tensor, self.head(features))
        if not self.distilled:
            return logits
        return cast(torch.Tensor, (logits + self.head_kd(self.head_neuron(features))) / 2)


_UNIT_RULES = (
    (r"(.+)\.conv([12])\.0\.0", r"\1.channel_conv.fc\2.conv"),
    (r"(.+)\.conv([12])\.0\.1", r"\1.channel_conv.fc\2.bn"),
    (r"(.+\.attn\.\w+)_conv\.0\.conv([12])\.0", r"\1.pointwise\2.conv"),
    (r"(.+\.attn\.\w+)_conv\.0\.conv([12])\.1", r"\1.pointwise\2.bn"),
    (r"(.+\.attn\.\w+)_conv\.1", r"\1.pointwise2.norm2"),
    (r"(.+\.rep_conv)\.conv([12])\.0", r"\1.pointwise\2.conv"),
    (r"(.+\.rep_conv)\.conv([12])\.1", r"\1.pointwise\2.bn"),
    (r"(.+\.mlp\.fc[12])_(conv|bn)", r"\1.\2"),
    (r"(.+)\.layer_scale1", r"\1.attn.proj.pointwise2.scale"),
    (r"(.+)\.layer_scale2", r"\1.mlp.fc2.scale"),
)


def _recognises(keys: Set[str]) -> bool:
    return {
        "downsample1_1.encode_conv.weight",
        "ConvBlock1_1.0.conv1.0.0.weight",
        "block3.0.attn.q_conv.0.conv1.0.weight",
        "head.weight",
    } <= keys


def _scales_as_layers(state: State) -> dict[str, torch.Tensor]:
    """Layer scales `[C]` as the weights `[C, 1, 1, 1]` of depthwise 1x1 convolutions."""
    return {
        f"{key}.weight" if "layer_scale" in key else key: (
            tensor.reshape(-1, 1, 1, 1) if "layer_scale" in key else tensor
        )
        for key, tensor in state.items()
    }


def _convert(
    state: State, options: ModelOptions
) -> tuple[SDTv3LargeConfig, dict[str, torch.Tensor]]:
    renamed = rename(rename(_scales_as_layers(state), STAGE_RULES), _UNIT_RULES)
    ours = square_kernels(renamed)
    config = SDTv3LargeConfig(
        # Published with 4 and with 8, by the same code and under the same names.
        levels=options.demand("levels"),
        rep_conv="stages.3.blocks.0.rep_conv.pointwise1.conv.weight" in ours,
        **integer_arguments(ours, options),
    )
    return config, ours


SDT_V3_LARGE = Family(
    name="sdt-v3-large",
    title="Spike-driven Transformer V3, large (Yao et al., TPAMI 2025)",
    config_type=SDTv3LargeConfig,
    network=SDTv3Large,
    recognises=_recognises,
    convert=_convert,
    flags="--heads --image-size --levels",
    inputs=InputDefaults(resize_at_224=232, crops_above_224=False),
)
