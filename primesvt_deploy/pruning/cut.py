"""Carry a plan out: mask channels in place of cutting them, or cut them for good.

Invariant: the cut model equals the masked dense one (fp64, max abs difference <= 1e-9).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
import torch_pruning as tp
from torch import nn

from primesvt_deploy.analysis.groups import Group, trace_dependencies
from primesvt_deploy.errors import PruningError
from primesvt_deploy.families.base import Family, FamilyConfig
from primesvt_deploy.pruning.plan import Plan

__all__ = ["check_cut", "cut", "mask"]

_TOLERANCE = 1e-9


def mask(module: nn.Module, groups: Sequence[Group], plan: Plan) -> nn.Module:
    """A copy of `module` in which the channels that leave are silent.

    Their norms' scale and shift become 0, so that the neurons behind receive exactly 0.

    Raises:
        PruningError: the plan does not fit the groups.
    """
    plan.check(groups)
    masked = copy.deepcopy(module)
    kept = plan.as_dict()
    with torch.no_grad():
        for group in groups:
            if group.name not in kept:
                continue
            gone = torch.ones(group.width, dtype=torch.bool)
            gone[list(kept[group.name])] = False
            for name in group.norms:
                norm = cast(nn.BatchNorm2d, masked.get_submodule(name))
                norm.weight[gone] = 0.0
                norm.bias[gone] = 0.0
    return masked


def cut(
    family: Family,
    config: FamilyConfig,
    module: nn.Module,
    groups: Sequence[Group],
    plan: Plan,
) -> tuple[FamilyConfig, nn.Module]:
    """A smaller configuration and module without the channels that leave.

    Channels leave along torch-pruning's dependency graph of the coupling twin, whose tensors
    have the names of the module's. The argument module is not touched.

    Raises:
        PruningError: the plan does not fit the groups.
    """
    plan.check(groups)
    twin, graph = trace_dependencies(family, module, config)
    kept = plan.as_dict()
    for group in groups:
        if group.name not in kept:
            continue
        gone = sorted(set(range(group.width)) - set(kept[group.name]))
        root = twin.get_submodule(group.root)
        prune = (
            tp.prune_linear_out_channels
            if isinstance(root, nn.Linear)
            else (tp.prune_conv_out_channels)
        )
        if gone:
            graph.get_pruning_group(root, prune, gone).prune()
    state = twin.state_dict()
    smaller = family.resized(config, state)
    shrunk = family.build(smaller).to(next(module.parameters()).dtype)
    shrunk.load_state_dict(state)
    return smaller, shrunk


def check_cut(masked: nn.Module, smaller: nn.Module, images: torch.Tensor) -> float:
    """Largest absolute difference of logits, fp64, between the masked and the cut model.

    Args:
        masked: the masked dense model.
        smaller: the cut model.
        images: `[N, C, H, W]`.

    Raises:
        PruningError: they differ by more than 1e-9: the cut must not be trusted.
    """
    with torch.no_grad():
        expected = copy.deepcopy(masked).double()(images.double())
        found = copy.deepcopy(smaller).double()(images.double())
    difference = float((expected - found).abs().max())
    if not difference <= _TOLERANCE:
        raise PruningError(
            f"the cut model differs from the masked one by {difference:.3g} (at most "
            f"{_TOLERANCE} expected): a group is wrong for this model; please report it"
        )
    return difference
