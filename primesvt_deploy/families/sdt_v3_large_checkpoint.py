"""Checkpoints of Spike-driven Transformer V3, the large models: upstream's code."""

from __future__ import annotations

from collections.abc import Set

import torch

from primesvt_deploy.families.checkpoint_keys import State, rename, square_kernels
from primesvt_deploy.families.family import Family
from primesvt_deploy.families.input_defaults import InputDefaults
from primesvt_deploy.families.options import NEURON_AND_INPUT, ModelOptions
from primesvt_deploy.families.pyramid_checkpoint import STAGE_RULES, integer_arguments
from primesvt_deploy.families.sdt_v3_large import SDTv3Large, SDTv3LargeConfig
from primesvt_deploy.families.stored_arguments import model_named

__all__ = ["SDT_V3_LARGE"]

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
        levels=options.require("levels"),
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
    arguments=(model_named("spikformer", "spikmae"),),
    convert=_convert,
    options=NEURON_AND_INPUT | {"num_heads", "levels"},
    flags="--heads --image-size --levels",
    inputs=InputDefaults(resize_at_224=232, crops_above_224=False),
)
