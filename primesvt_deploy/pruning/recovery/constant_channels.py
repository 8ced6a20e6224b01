"""Constant channels: they never or always fire on calibration images, so nothing is lost with them.

A channel that never fires adds nothing to its consumer layers; one that always fires adds a
constant, which their biases take up (`least_squares`). A channel is constant if it is so in the
input of every consumer layer; around a padded image only a channel that never fires is. Channels
that no layer consumes (q and k meet in a product) are constant if they never fire on one of both
sides.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.input_statistics import Moments
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery.recovery import Recovery

__all__ = ["constant_channels", "plan_without_constants"]

_TOLERANCE = 1e-9
_CHECKED_SAMPLES = 16


def constant_channels(group: Group, moments: Moments) -> torch.Tensor:
    """Whether each channel of a group is constant, `[width]`, bool, on the CPU."""
    seen = [moments.inputs[name] for name in group.inputs if name in moments.inputs]
    if len(seen) < len(group.inputs):
        return torch.zeros(group.width, dtype=torch.bool)
    if seen:
        # Layers that `Refit` leaves alone have no bias to take a constant up.
        each = [
            m.constant if m.covariance is not None else m.constant & (m.high == 0) for m in seen
        ]
        return torch.stack(each).all(dim=0).cpu()
    silent = [moments.rates[name] == 0.0 for name in group.outputs if name in moments.rates]
    if not silent:
        return torch.zeros(group.width, dtype=torch.bool)
    return torch.stack(silent).any(dim=0).cpu()


def plan_without_constants(
    groups: Sequence[Group], recovery: Recovery, channel_multiple: int = 1
) -> Plan:
    """The plan that removes constant channels: equally many leave each head, one stays at least.

    Groups are left whole where silencing them changes the model's logits (fp64, a few calibration
    samples) after all.

    Args:
        groups: the dense model's prunable groups.
        recovery: of that model; it has the input statistics and recovers the consumer layers.
        channel_multiple: channels (per head) are kept in multiples of this.
    """
    single: list[Plan] = []
    whole = Plan()
    for group in groups:
        constant = constant_channels(group, recovery.moments)
        kept = _without(constant, group, channel_multiple)
        if len(kept) < group.width:
            single.append(Plan().replacing(group.name, kept))
            whole = whole.replacing(group.name, kept)
    if not single or _changes_nothing(recovery, whole):
        return whole
    plan = Plan()
    for one in single:
        ((name, kept_indices),) = one.kept
        more = plan.replacing(name, kept_indices)
        plan = more if _changes_nothing(recovery, more) else plan
    return plan


def _without(constant: torch.Tensor, group: Group, multiple: int) -> list[int]:
    per_head = constant.view(group.heads, -1)
    width = per_head.shape[1]
    staying = max(width - int(per_head.sum(dim=1).min()), 1)
    leaving = width - min(-(-staying // multiple) * multiple, width)
    kept: list[int] = []
    for head, own in enumerate(per_head):
        gone = set(torch.nonzero(own).flatten()[:leaving].tolist())
        kept.extend(head * len(own) + i for i in range(len(own)) if i not in gone)
    return kept


@torch.no_grad()
def _changes_nothing(recovery: Recovery, plan: Plan) -> bool:
    samples = recovery.samples(_CHECKED_SAMPLES).double()
    dense = copy.deepcopy(recovery.model.module).to(samples.device)
    expected = dense.double()(samples)
    found = recovery.masked(plan).double()(samples)
    return bool((expected - found).abs().max() <= _TOLERANCE)
