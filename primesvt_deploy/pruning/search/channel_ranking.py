"""Rank the channels of each layer by importance: the least important leave first."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from primesvt_deploy.analysis.equal_heads import keep_most_important
from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.pruning.plan import Plan, kept_width

__all__ = ["ChannelRanking"]


class ChannelRanking:
    """Channels of each group in the order in which they leave.

    Args:
        importance: `[width]` of each group, by name; larger stays longer.
        channel_multiple: channels (per head) are kept in multiples of this.
        without_constants: the plan that removes constant channels; those leave before all others.
    """

    def __init__(
        self,
        importance: Mapping[str, torch.Tensor],
        channel_multiple: int,
        without_constants: Plan | None = None,
    ) -> None:
        self.multiple = channel_multiple
        self._importance = dict(importance)
        for name, kept in without_constants.kept if without_constants else ():
            if name in self._importance:
                last = torch.full_like(self._importance[name], -1.0)
                last[list(kept)] = self._importance[name][list(kept)]
                self._importance[name] = last

    def pruned(self, plan: Plan, group: Group, rate: float) -> Plan:
        """`plan` with the least important share `rate` of one group's channels gone."""
        return self.with_width(plan, group, kept_width(group, rate, multiple=self.multiple))

    def with_width(self, plan: Plan, group: Group, width: int) -> Plan:
        """`plan` with the `width` most important channels of one group left; never wider."""
        now = plan[group.name]
        if width >= (group.width if now is None else len(now)):
            return plan
        return plan.replacing(
            group.name, keep_most_important(self._importance[group.name], group, width)
        )
