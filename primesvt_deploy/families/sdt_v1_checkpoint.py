"""Checkpoints of Spike-driven Transformer V1: upstream's code, and SpikingJelly's class.

Upstream's forms are its ImageNet and CIFAR code and its event-camera code (DVS128 Gesture, and
CIFAR10-DVS with max pooling inside attention). SpikingJelly 2.0's `SpikeDrivenTransformer` computes
the same as the ImageNet and CIFAR code.
"""

from __future__ import annotations

from collections.abc import Set

import torch

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.checkpoint_keys import (
    State,
    block_count,
    rename,
    square_kernels,
    width_of,
)
from primesvt_deploy.families.family import Family
from primesvt_deploy.families.input_defaults import InputDefaults
from primesvt_deploy.families.options import NEURON_AND_INPUT, ModelOptions
from primesvt_deploy.families.sdt_v1 import SDTV1Config, SpikeDrivenTransformer
from primesvt_deploy.families.stem_pooling import chosen_pooling
from primesvt_deploy.families.stored_arguments import model_named, one_of

__all__ = ["SDT_V1", "is_upstream"]

_UPSTREAM_RULES = (
    (r"patch_embed\.proj_(conv|bn)", r"stem.0.\1"),
    (r"patch_embed\.proj_(conv|bn)([123])", r"stem.\2.\1"),
    (r"patch_embed\.rpe_(conv|bn)", r"position.\1"),
    (r"block\.(\d+)\.attn\.(q|k|v|proj)_(conv|bn)", r"blocks.\1.attn.\2.\3"),
    (r"block\.(\d+)\.mlp\.(fc[12])_(conv|bn)", r"blocks.\1.mlp.\2.\3"),
)
_UNUSED = (r"block\.\d+\.attn\.talking_heads",)
_SPIKINGJELLY_RULES = (
    (r"patch_embed\.stages\.([012])\.0", r"stem.\1.conv"),
    (r"patch_embed\.stages\.([012])\.1", r"stem.\1.bn"),
    (r"patch_embed\.final_stage\.0", "stem.3.conv"),
    (r"patch_embed\.final_stage\.1", "stem.3.bn"),
    (r"patch_embed\.rpe_(conv|bn)", r"position.\1"),
    (r"blocks\.(\d+)\.attn\.(q|k|v|proj)_(conv|bn)", r"blocks.\1.attn.\2.\3"),
    (r"blocks\.(\d+)\.mlp\.(fc[12])", r"blocks.\1.mlp.\2.conv"),
    (r"blocks\.(\d+)\.mlp\.bn([12])", r"blocks.\1.mlp.fc\2.bn"),
)
_HEADS_KEY = "block.0.attn.talking_heads.weight"


def _is_spikingjelly(keys: Set[str]) -> bool:
    return "patch_embed.final_stage.0.weight" in keys


def is_upstream(keys: Set[str]) -> bool:
    """Whether a state_dict has the keys of upstream's code, or of a fork of it."""
    return {"patch_embed.proj_conv3.weight", "patch_embed.rpe_conv.weight", _HEADS_KEY} <= keys


def _recognises(keys: Set[str]) -> bool:
    return "head.weight" in keys and (_is_spikingjelly(keys) or is_upstream(keys))


def _convert(state: State, options: ModelOptions) -> tuple[SDTV1Config, dict[str, torch.Tensor]]:
    upstream = is_upstream(state.keys())
    rules = _SPIKINGJELLY_RULES if _is_spikingjelly(state.keys()) else _UPSTREAM_RULES
    ours = square_kernels(rename(state, rules, drop=_UNUSED))
    in_channels = width_of(ours, "stem.0.conv", axis=1)
    num_classes = width_of(ours, "head")
    dim = width_of(ours, "stem.3.conv")
    shared = options.network_arguments(in_channels)
    by_patch_size = options.patch_size is not None
    pooling = chosen_pooling(options) if by_patch_size else options.require("pooling")
    # Upstream pools inside attention for CIFAR10-DVS alone, and no key shows it: that data set has
    # ten classes of frames, and its stem pools in two stages.
    pooled_attention = upstream and shared["frames"] and num_classes == 10 and pooling == "0011"
    config = SDTV1Config(
        **shared,
        in_channels=in_channels,
        num_classes=num_classes,
        embed_dim=dim,
        depth=block_count(ours, r"blocks\.(\d+)\."),
        pooling=pooling,
        num_heads=_heads(state, options),
        mlp_ratio=width_of(ours, "blocks.0.mlp.fc1.conv") / dim,
        attention_v_threshold=options.attention_v_threshold(passed_on=not upstream),
        pooled_attention=pooled_attention,
    )
    return config, ours


def _heads(state: State, options: ModelOptions) -> int:
    """Number of heads by upstream's unused `talking_heads`; elsewhere it makes no difference."""
    weight = state.get(_HEADS_KEY)
    if weight is None:
        return options.num_heads or 1
    heads = len(weight)
    if options.num_heads not in (None, heads):
        raise ModelError(
            f"{options.num_heads} heads, but the weights are of a model with {heads}; "
            f"pass --heads {heads} or none"
        )
    return heads


SDT_V1 = Family(
    name="sdt-v1",
    title="Spike-driven Transformer (Yao et al., NeurIPS 2023)",
    config_type=SDTV1Config,
    network=SpikeDrivenTransformer,
    recognises=_recognises,
    arguments=(
        model_named("sdt"),
        one_of("sdt", names=("attention_mode",)),
    ),
    convert=_convert,
    options=NEURON_AND_INPUT | {"num_heads", "pooling", "patch_size"},
    flags="--timesteps --image-size --pooling",
    inputs=InputDefaults(resize_at_224=235),
)
