"""Mask the channels that a plan removes, or cut them for good.

Invariant: the cut model equals the masked dense one (fp64, max abs difference <= 1e-9).
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn

from primesvt_deploy.analysis.groups import Group, Member
from primesvt_deploy.errors import PruningError
from primesvt_deploy.families.adopted import AdoptedNetwork
from primesvt_deploy.families.fit_widths import fit_tensors, fit_widths
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
    leaving = sorted(set(range(group.width)) - set(kept))
    for side in ("out", "norm"):
        for name in group.outputs if side == "out" else group.norms:
            gone = group.at((side, name), leaving)
            for parameter in module.get_submodule(name).parameters(recurse=False):
                parameter[gone] = 0.0
    for name, axis in group.parameters:
        gone = group.at((f"axis {axis}", name), leaving)
        _tensor(module, name).movedim(axis, 0)[gone] = 0.0


def cut(module: _Module, groups: Sequence[Group], plan: Plan) -> _Module:
    """A smaller copy of `module` without the channels that leave.

    Raises:
        PruningError: the plan does not fit the groups.
    """
    plan.check(groups)
    state = dict(module.state_dict())
    layers = dict(module.named_modules(remove_duplicate=False))
    for (side, name), moved in _under_all_names(module, _moved(groups, plan)):
        if side in ("out", "norm"):
            for tail in ("weight", "bias", "running_mean", "running_var"):
                tensor = state.get(f"{name}.{tail}")
                if tensor is not None:
                    state[f"{name}.{tail}"] = tensor[_staying(len(tensor), moved)]
        elif side == "in":
            weight = state[f"{name}.weight"]
            state[f"{name}.weight"] = _without_inputs(layers[name], weight, moved)
        else:
            axis = int(side.removeprefix("axis "))
            staying = _staying(state[name].shape[axis], moved).to(state[name].device)
            state[name] = state[name].index_select(axis, staying)
    smaller = copy.deepcopy(module)
    fit_widths(smaller, state)
    fit_tensors(smaller, state)
    smaller.load_state_dict(state)
    if isinstance(smaller, AdoptedNetwork):
        smaller.set_sizes(_sizes(smaller, groups, plan))
    return smaller


def _under_all_names(
    module: nn.Module, moved: Mapping[Member, dict[int, int | None]]
) -> Iterator[tuple[Member, dict[int, int | None]]]:
    """Sides of layers under each of the names that a layer has in the state_dict."""
    names: dict[int, list[str]] = {}
    layers = dict(module.named_modules(remove_duplicate=False))
    for name, layer in layers.items():
        names.setdefault(id(layer), []).append(name)
    for (side, name), places in moved.items():
        for alias in names[id(layers[name])] if name in layers else [name]:
            yield (side, alias), places


def _moved(groups: Sequence[Group], plan: Plan) -> dict[Member, dict[int, int | None]]:
    """Channels of pruned groups on each side of a layer: None, or whose place they take.

    The channels that stay of a head take the places of its first ones, so that heads stay together
    however a layer has them in its order.
    """
    kept = plan.as_dict()
    moved: dict[Member, dict[int, int | None]] = {}
    for group in groups:
        if group.name not in kept:
            continue
        staying, width = set(kept[group.name]), group.width // group.heads
        target: dict[int, int | None] = {}
        for head in range(0, group.width, width):
            own = [channel for channel in range(head, head + width) if channel in staying]
            target |= dict.fromkeys(range(head, head + width))
            target |= {channel: head + rank for rank, channel in enumerate(own)}
        for member in group.members():
            places = moved.setdefault(member, {})
            for channel, taken in target.items():
                old = group.at(member, [channel])
                new = [None] * len(old) if taken is None else group.at(member, [taken])
                places.update(zip(old, new, strict=True))
    # Inputs last: what they are cut from has lost its outputs then.
    return dict(sorted(moved.items(), key=lambda item: item[0][0] == "in"))


def _staying(width: int, moved: Mapping[int, int | None], first: int = 0) -> torch.Tensor:
    """Channels that stay of `width` from `first` on, relative to that, in their new order."""
    order = ((moved.get(place, place), place) for place in range(first, first + width))
    staying = sorted((new, place) for new, place in order if new is not None)
    return torch.tensor([place - first for _, place in staying])


def _without_inputs(
    layer: nn.Module, weight: torch.Tensor, moved: Mapping[int, int | None]
) -> torch.Tensor:
    """A layer's weight, with all outputs or fewer, without some input channels."""
    groups, width = getattr(layer, "groups", 1), weight.shape[1]
    if groups > 1 and width == 1:  # depthwise: its inputs are its outputs
        return weight
    # Each slice of the outputs consumes the same slice of the inputs: its own kept ones.
    return torch.cat(
        [
            part[:, _staying(width, moved, number * width)]
            for number, part in enumerate(weight.chunk(groups))
        ]
    )


def _sizes(
    network: AdoptedNetwork, groups: Sequence[Group], plan: Plan
) -> dict[str, dict[int, int]]:
    """New values of the numbers in a recorded graph that count channels."""
    kept = plan.as_dict()
    sizes: dict[str, dict[int, int]] = {}
    from_the_end = set()
    for group in groups:
        if group.name not in kept:
            continue
        staying = set(kept[group.name])
        for size in group.sizes:
            own = sizes.setdefault(size.node, {})
            value = own.get(size.leaf, network.size_at(size.node, size.leaf))
            own[size.leaf] = value - size.sign * sum(c not in staying for c in size.channels)
            if size.sign < 0:
                from_the_end.add((size.node, size.leaf))
    for node, leaf in from_the_end:
        # The last 0 channels begin behind the end; -0 would be the first.
        sizes[node][leaf] = sizes[node][leaf] or sys.maxsize
    return sizes


def _tensor(module: nn.Module, name: str) -> torch.Tensor:
    owner, _, tail = name.rpartition(".")
    found: torch.Tensor = getattr(module.get_submodule(owner), tail)
    return found.detach()


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
