"""Checkpoints of SGLFormer: upstream's ImageNet code, and its CIFAR and event-camera code.

The latter has a readout with weights of single tokens and timesteps, so that T and the image size
are read from it. ImageNet models are called `sglformer_ima_*` or `sglformer_ima2_*`: their keys are
the same, but the stem of the second kind pools a stage later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Any

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
from primesvt_deploy.families.sglformer import SGLFormer, SGLFormerConfig
from primesvt_deploy.families.stem_pooling import check_pooling
from primesvt_deploy.families.stored_arguments import model_named

__all__ = ["SGLFORMER"]


def _block(convolution: str, attention: str, mlp: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Rules of a block whose layers are units of a convolution `conv1x1` and its norm `bn`."""
    return (
        (rf"{convolution}\.conv\.conv3x3", rf"{ours}.conv.depthwise.conv"),
        (rf"{convolution}\.conv\.bn", rf"{ours}.conv.depthwise.bn"),
        (rf"{convolution}\.conv1x1_1\.conv1x1", rf"{ours}.conv.expand.conv"),
        (rf"{convolution}\.conv1x1_1\.bn", rf"{ours}.conv.expand.bn"),
        (rf"{convolution}\.dwconv3x3\.conv3x3", rf"{ours}.conv.inner.conv"),
        (rf"{convolution}\.dwconv3x3\.bn", rf"{ours}.conv.inner.bn"),
        (rf"{convolution}\.conv1x1_2\.conv1x1", rf"{ours}.conv.reduce.conv"),
        (rf"{convolution}\.conv1x1_2\.bn", rf"{ours}.conv.reduce.bn"),
        (rf"{attention}\.(q|k|v|proj)_conv\.conv1x1", rf"{ours}.attn.\2.conv"),
        (rf"{attention}\.(q|k|v|proj)_conv\.bn", rf"{ours}.attn.\2.bn"),
        (rf"{mlp}\.mlp([12])\.conv1x1", rf"{ours}.mlp.fc\2.conv"),
        (rf"{mlp}\.mlp([12])\.bn", rf"{ours}.mlp.fc\2.bn"),
    )


_N = r"blocks\.(\d+)"
_CIFAR_RULES = (
    (r"stem\.conv\.conv3x3", "stem.0.conv"),
    (r"stem\.conv\.bn", "stem.0.bn"),
    (r"tokenizer\.conv([1-4])\.conv3x3", r"stem.\1.conv"),
    (r"tokenizer\.conv([1-4])\.bn", r"stem.\1.bn"),
    *_block(rf"{_N}\.loc", rf"{_N}\.ssa1", rf"{_N}\.mlp1", r"groups.\1.local"),
    *_block("-", rf"{_N}\.ssa2", rf"{_N}\.mlp2", r"groups.\1.blocks.0"),
    *_block("-", rf"{_N}\.ssa3", rf"{_N}\.mlp3", r"groups.\1.blocks.1"),
    (r"full_size_conv", "readout.conv"),
    (r"bn", "readout.bn"),
)
_L = r"localblock\.(\d+)"
_IMAGENET_RULES = (
    (r"patch_embed\.proj_(conv|bn)", r"stem.0.\1"),
    (r"patch_embed\.proj([1-4])_(conv|bn)", r"stem.\1.\2"),
    *_block(rf"{_L}\.local1", rf"{_L}\.local2_SSA", rf"{_L}\.local2_MLP", r"groups.\1.local"),
    (rf"{_N}\.attn\.(q|k|v|proj)_(conv|bn)", r"groups.0.blocks.\1.attn.\2.\3"),
    (rf"{_N}\.mlp\.(fc[12])_(conv|bn)", r"groups.0.blocks.\1.mlp.\2.\3"),
)
_UNUSED = (r"blocks\.\d+\.norm[12]",)
_IMAGENET_POOLING = {"sglformer_ima": "11110", "sglformer_ima2": "01111"}
_DVS_HEADS, _IMAGENET_HEAD = 16, 64
"""Heads of upstream's event-camera models, and channels of a head of its ImageNet models."""


def _is_imagenet(keys: Set[str]) -> bool:
    return "patch_embed.proj4_conv.weight" in keys and any(
        key.startswith("localblock.0.local1.") for key in keys
    )


