"""Checkpoints of Max-Former: upstream's ImageNet and CIFAR code, and SpikingJelly's class.

The CIFAR form of SpikingJelly 2.0's `MaxFormer` is upstream's; in its ImageNet form attention takes
currents and adds spikes to the stream, where upstream's takes spikes and adds currents.
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
from primesvt_deploy.families.input_defaults import InputDefaults
from primesvt_deploy.families.maxformer import MaxFormer, MaxFormerConfig
from primesvt_deploy.families.options import NEURON_AND_INPUT, ModelOptions
from primesvt_deploy.families.stored_arguments import model_named

__all__ = ["MAXFORMER"]

_PARTS = {
    "patch_embed1": "stem",
    "patch_embed2": "embeddings.0",
    "patch_embed3": "embeddings.1",
    "stage1": "stages.0",
    "stage2": "stages.1",
    "stage3": "stages.2",
}
_STEM_RULES = (
    (r"stem\.embed([123])\.embed_(conv|bn)", r"stem.conv\1.\2"),
    (r"stem\.embed4\.embed_(conv|bn)", r"stem.shortcut.\1"),
    (r"stem\.(conv|bn)([123])", r"stem.conv\2.\1"),
    (r"stem\.shortcut\.0", "stem.shortcut.conv"),
    (r"stem\.shortcut\.1", "stem.shortcut.bn"),
)
_CIFAR_STEM_RULES = (
    (r"stem\.(?:proj_)?(conv|bn)", r"stem.conv1.\1"),
    (r"stem\.embed1\.embed_(conv|bn)", r"stem.conv2.\1"),
    (r"stem\.embed2\.embed_(conv|bn)", r"stem.shortcut.\1"),
    (r"stem\.branch\.1", "stem.conv2.conv"),
    (r"stem\.branch\.2", "stem.conv2.bn"),
    (r"stem\.shortcut\.1", "stem.shortcut.conv"),
    (r"stem\.shortcut\.2", "stem.shortcut.bn"),
)
_UPSTREAM_RULES = (
    (r"(embeddings\.\d)\.max_embed1\.embed_(conv|bn)", r"\1.conv1.\2"),
    (r"(embeddings\.\d)\.max_embed2\.embed_(conv|bn)", r"\1.shortcut.\2"),
    (r"(embeddings\.\d)\.embed1\.embed_(conv|bn)", r"\1.conv2.\2"),
    (r"(stages\.\d\.\d+)\.mixer\.conv5?", r"\1.dwconv.conv"),
    (r"(stages\.\d\.\d+)\.mixer\.conv5?_bn", r"\1.dwconv.bn"),
    (r"(stages\.2\.\d+)\.attn\.(q|k|v|proj)_(conv|bn)", r"\1.attn.\2.\3"),
    (r"(stages\.\d\.\d+)\.mlp\.(fc[12])_(conv|bn)", r"\1.mlp.\2.\3"),
)
_SPIKINGJELLY_RULES = (
    (r"(embeddings\.\d)\.(conv|bn)([12])", r"\1.conv\3.\2"),
    (r"(embeddings\.\d)\.shortcut\.0", r"\1.shortcut.conv"),
    (r"(embeddings\.\d)\.shortcut\.1", r"\1.shortcut.bn"),
    (r"(stages\.\d\.\d+)\.dwconv", r"\1.dwconv.conv"),
    (r"(stages\.\d\.\d+)\.bn", r"\1.dwconv.bn"),
    (r"(stages\.2\.\d+)\.attn\.(qkv|proj)(?:_conv_bn)?\.0", r"\1.attn.\2.conv"),
    (r"(stages\.2\.\d+)\.attn\.(qkv|proj)(?:_conv_bn)?\.1", r"\1.attn.\2.bn"),
    (r"(stages\.\d\.\d+)(?:\.mlp)?\.(fc[12])", r"\1.mlp.\2.conv"),
    (r"(stages\.\d\.\d+)(?:\.mlp)?\.bn([12])", r"\1.mlp.fc\2.bn"),
)
_IMAGENET_STEMS = {
    "patch_embed1.embed3.embed_conv.weight",
    "patch_embed1.conv3.weight",
}


def _is_upstream(keys: Set[str]) -> bool:
    # Its code for event frames has two stages, attention in the second.
    return {"patch_embed2.max_embed1.embed_conv.weight", "stage2.0.mixer.conv.weight"} <= keys


def _is_spikingjelly(keys: Set[str]) -> bool:
    return "stage2.0.dwconv.weight" in keys


def _recognises(keys: Set[str]) -> bool:
    return "head.weight" in keys and (_is_spikingjelly(keys) or _is_upstream(keys))


def _renamed(state: State, *, cifar: bool) -> dict[str, torch.Tensor]:
    parts = ((key.partition("."), tensor) for key, tensor in state.items())
    placed = {f"{_PARTS.get(head, head)}{dot}{rest}": t for (head, dot, rest), t in parts}
    stem = _CIFAR_STEM_RULES if cifar else _STEM_RULES
    renamed = rename(placed, (*stem, *_UPSTREAM_RULES, *_SPIKINGJELLY_RULES))
    return split_parts(square_kernels(renamed), "qkv", "qkv")


def _convert(
    state: State, options: ModelOptions
) -> tuple[MaxFormerConfig, dict[str, torch.Tensor]]:
    cifar = not _IMAGENET_STEMS & state.keys()
    ours = _renamed(state, cifar=cifar)
    in_channels = width_of(ours, "stem.conv1.conv", axis=1)
    dim = width_of(ours, "embeddings.1.conv2.conv")
    config = MaxFormerConfig(
        **options.network_arguments(in_channels),
        # In the code, whatever arguments say: upstream's CIFAR script stores another number.
        num_heads=8 if cifar else max(1, dim // 64),
        in_channels=in_channels,
        num_classes=width_of(ours, "head"),
        embed_dim=dim,
        depths=tuple(block_count(ours, rf"stages\.{i}\.(\d+)\.") for i in range(3)),
        cifar=cifar,
        # SpikingJelly's ImageNet form alone has no bias there.
        attention_on_spikes="stages.2.0.attn.proj.conv.bias" in ours,
        mlp_ratio=width_of(ours, "stages.2.0.mlp.fc1.conv") / dim,
        attention_v_threshold=options.attention_v_threshold(
            passed_on=not _is_upstream(state.keys())
        ),
    )
    return config, ours


MAXFORMER = Family(
    name="maxformer",
    title="Max-Former (Fang et al., NeurIPS 2025)",
    config_type=MaxFormerConfig,
    network=MaxFormer,
    recognises=_recognises,
    arguments=(model_named("max[-_]?former"),),
    convert=_convert,
    options=NEURON_AND_INPUT,
    flags="--timesteps --image-size",
    inputs=InputDefaults(resize_at_224=256),
)
