"""Checkpoints of Spikformer: upstream's ImageNet, CIFAR and CIFAR10-DVS code, and others' code.

The stem of SpikingJelly 2.0's `Spikformer` pools before the neuron where upstream's pools after it
(equal at T = 1 only); so does the CIFAR code of Spikformer with CML (Zhou et al.,
arXiv:2305.05954).
"""

from __future__ import annotations

from collections.abc import Set

import torch

from primesvt_deploy.families.checkpoint_keys import (
    State,
    block_count,
    rename,
    split_parts,
    square_kernels,
    width_of,
)
from primesvt_deploy.families.family import Family
from primesvt_deploy.families.options import NEURON_AND_INPUT, ModelOptions
from primesvt_deploy.families.spikformer import Spikformer, SpikformerConfig
from primesvt_deploy.families.stem_pooling import chosen_pooling
from primesvt_deploy.families.stored_arguments import model_named, one_of

__all__ = ["SPIKFORMER"]

_UPSTREAM_RULES = (
    (r"patch_embed\.proj_conv", "stem.0.conv"),
    (r"patch_embed\.proj_conv([123])", r"stem.\1.conv"),
    (r"patch_embed\.proj_bn", "stem.0.bn"),
    (r"patch_embed\.proj_bn([123])", r"stem.\1.bn"),
    *((rf"patch_embed\.block{i + 1}_(conv|bn)", rf"stem.{i}.\1") for i in range(4)),
    (r"patch_embed\.rpe_(conv|bn)", r"position.\1"),
    (r"block\.(\d+)\.attn\.(q|k|v|proj)_(?:conv|linear)", r"blocks.\1.attn.\2.conv"),
    (r"block\.(\d+)\.attn\.(q|k|v|proj)_bn", r"blocks.\1.attn.\2.bn"),
    (r"block\.(\d+)\.mlp\.(fc[12])_(?:conv|linear)", r"blocks.\1.mlp.\2.conv"),
    (r"block\.(\d+)\.mlp\.(fc[12])_bn", r"blocks.\1.mlp.\2.bn"),
)
_UNUSED = (r"block\.\d+\.norm[12]", r"norm")
_SPIKINGJELLY_RULES = (
    (r"patch_embed\.stages\.(\d)\.conv_bn\.block\.0", r"stem.\1.conv"),
    (r"patch_embed\.stages\.(\d)\.conv_bn\.block\.1", r"stem.\1.bn"),
    (r"patch_embed\.positional_encoding\.conv_bn\.block\.0", "position.conv"),
    (r"patch_embed\.positional_encoding\.conv_bn\.block\.1", "position.bn"),
    (r"blocks\.(\d+)\.attn\.(qkv|proj)_conv_bn\.0", r"blocks.\1.attn.\2.conv"),
    (r"blocks\.(\d+)\.attn\.(qkv|proj)_conv_bn\.1", r"blocks.\1.attn.\2.bn"),
    (r"blocks\.(\d+)\.mlp\.(fc[12])\.0", r"blocks.\1.mlp.\2.conv"),
    (r"blocks\.(\d+)\.mlp\.(fc[12])\.1", r"blocks.\1.mlp.\2.bn"),
)


def _is_spikingjelly(keys: Set[str]) -> bool:
    return "patch_embed.positional_encoding.conv_bn.block.0.weight" in keys


def _is_upstream(keys: Set[str]) -> bool:
    # Spike-driven Transformers share the stem; their attention has `talking_heads`.
    return (
        {"patch_embed.proj_conv3.weight", "patch_embed.rpe_conv.weight"} <= keys
        and any(key.startswith("block.0.attn.") for key in keys)
        and not any(key.endswith(("talking_heads.weight", "mlp.fc1_conv.0.weight")) for key in keys)
    )


def _is_cml(keys: Set[str]) -> bool:
    return keys >= {
        "patch_embed.block1_conv.weight",
        "patch_embed.block4_conv.weight",
        "patch_embed.rpe_conv.weight",
        "block.0.attn.q_linear.weight",
    }


def _recognises(keys: Set[str]) -> bool:
    forms = (_is_spikingjelly, _is_upstream, _is_cml)
    return "head.weight" in keys and any(is_form(keys) for is_form in forms)


def _convert(
    state: State, options: ModelOptions
) -> tuple[SpikformerConfig, dict[str, torch.Tensor]]:
    upstream = not _is_spikingjelly(state.keys())
    renamed = rename(state, _UPSTREAM_RULES if upstream else _SPIKINGJELLY_RULES, drop=_UNUSED)
    # A learned position embedding that CIFAR10-DVS models hold and never add.
    renamed.pop("pos_embed", None)
    ours = split_parts(square_kernels(renamed), "qkv", "qkv")
    in_channels = width_of(ours, "stem.0.conv", axis=1)
    config = SpikformerConfig(
        **options.network_arguments(in_channels),
        num_heads=options.require("num_heads"),
        in_channels=in_channels,
        num_classes=width_of(ours, "head"),
        embed_dim=width_of(ours, "stem.3.conv"),
        depth=block_count(ours, r"blocks\.(\d+)\."),
        pooling=chosen_pooling(options, _upstream_pooling(state) if upstream else None),
        pool_after_neuron=upstream and not _is_cml(state.keys()),
        attention_v_threshold=options.attention_v_threshold(passed_on=not upstream),
        attention_scale=0.25 if upstream and _is_dvs(state) else 0.125,
    )
    return config, ours


def _upstream_pooling(state: State) -> str:
    """Pooling of upstream's stem: all stages (ImageNet, DVS code), or the last two (CIFAR code)."""
    return "0011" if "block.0.attn.q_linear.weight" in state else "1111"


def _is_dvs(state: State) -> bool:
    """Whether the weights are of upstream's CIFAR10-DVS code, which alone has Conv1d MLPs."""
    weight = state.get("block.0.mlp.fc1_conv.weight")
    return weight is not None and weight.ndim == 3


SPIKFORMER = Family(
    name="spikformer",
    title="Spikformer (Zhou et al., ICLR 2023)",
    config_type=SpikformerConfig,
    network=Spikformer,
    recognises=_recognises,
    arguments=(
        model_named("spikformer", "cml[-_]spikformer"),
        one_of("ssa", names=("attention_mode", "attn_mode", "attn_type")),
    ),
    convert=_convert,
    options=NEURON_AND_INPUT | {"num_heads", "pooling", "patch_size"},
    superseded={"patch_size": "pooling"},
    flags="--timesteps --heads --image-size [--patch-size]",
)
