"""The accuracy that a training script stored beside the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

__all__ = ["recorded_accuracy"]

_NAMES = (
    "best_acc", "best_acc1", "best_prec1", "best_top1", "best_accuracy", "max_accuracy", "max_acc",
    "max_acc1",
    "max_test_acc", "max_test_acc1", "test_acc", "test_acc1", "val_acc", "acc1", "top1", "acc",
    "accuracy", "best_metric", "metric",
)  # fmt: skip
"""Names of top-1 in training scripts, those that say most first."""
_SECTIONS = ("test_stats", "val_stats", "metrics", "results")
_DEPTH = 3
"""Sections that are looked into, one in another."""
_OTHER_METRICS = ("metric", "best_metric")
"""Of timm: whatever `eval_metric` says, a loss too."""


def recorded_accuracy(
    content: Any, path: Sequence[str], arguments: Mapping[str, Any]
) -> float | None:
    """Top-1, percent, that a file records; None where it says nothing that can be read so.

    Args:
        content: what the file holds.
        path: names of the containers around the weights, the innermost of which counts.
        arguments: of the training script.
    """
    found: float | None = None
    for name in (*path, None):
        if not isinstance(content, Mapping):
            break
        found = _in(content, arguments) or found
        content = None if name is None else content.get(name)
    return found


def _in(
    content: Mapping[Any, Any], arguments: Mapping[str, Any], depth: int = _DEPTH
) -> float | None:
    sections = [content[name] for name in (*_NAMES, *_SECTIONS) if name in content]
    for inner in (section for section in sections if isinstance(section, Mapping) and depth):
        if (percent := _in(inner, arguments, depth - 1)) is not None:
            return percent
    for name in _NAMES:
        if name in _OTHER_METRICS and arguments.get("eval_metric", "top1") != "top1":
            continue
        percent = _percent(content.get(name))
        if percent is not None:
            return percent
    return None


def _percent(value: Any) -> float | None:
    """A share or a percentage as percent; None for anything else."""
    if isinstance(value, torch.Tensor):
        plain = value.layout is torch.strided and not (value.is_nested or value.is_meta)
        value = value.item() if plain and value.numel() == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0.0 < value <= 100.0:  # nor NaN
        return None
    if type(value) is int and value == 1:  # one percent, or all
        return None
    return float(value) * 100.0 if value <= 1.0 else float(value)
