"""Rename the keys of upstream's state_dicts to ours, and read widths and depths from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

from primesvt_deploy.errors import ModelError

__all__ = ["State", "block_count", "rename", "split_parts", "square_kernels", "width_of"]

State = Mapping[str, torch.Tensor]
Rule = tuple[str, str]


def rename(
    state: State, rules: Sequence[Rule], *, drop: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    r"""Rename the layers of a state_dict by ordered rules.

    Args:
        state: upstream's state_dict.
        rules: pattern and replacement pairs, as `re.sub` takes them; the first whose pattern
            matches a whole layer name (the key without its last part) renames it. Layers that
            none matches keep their names, for the loader to list as unexpected.
        drop: patterns of whole layer names that upstream has but never uses; they are left out.

    Raises:
        ModelError: two layers would get one name.
    """
    compiled = [(re.compile(pattern), target) for pattern, target in rules]
    unused = [re.compile(pattern) for pattern in drop]
    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        layer, _, tail = key.rpartition(".")
        if any(pattern.fullmatch(layer) for pattern in unused):
            continue
        for pattern, target in compiled:
            match = pattern.fullmatch(layer)
            if match:
                layer = match.expand(target)
                break
        name = f"{layer}.{tail}" if layer else tail
        if name in renamed:
            raise ModelError(f"the checkpoint holds {name} twice, under two names: is it whole?")
        renamed[name] = tensor
    return renamed


def square_kernels(state: State) -> dict[str, torch.Tensor]:
    """Give each `*.conv.weight` two kernel axes: `[O, I]` and `[O, I, 1]` become `[O, I, 1, 1]`.

    A linear layer over tokens and a Conv1d of kernel 1 are 1x1 convolutions.
    """
    squared = dict(state)
    for key, tensor in state.items():
        linear = tensor.ndim == 2 or (tensor.ndim == 3 and tensor.shape[2] == 1)
        if key.endswith(".conv.weight") and linear:
            squared[key] = tensor.reshape(*tensor.shape[:2], *[1] * 2)
    return squared


def split_parts(state: State, fused: str, parts: Sequence[str]) -> dict[str, torch.Tensor]:
    r"""Split fused layers into equal ones along the output channels.

    This is exact: output channels of a convolution and of its batch norm do not interact. Scalars
    (`num_batches_tracked`) are repeated.

    Args:
        state: state_dict with layers whose unit is called `fused`, such as
            `blocks.0.attn.qkv.conv`.
        fused: last part of the unit's name, such as `qkv`.
        parts: names of the parts in order, such as `q`, `k`, `v`.

    Raises:
        ModelError: the channels do not divide into equal parts.
    """
    split: dict[str, torch.Tensor] = {}
    marker = re.compile(rf"(^|\.){re.escape(fused)}\.")
    for key, tensor in state.items():
        if not marker.search(key):
            split[key] = tensor
            continue
        if tensor.ndim and len(tensor) % len(parts):
            raise ModelError(
                f"{key} has {len(tensor)} channels: expected {len(parts)} equal parts "
                f"{', '.join(parts)}"
            )
        pieces = tensor.chunk(len(parts)) if tensor.ndim else [tensor] * len(parts)
        for part, piece in zip(parts, pieces, strict=True):
            split[marker.sub(rf"\g<1>{part}.", key)] = piece.clone()
    return split


def block_count(state: State, pattern: str) -> int:
    """Number of different values of the first group of `pattern`, matched at the start of keys."""
    found = (re.match(pattern, key) for key in state)
    return len({match.group(1) for match in found if match})


def width_of(state: State, layer: str, axis: int = 0) -> int:
    """Size of a layer's weight along an axis.

    Args:
        state: state_dict under our names.
        layer: name of the layer.
        axis: 0 for output channels, 1 for input channels, 2 for the kernel's height.

    Raises:
        ModelError: the layer is missing, or its weight has no such axis.
    """
    weight = state.get(f"{layer}.weight")
    if weight is None:
        raise ModelError(
            f"the checkpoint has no '{layer}.weight', which every model of this family has: "
            "is it complete, and of this family?"
        )
    if weight.ndim <= axis:
        raise ModelError(
            f"{layer}.weight is {list(weight.shape)}: expected {axis + 1} axes at least"
        )
    return int(weight.shape[axis])
