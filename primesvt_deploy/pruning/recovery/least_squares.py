"""Refit the consumer layers of pruned channels to the channels that stay, by least squares.

For a consumer layer `y = W x + b` whose inputs split into kept ones S and removed ones R, with mean
m and covariance H measured on the dense model: `W' = W_S + W_R H_RS (H_SS + damping)^-1` is the
least squares refit, `W' = W_S` leaves the weights alone; either way `b' = b + (W - W') m` makes up
for the mean. A channel that never varied is made up for exactly. Weights keep their places (removed
columns become zero), so that the module can be masked or cut afterwards. Source: the closed form
of channel pruning by reconstruction (He et al., ICCV 2017), per layer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.input_statistics import InputMoments, Moments
from primesvt_deploy.analysis.reconstruction import factored
from primesvt_deploy.families.blocks.units import ConvBN
from primesvt_deploy.model.layer_matrix import Weighted, set_weights, weight_matrix
from primesvt_deploy.pruning.plan import Plan

__all__ = ["SHARES_BYTES", "Refit"]

SHARES_BYTES = 400_000_000
"""Memory for what predicts removed inputs from kept ones."""


class Refit:
    """Refits the consumer layers of pruned groups.

    Args:
        groups: of the dense model.
        moments: statistics of its layers' inputs.
        weights: refit weights; False: biases alone make up for means.
        means: make up for the means of all removed channels; False: of constant ones alone.
    """

    def __init__(
        self, groups: Sequence[Group], moments: Moments, *, weights: bool, means: bool = True
    ) -> None:
        self._groups = {group.name: group for group in groups}
        self._moments: Mapping[str, InputMoments] = moments.inputs
        self._weights, self._means = weights, means
        self._shares: OrderedDict[tuple[str, tuple[int, ...]], torch.Tensor] = OrderedDict()

    @torch.no_grad()
    def apply(self, module: nn.Module, plan: Plan) -> None:
        """Refit the consumer layers of every pruned group of the dense `module`, in place.

        Grouped convolutions and one-dimensional ones are left as they are.
        """
        for name, kept in plan.kept:
            group = self._groups[name]
            for consumer in group.inputs:
                seen = self._moments.get(consumer)
                if seen is not None and seen.covariance is not None:
                    layer = cast(Weighted, module.get_submodule(consumer))
                    shift = self._refit(consumer, layer, seen, group.width, kept)
                    _add_bias(module, consumer, layer, shift)

    def _refit(
        self, name: str, layer: Weighted, seen: InputMoments, width: int, kept: tuple[int, ...]
    ) -> torch.Tensor:
        """Set the layer's weights; what its bias must take up is returned, `[N]`."""
        before = weight_matrix(layer).double()
        stays = _columns(width, before.shape[1] // width, kept).to(before.device)
        after = torch.where(stays, before, torch.zeros_like(before))
        if self._weights and not bool(stays.all()):
            after[:, stays] += before[:, ~stays] @ self._share(name, seen, kept, stays)
        mean = seen.mean
        if not self._means:
            constant = seen.constant.repeat(before.shape[1] // width)
            mean = torch.where(constant, mean, torch.zeros_like(mean))
        set_weights(layer, after.to(layer.weight.dtype))
        return ((before - after) @ mean).to(layer.weight.dtype)

    def _share(
        self, name: str, seen: InputMoments, kept: tuple[int, ...], stays: torch.Tensor
    ) -> torch.Tensor:
        """`H_RS (H_SS + damping)^-1`, `[removed, kept]`: predicts removed inputs from kept ones."""
        share = self._shares.get((name, kept))
        if share is None:
            assert seen.covariance is not None
            covariance = seen.covariance
            factor = factored(covariance[stays][:, stays])
            share = torch.cholesky_solve(covariance[stays][:, ~stays], factor).T.contiguous()
            self._shares[name, kept] = share
            while len(self._shares) > 1 and _bytes(self._shares) > SHARES_BYTES:
                self._shares.popitem(last=False)
        self._shares.move_to_end((name, kept))
        return share


def _add_bias(module: nn.Module, name: str, layer: Weighted, shift: torch.Tensor) -> None:
    """Add to a layer's bias, or take from the mean of the norm behind it where it has none."""
    if layer.bias is not None:
        layer.bias += shift
        return
    unit = module.get_submodule(name.rpartition(".")[0])
    norm = unit.bn if isinstance(unit, ConvBN) and unit.conv is layer else None
    if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
        norm.running_mean -= shift
    elif not getattr(module, "couplings_declared", False):
        # A family's checkpoint has no place for a bias that its layer never had.
        layer.bias = nn.Parameter(shift, requires_grad=layer.weight.requires_grad)


def _columns(width: int, pixels: int, kept: tuple[int, ...]) -> torch.Tensor:
    """Whether each column of a layer's weights belongs to a kept channel, `[K]`."""
    stays = torch.zeros(width, dtype=torch.bool)
    stays[list(kept)] = True
    return stays.repeat(pixels)


def _bytes(shares: Mapping[tuple[str, tuple[int, ...]], torch.Tensor]) -> int:
    return sum(share.nbytes for share in shares.values())
