"""Channel importance by the reconstruction error of the consumer layers' outputs.

Channels are eliminated one after another. The next to go is the one whose removal, once the
weights of the others are refitted by least squares, changes the consumers' outputs least:
`sum_l tr(W_c [H_l^-1]_cc^-1 W_c^T) / tr(W_l H_l W_l^T)` over the consumer layers l, for the columns
c of the channel (a kernel's pixels together) and the covariance H_l of the input of l. Source: the
optimal brain surgeon (Hassibi and Stork, 1993) for whole structures, as in ZipLM (Kurtic et al.,
NeurIPS 2023, section 3.1); here inputs are spikes, and errors are summed over consumers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.importance import l2_importance
from primesvt_deploy.analysis.input_statistics import InputMoments, Moments
from primesvt_deploy.model.layer_matrix import Weighted, weight_matrix

__all__ = ["DAMPING", "damped", "factored", "reconstruction_importance"]

DAMPING = 0.01
"""Damping of a covariance, relative to the mean of its diagonal."""
_KEPT_SHARE = 0.8
"""Where no more of the columns are of channels that are left, the others are dropped."""


def damped(covariance: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """Add a share of a covariance's mean variance to its diagonal.

    Args:
        covariance: `[K, K]`.
        damping: the share.
    """
    amount = damping * covariance.diagonal().mean().clamp_min(1e-12)
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    return covariance + amount * identity


def factored(covariance: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """Lower Cholesky factor `[K, K]` of a damped covariance.

    Args:
        covariance: `[K, K]`.
        damping: see `damped`; multiplied by 10 as long as rounding makes the matrix indefinite.
    """
    while True:
        factor, failed = torch.linalg.cholesky_ex(damped(covariance, damping))
        if not int(failed):
            found: torch.Tensor = factor
            return found
        damping *= 10.0


def reconstruction_importance(
    module: nn.Module, group: Group, moments: Moments, *, steps: int | None = None
) -> torch.Tensor:
    """Importance of a group's channels by the reconstruction error of their consumers.

    Where no consumer layer is dense (such as for q and k of an attention) it is the L2 norm of the
    channels' filters times their firing rates.

    Args:
        module: the network.
        group: one of its groups.
        moments: statistics of the inputs of its consumers; it is computed on their device.
        steps: end after so many, to see how long they take; None: eliminate all channels.

    Returns:
        Importance `[width]`, float64, on the CPU: the step at which a channel is eliminated, with
        equally many channels of each head in a step; larger is kept longer.
    """
    consumers = [
        _Consumer.of(cast(Weighted, module.get_submodule(name)), seen, group.width)
        for name in group.inputs
        if (seen := moments.inputs.get(name)) is not None and seen.covariance is not None
    ]
    if not consumers:
        return _by_activity(module, group, moments)
    importance = torch.zeros(group.width, dtype=torch.float64)
    device = consumers[0].weights.device
    alive = torch.ones(group.width, dtype=torch.bool, device=device)
    head_width = group.width // group.heads
    nothing = torch.zeros(group.width, device=device)
    first = torch.arange(group.heads) * head_width
    for step in range(min(head_width, steps or head_width)):
        losses = sum((consumer.losses() for consumer in consumers), nothing)
        losses = losses.masked_fill(~alive, float("inf"))
        leaving = losses.view(group.heads, head_width).argmin(dim=1).cpu()
        for channel in (leaving + first).tolist():
            importance[channel] = step
            alive[channel] = False
            if step + 1 < head_width:
                for consumer in consumers:
                    consumer.eliminate(channel, alive)
    return importance


@dataclass
class _Consumer:
    """A consumer layer of a group, while channels are eliminated from its input.

    Columns are ordered by channel, the pixels of each together; those of eliminated channels are
    dropped as soon as they are many.

    Args:
        weights: refitted weights `[N, K]`, scaled to unit power of the outputs.
        inverse: inverse covariance `[K, K]` of the channels that are left.
        pixels: columns of a channel.
        channels: that the columns are of, ascending, some of them eliminated.
        width: channels of the group.
    """

    weights: torch.Tensor
    inverse: torch.Tensor
    pixels: int
    channels: torch.Tensor
    width: int

    @classmethod
    def of(cls, layer: Weighted, seen: InputMoments, width: int) -> _Consumer:
        assert seen.covariance is not None
        covariance = damped(seen.covariance)
        weights = weight_matrix(layer).to(covariance.device).double()
        power = ((weights @ covariance) * weights).sum().clamp_min(1e-30)
        inverse = torch.cholesky_inverse(factored(seen.covariance))
        order = torch.arange(weights.shape[1], device=covariance.device).view(-1, width).T.flatten()
        return cls(
            (weights / power.sqrt())[:, order],
            inverse[order][:, order],
            weights.shape[1] // width,
            torch.arange(width, device=covariance.device),
            width,
        )

    def losses(self) -> torch.Tensor:
        """Share of the output's power that is lost with each channel, `[width]`."""
        count, pixels = len(self.channels), self.pixels
        if pixels == 1:
            found = self.weights.square().sum(dim=0) / self.inverse.diagonal()
        else:
            blocks = self.inverse.view(count, pixels, count, pixels).diagonal(dim1=0, dim2=2)
            weights = self.weights.view(-1, count, pixels).permute(1, 2, 0)
            solved = torch.linalg.solve(blocks.permute(2, 0, 1), weights)
            found = (weights * solved).sum(dim=(1, 2))
        return found.new_zeros(self.width).index_copy(0, self.channels, found)

    def eliminate(self, channel: int, alive: torch.Tensor) -> None:
        """Eliminate a channel: refit the weights of the others, and set its own to zero.

        Args:
            channel: that leaves.
            alive: whether each channel of the group is left, `[width]`.
        """
        start = int(torch.searchsorted(self.channels, channel)) * self.pixels
        own = slice(start, start + self.pixels)
        rows = self.inverse[own]
        share = torch.linalg.solve(rows[:, own], rows)
        self.weights.addmm_(self.weights[:, own].clone(), share, alpha=-1.0)
        self.inverse.addmm_(self.inverse[:, own].clone(), share, alpha=-1.0)
        # Without rounding these would be zero already; a one keeps the block invertible.
        self.weights[:, own] = 0.0
        self.inverse[own] = 0.0
        self.inverse[:, own] = 0.0
        self.inverse[own, own].fill_diagonal_(1.0)
        left = alive[self.channels]
        if int(left.sum()) <= _KEPT_SHARE * len(left):
            columns = left.repeat_interleave(self.pixels)
            self.weights = self.weights[:, columns]
            self.inverse = self.inverse[columns][:, columns]
            self.channels = self.channels[left]


def _by_activity(module: nn.Module, group: Group, moments: Moments) -> torch.Tensor:
    importance = l2_importance(module, group)
    for name in group.outputs:
        if name in moments.rates:
            importance = importance * moments.rates[name].cpu()
    return importance
