"""Which channels leave a layer at a rate: the least important ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.importance import keep_most_important, l2_importance
from primesvt_deploy.pruning.plan import Plan, kept_width

__all__ = ["Choice"]


class Choice:
    """Chooses channels by the L2 norm of their filters (PrimeSVT).

    Args:
        module: the dense network.
        groups: its prunable groups.
        channel_multiple: channels (per head) are kept in multiples of this.
    """

    def __init__(self, module: nn.Module, groups: Sequence[Group], channel_multiple: int) -> None:
        self._multiple = channel_multiple
        self._importance = {group.name: l2_importance(module, group) for group in groups}

    def pruned(self, plan: Plan, group: Group, rate: float) -> Plan:
        """`plan` with the least important share `rate` of one group's channels gone."""
        keep = kept_width(group, rate, multiple=self._multiple)
        if keep == group.width:
            return plan
        return plan.replacing(
            group.name, keep_most_important(self._importance[group.name], group, keep)
        )
