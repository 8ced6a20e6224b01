"""Channel importance: the L2 norm of the filters that produce a channel (PrimeSVT)."""

from __future__ import annotations

import torch
from torch import nn

from primesvt_deploy.analysis.groups import Group

__all__ = ["l2_importance"]


def l2_importance(module: nn.Module, group: Group) -> torch.Tensor:
    """Importance of a group's channels by the weights that produce them.

    That of channel c is the L2 norm over its filters in every layer l that produces it:
    `sqrt(sum_l ||W_l[c]||^2)`.

    Args:
        module: the network.
        group: one of its groups.

    Returns:
        Importance `[width]`, float64; larger is kept longer.
    """
    total = torch.zeros(group.width, dtype=torch.float64)
    for name in group.outputs:
        weight = module.get_submodule(name).get_parameter("weight").detach().double()
        squares = weight.flatten(1).square().sum(dim=1)
        share = group.share(("out", name))
        total += squares[group.at(("out", name), range(group.width))].view(-1, share).sum(dim=1)
    return total.sqrt()
