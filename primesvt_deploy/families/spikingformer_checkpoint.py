"""Checkpoints of Spikingformer and Spikingformer-CML: upstream's ImageNet, CIFAR and DVS code.

Layers of both have the same names and shapes, but for the stem of Spikingformer's CIFAR code: only
the family's name tells where such a stem pools. What training scripts store does not: in all of
them the model is called `vitsnn` or `SEWResNet`. Time constants are written into the code. Scripts
for images store `time_step`, which they do not pass on: their models run for 4 timesteps.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import torch

from primesvt_deploy.families.checkpoint_keys import (
    State,
    block_count,
    rename,
    square_kernels,
    width_of,
)
from primesvt_deploy.families.family import Family
from primesvt_deploy.families.options import NEURON_AND_INPUT, ModelOptions
from primesvt_deploy.families.spikingformer import (
    Spikingformer,
    SpikingformerCML,
    SpikingformerConfig,
)
from primesvt_deploy.families.stem_pooling import chosen_pooling
from primesvt_deploy.families.stored_arguments import model_named

__all__ = ["SPIKINGFORMER", "SPIKINGFORMER_CML"]

_RULES = (
    (r"patch_embed\.proj_(conv|bn)", r"stem.0.\1"),
    (r"patch_embed\.proj([1-4])_(conv|bn)", r"stem.\1.\2"),
    (r"patch_embed\.block([0-4])_(conv|bn)", r"stem.\1.\2"),
    (r"block\.(\d+)\.attn\.(q|k|v|proj)_(conv|bn)", r"blocks.\1.attn.\2.\3"),
    (r"block\.(\d+)\.mlp\.mlp([12])_(conv|bn)", r"blocks.\1.mlp.fc\2.\3"),
)
_UNUSED = (r"block\.\d+\.norm[12]",)
_SHARED_KEYS = {"head.weight", "block.0.attn.q_conv.weight", "block.0.mlp.mlp1_conv.weight"}
_TAU_OF_FRAMES, _TAU_OF_FRAMES_CML = 1.5, 1.75
"""Time constants in the code for event frames; that for images has 2."""


def _is_cifar(keys: Set[str]) -> bool:
    """Whether these are keys of Spikingformer's CIFAR code, which alone calls its stem so."""
    return keys >= {
        *_SHARED_KEYS,
        "patch_embed.block0_conv.weight",
        "patch_embed.block4_conv.weight",
    }


def _is_either(keys: Set[str]) -> bool:
    """Whether these are keys of all other code, of Spikingformer and of Spikingformer-CML."""
    return keys >= {*_SHARED_KEYS, "patch_embed.proj_conv.weight", "patch_embed.proj4_conv.weight"}


def _recognises(keys: Set[str]) -> bool:
    return _is_cifar(keys) or _is_either(keys)


def _convert(
    state: State, options: ModelOptions
) -> tuple[SpikingformerConfig, dict[str, torch.Tensor]]:
    ours = _renamed(state)
    by_code = "0011" if _is_cifar(state.keys()) else "1111"
    pooling = by_code if options.pooling is None else options.pooling
    return _config(ours, options, pooling, _TAU_OF_FRAMES), ours


def _convert_cml(
    state: State, options: ModelOptions
) -> tuple[SpikingformerConfig, dict[str, torch.Tensor]]:
    ours = _renamed(state)
    frames = options.takes_frames(width_of(ours, "stem.0.conv", axis=1))
    # Its CIFAR code pools twice, under the names of the ImageNet code, which pools four times.
    pooling = chosen_pooling(options, "1111" if frames else None)
    return _config(ours, options, pooling, _TAU_OF_FRAMES_CML), ours


def _renamed(state: State) -> dict[str, torch.Tensor]:
    return square_kernels(rename(state, _RULES, drop=_UNUSED))


def _config(
    ours: State, options: ModelOptions, pooling: str, tau_of_frames: float
) -> SpikingformerConfig:
    in_channels = width_of(ours, "stem.0.conv", axis=1)
    shared = options.network_arguments(in_channels)
    if shared["frames"] and options.tau is None:
        shared["tau"] = tau_of_frames
    dim = width_of(ours, "stem.4.conv")
    return SpikingformerConfig(
        **shared,
        num_heads=options.require("num_heads"),
        in_channels=in_channels,
        num_classes=width_of(ours, "head"),
        embed_dim=dim,
        depth=block_count(ours, r"blocks\.(\d+)\."),
        pooling=pooling,
        mlp_ratio=width_of(ours, "blocks.0.mlp.fc1.conv") / dim,
        attention_v_threshold=options.attention_v_threshold(passed_on=False),
    )


def _is_named_cml(arguments: Mapping[str, Any]) -> bool:
    """Whether the stored name of the model is of CML; its code calls it `Spikingformer`, too."""
    return "cml" in str(arguments.get("model") or arguments.get("arch") or "").lower()


SPIKINGFORMER = Family(
    name="spikingformer",
    title="Spikingformer (Zhou et al., 2023)",
    config_type=SpikingformerConfig,
    network=Spikingformer,
    recognises=_recognises,
    arguments=(model_named("spikingformer", "cnl[-_]spikingformer"),),
    convert=_convert,
    options=NEURON_AND_INPUT | {"num_heads", "pooling"},
    flags="--timesteps --heads --image-size [--family spikingformer]",
)
SPIKINGFORMER_CML = Family(
    name="spikingformer-cml",
    title="Spikingformer-CML, which pools currents in the stem (Zhou et al., 2023)",
    config_type=SpikingformerConfig,
    network=SpikingformerCML,
    recognises=_is_either,
    claims=_is_named_cml,
    arguments=(model_named("spikingformer", "spikingformer[-_]cml", "c[mn]l[-_]spikingformer"),),
    convert=_convert_cml,
    options=NEURON_AND_INPUT | {"num_heads", "pooling", "patch_size"},
    superseded={"patch_size": "pooling"},
    flags="--family spikingformer-cml --timesteps --heads --image-size [--patch-size]",
)
