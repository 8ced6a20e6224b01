"""Check the groups of a user's own network: cut each, and compare with the masked network.

DepGraph reads a user's own modules as far as it can; a matrix product between channels, a reshape
into heads or a size written into the code escapes it. So a group is trusted only once cutting it
gives what masking it gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from primesvt_deploy.analysis.groups import Group, find_groups, read_groups
from primesvt_deploy.errors import DeployError
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.model.smooth import smooth_copy
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.cut import check_cut, cut, mask
from primesvt_deploy.pruning.plan import Plan

__all__ = ["Prunable", "prunable_groups"]

_SAMPLES = 2
_LOGITS = "they are the logits"


@dataclass(frozen=True)
class Prunable:
    """The channels that can leave a model, in groups.

    Args:
        groups: largest first.
        left: layers whose channels stay because their group could not be read or trusted, each
            with the reason; empty for the families that declare their couplings.
    """

    groups: tuple[Group, ...]
    left: dict[str, str]


def prunable_groups(model: SViT) -> Prunable:
    """The groups of `model`; of a user's own module, those that stood the trial."""
    shape = model.config.input_shape
    if model.module.couplings_declared:
        return Prunable(find_groups(model.module, shape), {})
    found, unreadable = read_groups(model.module, shape)
    left = {layer.removeprefix("net."): reason for layer, reason in unreadable.items()}
    groups = [replace(group, name=_title(group)) for group in found]
    smooth = smooth_copy(model.module)
    generator = torch.Generator().manual_seed(0)
    inputs = model.config.example(_SAMPLES).double()
    inputs = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        classes = smooth(inputs).shape[-1]
    trusted = []
    for group in groups:
        reason = _mistrust(smooth, groups, group, inputs, classes)
        if reason is None:
            trusted.append(group)
        elif reason != _LOGITS:
            left[group.name] = reason
    return Prunable(tuple(trusted), left)


def _title(group: Group) -> str:
    """After the first layer that loses channels: nobody said what the others are."""
    first, *others = (name.removeprefix("net.") for name in group.outputs)
    return f"{first} and {len(others)} more" if others else first


def _mistrust(
    network: SpikingNetwork,
    groups: Sequence[Group],
    group: Group,
    inputs: torch.Tensor,
    classes: int,
) -> str | None:
    """Why the group cannot be trusted, or None if cutting it equals masking it."""
    width = group.width // group.heads
    if width == 1:
        return "there is one channel to a slice, which cannot leave"
    keep = [h * width + i for h in range(group.heads) for i in range(width) if i % 3 != 1]
    plan = Plan().replacing(group.name, keep)
    try:
        smaller = cut(network, groups, plan)
        with torch.no_grad():
            logits = smaller(inputs)
    except Exception as error:  # the user's code may raise anything
        return f"the model does not run without them ({_first_line(error)})"
    if logits.shape[-1] != classes:
        return _LOGITS
    try:
        check_cut(mask(network, groups, plan), smaller, inputs)
    except DeployError:
        return "cutting them is not the same as silencing them"
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
