"""State_dict keys of SpikingJelly 2.0's `Spikformer`, mapped to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.units import split_state

__all__ = ["convert_state", "looks_like_spikformer", "shape_facts"]

_CONV_BN = {"0": "conv", "1": "bn"}
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"patch_embed\.stages\.(\d)\.conv_bn\.block\.([01])\.(\w+)"), "stem.{0}"),
    (re.compile(r"patch_embed\.positional_encoding\.conv_bn\.block\.([01])\.(\w+)"), "position"),
    (re.compile(r"blocks\.(\d+)\.attn\.qkv_conv_bn\.([01])\.(\w+)"), "blocks.{0}.attn.qkv"),
    (re.compile(r"blocks\.(\d+)\.attn\.proj_conv_bn\.([01])\.(\w+)"), "blocks.{0}.attn.proj"),
    (re.compile(r"blocks\.(\d+)\.mlp\.(fc[12])\.([01])\.(\w+)"), "blocks.{0}.mlp.{1}"),
)


def looks_like_spikformer(keys: set[str]) -> bool:
    """Whether these are the keys of SpikingJelly's `Spikformer`."""
    return {
        "patch_embed.stages.3.conv_bn.block.0.weight",
        "patch_embed.positional_encoding.conv_bn.block.0.weight",
        "head.weight",
    } <= keys


def shape_facts(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What the shapes tell of a `SpikformerConfig`.

    Raises:
        ModelError: a layer is missing or its shape does not fit the others.
    """
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    try:
        stem = [state[f"patch_embed.stages.{i}.conv_bn.block.0.weight"].shape for i in range(4)]
        qkv = [state[f"blocks.{i}.attn.qkv_conv_bn.0.weight"].shape[0] for i in range(depth)]
        mlp = [state[f"blocks.{i}.mlp.fc1.0.weight"].shape[0] for i in range(depth)]
        num_classes = state["head.weight"].shape[0]
        in_channels = stem[0][1]
        widths = [shape[0] for shape in stem]
    except IndexError as error:
        raise ModelError(
            "the checkpoint's convolutions or head are no matrices: is it of this family?"
        ) from error
    except KeyError as error:
        raise ModelError(
            f"the checkpoint has no {error.args[0]!r}, which every Spikformer has: "
            "is it complete, and of this family?"
        ) from error
    for i, width in enumerate(qkv):
        if width % 3:
            raise ModelError(
                f"blocks.{i}.attn.qkv_conv_bn.0.weight has {width} output channels: "
                "expected three equal parts q, k, v"
            )
    return {
        "in_channels": in_channels,
        "num_classes": num_classes,
        "embed_dim": widths[3],
        "stem_widths": tuple(widths[:3]),
        "qk_widths": tuple(width // 3 for width in qkv),
        "v_widths": tuple(width // 3 for width in qkv),
        "mlp_widths": tuple(mlp),
    }


def convert_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our state_dict for SpikingJelly's; unknown keys pass unchanged, for the loader to name."""
    renamed: dict[str, torch.Tensor] = {}
    fused: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        name = _rename(key)
        # 1x1 convolutions are Conv1d upstream and Conv2d here.
        value = tensor.unsqueeze(-1) if tensor.ndim == 3 else tensor
        if ".attn.qkv." in name:
            layer, tail = name.split(".qkv.")
            fused.setdefault(layer, {})[tail] = value
        else:
            renamed[name] = value
    for layer, tensors in fused.items():
        for tail, tensor in tensors.items():
            if tensor.ndim and len(tensor) % 3:
                raise ModelError(
                    f"{layer}.qkv_conv_bn has a {tail} of {len(tensor)} channels: expected three "
                    "equal parts q, k, v"
                )
        for part, tail_state in zip("qkv", split_state(tensors, 3), strict=True):
            renamed |= {f"{layer}.{part}.{tail}": value for tail, value in tail_state.items()}
    return renamed


def _rename(key: str) -> str:
    for pattern, target in _RULES:
        match = pattern.fullmatch(key)
        if match:
            *place, part, tensor = match.groups()
            return f"{target.format(*place)}.{_CONV_BN[part]}.{tensor}"
    return key
