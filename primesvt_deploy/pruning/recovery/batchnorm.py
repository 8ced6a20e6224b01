"""Re-estimate batch norms of a pruned model to keep their outputs' mean and deviation.

Both models see the same calibration images. Where the dense model's norm, with statistics m and s,
received currents of mean m_d and deviation s_d, and the pruned one's receives m_p and s_p, it gets
`s' = s s_p / s_d` and `m' = m_p - (m_d - m) s' / s`: its outputs then have the dense model's mean
and deviation, channel by channel. On an unpruned model that changes nothing, which a plain
re-estimation on few images does. Norms are set one after another, each on what those before it
give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["NORMS", "Received", "matched_norms", "recorded_norms"]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_Norm = nn.BatchNorm1d | nn.BatchNorm2d
_LEAST_VARIANCE = 1e-10


@dataclass(frozen=True)
class Received:
    """Statistics of one norm's input in the dense model, and its own; each `[channels]`, float64.

    Args:
        mean: of its input.
        variance: of its input.
        held_mean: its own running mean.
        held_variance: its own running variance.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    held_mean: torch.Tensor
    held_variance: torch.Tensor


@contextmanager
def recorded_norms(network: nn.Module) -> Iterator[dict[str, Received]]:
    """Collects the statistics of each norm's input, by name, while the network runs on one batch.

    Norms that are called more than once are left out.
    """
    found: dict[str, Received] = {}
    again: set[str] = set()

    def record(name: str, norm: _Norm, x: torch.Tensor) -> None:
        if name in found:
            again.add(name)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        held = norm.running_mean.double(), norm.running_var.double()
        found[name] = Received(*_statistics(norm, x), *held)

    with _before_norms(network, record):
        yield found
    for name in again:  # no one set of statistics fits several calls
        del found[name]


@contextmanager
def matched_norms(network: nn.Module, dense: Mapping[str, Received]) -> Iterator[None]:
    """Sets the statistics of each norm, in place, while the network runs once on one batch.

    Channels whose norm has no weight left (silenced ones), and those that never vary, keep theirs.

    Args:
        network: as wide as the dense model, in evaluation mode.
        dense: statistics of the dense model's norms on the same batch.
    """

    def match(name: str, norm: _Norm, x: torch.Tensor) -> None:
        if name in dense:
            _match(norm, dense[name], *_statistics(norm, x))

    with _before_norms(network, match):
        yield


@contextmanager
def _before_norms(
    network: nn.Module, act: Callable[[str, _Norm, torch.Tensor], None]
) -> Iterator[None]:
    handles = [
        norm.register_forward_pre_hook(lambda m, args, name=name: act(name, m, args[0]))
        for name, norm in network.named_modules()
        if isinstance(norm, NORMS) and norm.running_mean is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _statistics(norm: _Norm, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    # SpikingJelly's norms in multi-step mode take [T, N, C, ...].
    axis = 2 if getattr(norm, "step_mode", "s") == "m" else 1
    outer, inner = tuple(range(axis)), tuple(range(axis + 1, x.ndim))

    def average(values: torch.Tensor) -> torch.Tensor:
        # Short sums in the input's own type, long ones in double: exact enough, and many times
        # faster than `var_mean` where the channels lie last.
        return (values.mean(dim=inner) if inner else values).double().mean(dim=outer)

    mean = average(x)
    around = mean.to(x.dtype).reshape(-1, *(1 for _ in inner))
    return mean, average((x - around).square_())


def _match(norm: _Norm, dense: Received, mean: torch.Tensor, variance: torch.Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    held = dense.held_variance + norm.eps
    varies = (variance > _LEAST_VARIANCE) & (dense.variance > _LEAST_VARIANCE)
    scaled = held * variance / dense.variance.clamp_min(_LEAST_VARIANCE)
    new_variance = torch.where(varies, scaled, held).clamp_min(norm.eps)
    new_mean = mean - (dense.mean - dense.held_mean) * (new_variance / held).sqrt()
    if norm.weight is not None:
        alive = norm.weight.double() != 0.0
        new_variance = torch.where(alive, new_variance, norm.running_var + norm.eps)
        new_mean = torch.where(alive, new_mean, norm.running_mean.double())
    norm.running_mean.copy_(new_mean)
    norm.running_var.copy_(new_variance - norm.eps)
