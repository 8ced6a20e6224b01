"""Mask the channels that a plan removes, or cut them for good.

Invariant: the cut model equals the masked dense one (fp64, max abs difference <= 1e-9).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.errors import PruningError
from primesvt_deploy.families.fit_widths import fit_widths
from primesvt_deploy.pruning.plan import Plan

__all__ = ["check_cut", "cut", "mask", "silence"]

_TOLERANCE = 1e-9
_Module = TypeVar("_Module", bound=nn.Module)


def mask(module: _Module, groups: Sequence[Group], plan: Plan) -> _Module:
    """A copy of `module` in which the channels that leave are silent.

    Filters, biases and norms that produce them become 0, so that the neurons behind receive
    exactly 0.

    Raises:
        PruningError: the plan does not fit the groups.
    """
    plan.check(groups)
    masked = copy.deepcopy(module)
    kept = plan.as_dict()
    for group in groups:
        if group.name in kept:
            silence(masked, group, kept[group.name])
    return masked


@torch.no_grad()
def silence(module: nn.Module, group: Group, kept: Sequence[int]) -> None:
    """Set what produces the channels of `group` that are not `kept` to 0, in place.

    Norms that were folded away (no longer there as norms) are passed over.
    """
    gone = torch.ones(group.width, dtype=torch.bool)
    gone[list(kept)] = False
    for name in (*group.outputs, *group.norms):
        layer = module.get_submodule(name)
        for parameter in layer.parameters(recurse=False):
            parameter[gone] = 0.0


def cut(module: _Module, groups: Sequence[Group], plan: Plan) -> _Module:
    """A smaller copy of `module` without the channels that leave.

    Raises:
        PruningError: the plan does not fit the groups.
    """
    plan.check(groups)
    kept = plan.as_dict()
    state = dict(module.state_dict())
    layers = dict(module.named_modules())
    for group in groups:
        if group.name not in kept:
            continue
        indices = torch.tensor(kept[group.name])
        for name in (*group.outputs, *group.norms):
            for tail in ("weight", "bias", "running_mean", "running_var"):
                if state.get(f"{name}.{tail}") is not None:
                    state[f"{name}.{tail}"] = state[f"{name}.{tail}"][indices]
        for name in group.inputs:
            weight = state[f"{name}.weight"]
            state[f"{name}.weight"] = _without_inputs(layers[name], weight, indices, group)
    smaller = copy.deepcopy(module)
    fit_widths(smaller, state)
    smaller.load_state_dict(state)
    return smaller


def _without_inputs(
    layer: nn.Module, weight: torch.Tensor, kept: torch.Tensor, group: Group
) -> torch.Tensor:
    """A layer's weight with the `kept` input channels only."""
    groups = getattr(layer, "groups", 1)
    if groups == 1:
        return weight[:, kept]
    if weight.shape[1] == 1:  # depthwise: its inputs are its outputs
        return weight
    inputs = group.width // groups
    # Each slice of the outputs consumes the same slice of the inputs: its own kept ones.
    slices = [
        kept[(kept >= g * inputs) & (kept < (g + 1) * inputs)] - g * inputs for g in range(groups)
    ]
    return torch.cat([part[:, own] for part, own in zip(weight.chunk(groups), slices, strict=True)])


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
        expected = _in_fp64(masked)(images.double())
        found = _in_fp64(smaller)(images.double())
    difference = float((expected - found).abs().max())
    if not difference <= _TOLERANCE:
        raise PruningError(
            f"the cut model differs from the masked one by {difference:.3g} (at most "
            f"{_TOLERANCE} expected): a group is wrong for this model; please report it"
        )
    return difference


def _in_fp64(module: nn.Module) -> nn.Module:
    """`module` itself where it is, else a copy."""
    numbers = (tensor for tensor in module.state_dict().values() if tensor.is_floating_point())
    if all(tensor.dtype == torch.float64 for tensor in numbers):
        return module
    return copy.deepcopy(module).double()
