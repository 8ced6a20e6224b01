"""Exchanges of processes that train together, in each step: batch norms' statistics, gradients.

Each takes its part of every batch. With the statistics of the whole batch and the mean of all
gradients they take the step that one process takes with the whole batch, but for rounding. Sums
are formed in an order that only the number of processes decides, so a training repeats itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional as F

__all__ = ["average_gradients", "synchronized_norms"]


def average_gradients(parameters: Iterable[torch.nn.Parameter], loss: torch.Tensor) -> float:
    """Give the parameters of all processes the mean of their gradients; one exchange a step.

    Not `DistributedDataParallel`: it sorts gradients into other buckets after its first step, so a
    training that is resumed would add them up in another order.

    Args:
        parameters: of the network; those without a gradient have none in any process.
        loss: of this process.

    Returns:
        The mean of the losses.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([loss.detach().reshape(1), *(g.reshape(-1) for g in gradients)])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat[1:].split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))
    return float(flat[0])


@contextmanager
def synchronized_norms() -> Iterator[None]:
    """Have batch norms in training use the statistics of all processes' samples; a context.

    While it lasts it replaces `torch.nn.functional.batch_norm`, which torch's and SpikingJelly's
    layers call. Enclose the backward pass too: see `strided_pointwise.py`.
    """
    whole = F.batch_norm

    def batch_norm(
        input: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> torch.Tensor:
        if not training:
            return whole(input, running_mean, running_var, weight, bias, False, momentum, eps)
        normal: torch.Tensor
        normal, mean, variance = _Normalised.apply(input, eps)
        count = input.numel() // input.shape[1] * dist.get_world_size()
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean, momentum)
                running_var.lerp_(variance * (count / (count - 1)), momentum)
        shape = _channels(input)
        if weight is not None:
            normal = normal * weight.view(shape)
        if bias is not None:
            normal = normal + bias.view(shape)
        return normal.to(input.dtype)

    F.batch_norm = batch_norm
    try:
        yield
    finally:
        F.batch_norm = whole


class _Normalised(torch.autograd.Function):
    """`(x - mean) / sqrt(variance + eps)` a channel (axis 1), over the samples of all processes.

    Each process has as many samples.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
        axes, shape = [i for i in range(x.ndim) if i != 1], _channels(x)
        x = _wide(x)
        variance, mean = torch.var_mean(x, dim=axes, correction=0)
        means, variances = _of_all(torch.stack([mean, variance])).unbind(1)
        mean = means.mean(dim=0)
        variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
        scale = (variance + eps).rsqrt()
        normal = (x - mean.view(shape)) * scale.view(shape)
        ctx.save_for_backward(normal, scale)
        ctx.mark_non_differentiable(mean, variance)
        return normal, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        normal, scale = ctx.saved_tensors
        gradient, shape = _wide(gradients[0]), _channels(normal)
        axes = [i for i in range(normal.ndim) if i != 1]
        own = torch.stack([gradient.mean(dim=axes), (gradient * normal).mean(dim=axes)])
        shift, stretch = (part.view(shape) for part in _of_all(own).mean(dim=0))
        return (gradient - shift - normal * stretch) * scale.view(shape), None


def _of_all(own: torch.Tensor) -> torch.Tensor:
    """The tensors of all processes, stacked in the order of their ranks."""
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return torch.stack(found)


def _wide(x: torch.Tensor) -> torch.Tensor:
    """The tensor in float32 where it has fewer bits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _channels(x: torch.Tensor) -> list[int]:
    """Shape that puts values a channel along axis 1 of `x`."""
    return [1, -1, *[1] * (x.ndim - 2)]
