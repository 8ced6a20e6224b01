"""Checkpoints of Spike-driven Transformer V3, the base models: upstream's code."""

from __future__ import annotations

from collections.abc import Set

import torch

from primesvt_deploy.families.checkpoint_keys import State, rename, square_kernels
from primesvt_deploy.families.family import Family
from primesvt_deploy.families.input_defaults import InputDefaults
from primesvt_deploy.families.options import NEURON_AND_INPUT, ModelOptions
from primesvt_deploy.families.pyramid_checkpoint import STAGE_RULES, integer_arguments
from primesvt_deploy.families.sdt_v3 import SDTv3, SDTv3Config
from primesvt_deploy.families.stored_arguments import model_named

__all__ = ["SDT_V3"]

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
    arguments=(model_named(r"efficient_spiking_transformer(?:_scaling)?"),),
    convert=_convert,
    options=NEURON_AND_INPUT | {"num_heads", "levels"},
    flags="--heads --image-size",
    inputs=InputDefaults(resize_at_224=232, crops_above_224=False),
)
