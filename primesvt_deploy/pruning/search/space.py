"""The search space: the channels that can leave one model, and how they are ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.importance import l2_importance
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery.constant_channels import plan_without_constants
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search.channel_ranking import ChannelRanking

__all__ = ["SearchSpace"]


class SearchSpace:
    """Channels that can leave one model.

    Args:
        model: the dense SViT.
        groups: its prunable groups, largest first.
        channel_multiple: channels (per head) are kept in multiples of this.
        recovery: how candidates are recovered, and what calibration shows of the dense model;
            None: not at all.
    """

    def __init__(
        self,
        model: SViT,
        groups: Sequence[Group],
        *,
        channel_multiple: int = 1,
        recovery: Recovery | None = None,
    ) -> None:
        self.model, self.groups = model, tuple(groups)
        self.channel_multiple, self.recovery = channel_multiple, recovery

    @cached_property
    def without_constants(self) -> Plan:
        """The plan that removes constant channels alone; empty where recovery leaves them."""
        if self.recovery is None or "free" not in self.recovery.steps:
            return Plan()
        return plan_without_constants(self.groups, self.recovery, self.channel_multiple)

    @cached_property
    def by_norm(self) -> ChannelRanking:
        """Channels ranked by the L2 norm of their filters (PrimeSVT)."""
        module = self.model.module
        return self.ranked({group.name: l2_importance(module, group) for group in self.groups})

    def ranked(self, importance: Mapping[str, torch.Tensor]) -> ChannelRanking:
        """Channels ranked by `importance`, `[width]` of each group by name; constant ones last."""
        return ChannelRanking(importance, self.channel_multiple, self.without_constants)
