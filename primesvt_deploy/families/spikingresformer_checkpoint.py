"""Checkpoints of SpikingResformer: upstream's ImageNet, CIFAR and DVS128 Gesture code."""

from __future__ import annotations

import re
from collections.abc import Set

import torch

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.checkpoint_keys import (
    State,
    block_count,
    rename,
    split_parts,
    width_of,
)
from primesvt_deploy.families.family import Family
from primesvt_deploy.families.input_defaults import IMAGENET, InputDefaults
from primesvt_deploy.families.options import NEURON_AND_INPUT, ModelOptions
from primesvt_deploy.families.spikingresformer import SpikingResformer, SpikingResformerConfig
from primesvt_deploy.families.stored_arguments import model_named

__all__ = ["SPIKINGRESFORMER"]

_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_RULES = (
    (r"prologue\.0", "stem.conv"),
    (r"prologue\.1\.bn", "stem.bn"),
    (r"(.*\.downsample)\.norm\.bn", r"\1.bn"),
    (r"(.*\.downsample)\.activation", r"\1.neuron.node"),
    (r"(.*\.attn)\.activation_in", r"\1.entry.node"),
    (r"(.*\.attn)\.activation_attn", r"\1.attn_map.neuron.node"),
    (r"(.*\.attn)\.activation_out", r"\1.readout.neuron.node"),
    (r"(.*\.attn)\.W", r"\1.dst.conv"),
    (r"(.*\.attn)\.norm\.bn", r"\1.dst.bn"),
    (r"(.*\.attn)\.Wproj", r"\1.proj.conv"),
    (r"(.*\.attn)\.norm_proj\.bn", r"\1.proj.bn"),
    (r"(.*\.mlp)\.(up|down)\.0", r"\1.\2.neuron.node"),
    (r"(.*\.mlp)\.(up|down)\.1", r"\1.\2.conv"),
    (r"(.*\.mlp)\.(up|down)\.2\.bn", r"\1.\2.bn"),
    (r"(.*\.mlp)\.conv\.0\.0", r"\1.grouped.neuron.node"),
    (r"(.*\.mlp)\.conv\.0\.1", r"\1.grouped.conv"),
    (r"(.*\.mlp)\.conv\.0\.2\.bn", r"\1.grouped.bn"),
    (r"classifier", "head"),
)
_RATES = {"firing_rate_x": "attn_map.firing_rate", "firing_rate_attn": "readout.firing_rate"}


def _recognises(keys: Set[str]) -> bool:
    return {"prologue.0.weight", "layers.0.0.firing_rate_x", "classifier.weight"} <= keys


def _placed(key: str) -> str:
    """Key with upstream's index (downsampling, DSSA, GWFFN, DSSA, ...) as stage, block and half."""
    match = re.match(r"layers\.(\d+)\.(\d+)\.(.*)", key)
    if match is None:
        return key
    stage, index, rest = int(match[1]), int(match[2]), match[3]
    if stage and not index:
        return f"stages.{stage}.downsample.{rest}"
    block, half = divmod(index - (stage > 0), 2)
    place = f"stages.{stage}.blocks.{block}.{('attn', 'mlp')[half]}"
    return f"{place}.{_RATES.get(rest, rest)}"


def _convert(
    state: State, options: ModelOptions
) -> tuple[SpikingResformerConfig, dict[str, torch.Tensor]]:
    flat = {k: _checked_rate(k, v) if _is_rate(k) else v for k, v in state.items()}
    ours = _split_transformations(rename({_placed(k): v for k, v in flat.items()}, _RULES))
    stages = [f"stages.{i}" for i in range(block_count(ours, r"stages\.(\d+)\."))]
    attention, mlp = ([f"{stage}.blocks.0.{half}" for stage in stages] for half in ("attn", "mlp"))
    in_channels = width_of(ours, "stem.conv", axis=1)
    embed_dims = tuple(width_of(ours, f"{each}.proj.conv") for each in attention)
    parametric = "stages.0.blocks.0.attn.entry.node.w" in ours
    config = SpikingResformerConfig(
        # Upstream has PLIF neurons for event frames alone, with the sum as their third channel.
        **options.network_arguments(2 if parametric else in_channels),
        in_channels=in_channels,
        num_classes=width_of(ours, "head"),
        embed_dims=embed_dims,
        depths=tuple(block_count(ours, rf"{re.escape(s)}\.blocks\.(\d+)\.") for s in stages),
        num_heads=tuple(len(_rate(ours, each)) for each in attention),
        patch_sizes=tuple(width_of(ours, f"{each}.k.conv", axis=2) for each in attention),
        stem_kernel=width_of(ours, "stem.conv", axis=2),
        group_size=width_of(ours, f"{mlp[0]}.grouped.conv", axis=1),
        mlp_ratio=width_of(ours, f"{mlp[0]}.up.conv") // embed_dims[0],
        parametric=parametric,
    )
    return config, ours


def _rate(state: State, attention: str) -> torch.Tensor:
    """Firing rates `[heads]` of the spikes that enter an attention."""
    rate = state.get(f"{attention}.attn_map.firing_rate")
    if rate is None:
        raise ModelError(
            f"the checkpoint has no firing_rate_x for '{attention}', which scales its attention: "
            "is it complete, and of this family?"
        )
    return rate


def _is_rate(key: str) -> bool:
    return key.rpartition(".")[2] in _RATES


def _checked_rate(key: str, rate: torch.Tensor) -> torch.Tensor:
    if not (rate > 0.0).all():
        raise ModelError(
            f"{key} holds {float(rate.min()):g}, but attention divides by its square root: "
            "expected more than 0 in every head; use a checkpoint that was trained"
        )
    return rate.flatten()


def _split_transformations(state: State) -> dict[str, torch.Tensor]:
    """Split each W into k and v, which it holds in turns: k and v of head 0, of head 1, ..."""
    sorted_: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        attention, found, _ = key.partition(".dst.")
        if found and tensor.ndim:
            heads = len(_rate(state, attention))
            if len(tensor) % (2 * heads):
                raise ModelError(
                    f"{key} has {len(tensor)} channels: expected k and v of equal width for each "
                    f"of {heads} heads"
                )
            tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(0, 1).flatten(0, 2)
        sorted_[key] = tensor
    return split_parts(sorted_, "dst", "kv")


SPIKINGRESFORMER = Family(
    name="spikingresformer",
    title="SpikingResformer (Shi et al., CVPR 2024)",
    config_type=SpikingResformerConfig,
    network=SpikingResformer,
    recognises=_recognises,
    arguments=(model_named("spikingresformer"),),
    convert=_convert,
    options=NEURON_AND_INPUT,
    flags="--timesteps --image-size",
    inputs=InputDefaults(resize_at_224=235, small=_CIFAR, large=IMAGENET),
)
