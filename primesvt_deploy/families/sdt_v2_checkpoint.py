"""Checkpoints of Spike-driven Transformer V2, Meta-SpikeFormer: upstream's code."""

from __future__ import annotations

from collections.abc import Set

import torch

from primesvt_deploy.families.checkpoint_keys import State, rename, square_kernels
from primesvt_deploy.families.family import Family
from primesvt_deploy.families.input_defaults import InputDefaults
from primesvt_deploy.families.options import NEURON_AND_INPUT, ModelOptions
from primesvt_deploy.families.pyramid_checkpoint import STAGE_RULES, shape_of
from primesvt_deploy.families.sdt_v2 import SDTv2, SDTv2Config
from primesvt_deploy.families.stored_arguments import model_named

__all__ = ["SDT_V2"]

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
        **options.network_arguments(shape["in_channels"]),
        num_heads=options.require("num_heads"),
        **shape,
    )
    return config, ours


SDT_V2 = Family(
    name="sdt-v2",
    title="Spike-driven Transformer V2 (Yao et al., ICLR 2024)",
    config_type=SDTv2Config,
    network=SDTv2,
    recognises=_recognises,
    arguments=(model_named("metaspikformer", r"spikformer_\d+_\d+_caformer"),),
    convert=_convert,
    options=NEURON_AND_INPUT | {"num_heads"},
    flags="--timesteps --heads --image-size",
    inputs=InputDefaults(resize_at_224=256, crops_above_224=False),
)
