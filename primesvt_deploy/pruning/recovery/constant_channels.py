"""Free channels: those that calibration shows to be constant, so that nothing is lost with them.

A channel that never spikes adds nothing to what reads it; one that always spikes adds a constant,
which the readers' biases take up (`pruning.refit`). A channel is free if every layer that reads it
reads a constant; around a padded image only silence is one. Of channels that no layer reads (q and
k meet in a product), those are free that never spike on one of both sides.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.input_statistics import Moments
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery.recovery import Recovery

__all__ = ["free_channels", "free_plan"]

_TOLERANCE = 1e-9
_CHECKED_SAMPLES = 16


def free_channels(group: Group, moments: Moments) -> torch.Tensor:
    """Whether each channel `[width]` of a group is free."""
    seen = [moments.inputs[name] for name in group.inputs if name in moments.inputs]
    if len(seen) < len(group.inputs):
        return torch.zeros(group.width, dtype=torch.bool)
    if seen:
        # Layers that `Refit` leaves alone have no bias to take a constant up.
        each = [
            m.constant if m.covariance is not None else m.constant & (m.high == 0) for m in seen
        ]
        return torch.stack(each).all(dim=0)
    silent = [moments.rates[name] == 0.0 for name in group.outputs if name in moments.rates]
    return torch.stack(silent).any(dim=0) if silent else torch.zeros(group.width, dtype=torch.bool)


def free_plan(
    model: SViT, groups: Sequence[Group], recovery: Recovery, channel_multiple: int = 1
) -> Plan:
    """The plan without free channels: equally many leave each head, and one stays at least.

    Groups are left whole where silencing them changes the model's logits (fp64, a few calibration
    samples) after all.

    Args:
        model: the dense SViT.
        groups: its prunable groups.
        recovery: has the moments, and recovers what reads the channels.
        channel_multiple: channels (per head) are kept in multiples of this.
    """
    single: list[Plan] = []
    whole = Plan()
    for group in groups:
        free = free_channels(group, recovery.moments)
        kept = _without_free(group, free, channel_multiple)
        if len(kept) < group.width:
            single.append(Plan().replacing(group.name, kept))
            whole = whole.replacing(group.name, kept)
    if not single or _changes_nothing(model, recovery, whole):
        return whole
    plan = Plan()
    for one in single:
        ((name, kept_indices),) = one.kept
        more = plan.replacing(name, kept_indices)
        plan = more if _changes_nothing(model, recovery, more) else plan
    return plan


def _without_free(group: Group, free: torch.Tensor, multiple: int) -> list[int]:
    per_head = free.view(group.heads, -1)
    width = per_head.shape[1]
    staying = max(width - int(per_head.sum(dim=1).min()), 1)
    leaving = width - min(-(-staying // multiple) * multiple, width)
    kept: list[int] = []
    for head, own in enumerate(per_head):
        gone = set(torch.nonzero(own).flatten()[:leaving].tolist())
        kept.extend(head * len(own) + i for i in range(len(own)) if i not in gone)
    return kept


@torch.no_grad()
def _changes_nothing(model: SViT, recovery: Recovery, plan: Plan) -> bool:
    samples = recovery.samples(_CHECKED_SAMPLES).double()
    expected = copy.deepcopy(model.module).double()(samples)
    found = recovery.masked(plan).double()(samples)
    return bool((expected - found).abs().max() <= _TOLERANCE)
