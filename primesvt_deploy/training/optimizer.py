"""AdamW and its learning-rate schedule, for fine-tuning and for training reference models."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

__all__ = ["adamw", "set_learning_rate", "warmup_cosine"]


def adamw(network: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) with weight decay on weights alone.

    Biases, batch norms and learned neuron parameters have one axis or none, and no decay.
    """
    parameters = list(network.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def warmup_cosine(step: int, *, total: int, warmup: int, end: float = 0.0) -> float:
    """Share of the peak learning rate at a step: a linear rise, then a cosine (SGDR, 2017).

    Args:
        step: number of the step, from 0.
        total: steps in all.
        warmup: steps over which the rate rises.
        end: share of the peak at the end of the cosine.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * done))
