"""Re-estimate batch norms after channels left, so that they pass on what the dense model's did.

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

import torch
from torch import nn

__all__ = ["NORMS", "NormStatistics", "matched_norms", "recorded_norms"]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_Norm = nn.BatchNorm1d | nn.BatchNorm2d
_LEAST_VARIANCE = 1e-10

NormStatistics = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""Mean and variance `[channels]`, float64, of what each norm received, by name."""


@contextmanager
def recorded_norms(network: nn.Module) -> Iterator[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Collects what each norm receives while the network runs once on one batch."""
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def record(name: str, norm: _Norm, x: torch.Tensor) -> None:
        found[name] = _statistics(x)

    with _before_norms(network, record):
        yield found


@contextmanager
def matched_norms(network: nn.Module, dense: NormStatistics) -> Iterator[None]:
    """Sets the statistics of each norm, in place, while the network runs once on one batch.

    Channels whose norm has no weight left (silenced ones), and those that never vary, keep theirs.

    Args:
        network: as wide as the dense model, in evaluation mode.
        dense: what the dense model's norms received of the same batch.
    """

    def match(name: str, norm: _Norm, x: torch.Tensor) -> None:
        if name in dense:
            _match(norm, *dense[name], *_statistics(x))

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


def _statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    others = (0, *range(2, x.ndim))
    variance, mean = torch.var_mean(x.double(), dim=others, correction=0)
    return mean, variance


def _match(
    norm: _Norm,
    dense_mean: torch.Tensor,
    dense_variance: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    held_mean, held_variance = norm.running_mean.double(), norm.running_var.double() + norm.eps
    varies = (variance > _LEAST_VARIANCE) & (dense_variance > _LEAST_VARIANCE)
    scaled = held_variance * variance / dense_variance.clamp_min(_LEAST_VARIANCE)
    new_variance = torch.where(varies, scaled, held_variance).clamp_min(norm.eps)
    ratio = (new_variance / held_variance).sqrt()
    new_mean = mean - (dense_mean - held_mean) * ratio
    if norm.weight is not None:
        alive = norm.weight.double() != 0.0
        new_variance = torch.where(alive, new_variance, held_variance)
        new_mean = torch.where(alive, new_mean, held_mean)
    norm.running_mean.copy_(new_mean)
    norm.running_var.copy_(new_variance - norm.eps)