def _recognises(keys: Set[str]) -> bool:
    readout = {"tokenizer.conv4.conv3x3.weight", "full_size_conv.weight"}
    return "head.weight" in keys and (_is_imagenet(keys) or readout <= keys)


def _stored_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    # Such as sglformer_ima2_8_512.
    model = "_".join(str(arguments.get("model")).split("_")[:2])
    return {"pooling": _IMAGENET_POOLING[model]} if model in _IMAGENET_POOLING else {}


def _convert(
    state: State, options: ModelOptions
) -> tuple[SGLFormerConfig, dict[str, torch.Tensor]]:
    imagenet = _is_imagenet(state.keys())
    rules = _IMAGENET_RULES if imagenet else _CIFAR_RULES
    ours = square_kernels(rename(state, rules, drop=_UNUSED))
    in_channels = width_of(ours, "stem.0.conv", axis=1)
    dim = width_of(ours, "stem.4.conv")
    frames = options.takes_frames(in_channels)
    pooling = _pooling(options, imagenet, frames)
    shared: dict[str, Any] = {
        **_timesteps_and_size(ours, options, pooling),
        **options.neuron_arguments(),
        "frames": frames,
    }
    config = SGLFormerConfig(
        **shared,
        in_channels=in_channels,
        num_classes=width_of(ours, "head"),
        num_heads=_heads(options, imagenet, frames, dim),
        embed_dim=dim,
        stem_width=width_of(ours, "stem.0.conv"),
        depth=block_count(ours, r"groups\.(\d+)\."),
        global_blocks=block_count(ours, r"groups\.0\.blocks\.(\d+)\."),
        pooling=pooling,
        mlp_ratio=width_of(ours, "groups.0.local.mlp.fc1.conv") / dim,
        attention_v_threshold=options.attention_v_threshold(passed_on=False),
        weighs_timesteps=not imagenet,
    )
    return config, ours


def _pooling(options: ModelOptions, imagenet: bool, frames: bool) -> str:
    if options.pooling is not None:
        check_pooling(options.pooling, stages=5)
        return options.pooling
    if imagenet:
        kinds = " or ".join(f"{pools} ({kind})" for kind, pools in _IMAGENET_POOLING.items())
        raise ModelError(
            f"which stem stages pool cannot be read from the weights: pass --pooling {kinds}"
        )
    return "01111" if frames else "00011"


def _heads(options: ModelOptions, imagenet: bool, frames: bool, dim: int) -> int:
    """Number of heads: as given, else as upstream's code has it where it leaves no choice."""
    if options.num_heads is None and imagenet and dim % _IMAGENET_HEAD == 0:
        return dim // _IMAGENET_HEAD
    if options.num_heads is None and frames and not imagenet:
        return _DVS_HEADS
    heads: int = options.require("num_heads")
    return heads


def _timesteps_and_size(ours: State, options: ModelOptions, pooling: str) -> dict[str, int]:
    """T and the image size: of the readout, if there is one, or as given."""
    weight = ours.get("readout.conv.weight")
    if weight is None:
        return {name: options.require(name) for name in ("timesteps", "image_size")}
    if weight.ndim != 4:
        raise ModelError(f"full_size_conv.weight is {list(weight.shape)}: expected 4 axes")
    tokens, timesteps = weight.shape[2:]
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ModelError(
            f"full_size_conv.weight is of {tokens} tokens: expected those of a square image"
        )
    found = {"timesteps": timesteps, "image_size": side << pooling.count("1")}
    why = {"timesteps": "", "image_size": f" (with --pooling {pooling})"}
    for name, given in (("timesteps", options.timesteps), ("image_size", options.image_size)):
        if given not in (None, found[name]):
            flag = f"--{name.replace('_', '-')}"
            raise ModelError(
                f"{flag} is {given}, but the weights are of a model with {found[name]}{why[name]}; "
                f"pass {flag} {found[name]} or none"
            )
    return found


SGLFORMER = Family(
    name="sglformer",
    title="SGLFormer (Zhang et al., Frontiers in Neuroscience 2024)",
    config_type=SGLFormerConfig,
    network=SGLFormer,
    recognises=_recognises,
    arguments=(model_named(r"sglformer\d*"),),
    stored_options=_stored_options,
    convert=_convert,
    options=NEURON_AND_INPUT | {"num_heads", "pooling"},
    flags="[--timesteps --image-size --pooling --heads]",
    inputs=InputDefaults(resize_at_224=256, crops_above_224=False),
)
