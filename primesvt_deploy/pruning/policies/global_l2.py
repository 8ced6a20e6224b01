"""Torch-pruning's own global magnitude pruner: one ranking over the channels of all layers.

Source: `torch_pruning.pruner.BasePruner(global_pruning=True)` with `GroupMagnitudeImportance(p=2)`
(Fang et al., DepGraph, CVPR 2023); its choice is taken as a plan, which our own cut applies.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch_pruning as tp
from torch import nn

from primesvt_deploy.analysis.equal_heads import equal_heads
from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.importance import l2_importance
from primesvt_deploy.families.coupling_proxy import coupling_proxy
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.policies.base import Search
from primesvt_deploy.pruning.policies.path import AlongPath

__all__ = ["GlobalL2"]

_STEPS = 100


class GlobalL2(AlongPath):
    """The channels of least group magnitude leave, wherever they are; heads stay equal."""

    name = "global-l2"

    def path(self, search: Search) -> Sequence[Plan]:
        """Plans at rising shares of all channels."""
        model, groups = search.space.model, search.space.groups
        if not model.module.couplings_declared:
            return _by_filters(search)
        proxy, run = coupling_proxy(model.module)
        proxy.requires_grad_(True)
        shape = model.config.input_shape
        example = torch.zeros(1, *shape, dtype=next(proxy.parameters()).dtype)
        roots = {proxy.get_submodule(name): group for group in groups for name in group.outputs}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own deprecations
            pruner = tp.pruner.BasePruner(
                proxy,
                example,
                importance=tp.importance.GroupMagnitudeImportance(p=2),
                global_pruning=True,
                pruning_ratio=1.0,
                iterative_steps=_STEPS,
                ignored_layers=_others(proxy, roots),
                out_channel_groups={m: g.heads for m, g in roots.items() if g.heads > 1},
                forward_fn=run,
            )
            plans = [search.space.without_constants]
            search.progress.stage("ranking of all channels", _STEPS - 1)
            while len(plans) < _STEPS:
                plans.append(self._next(search, plans[-1], pruner, roots))
                search.progress.step()
        return [plan for i, plan in enumerate(plans) if plan.kept and plan != plans[i - 1]]

    def _next(
        self, search: Search, plan: Plan, pruner: tp.BasePruner, roots: dict[nn.Module, Group]
    ) -> Plan:
        """The plan after the pruner's next removals; a channel of each head stays at least.

        A group of which nothing would stay it leaves out altogether: that stays as it was.
        """
        for removed in pruner.step(interactive=True):
            dependency, indices = removed[0]
            group = roots.get(dependency.target.module)
            if group is None:
                continue
            gone = set(map(int, indices)) | _constant(search, group)
            kept = equal_heads(group, gone, search.settings.channel_multiple)
            if len(kept) < group.width:
                plan = plan.replacing(group.name, kept)
        return plan


def _by_filters(search: Search) -> list[Plan]:
    """The same for a user's own module, which torch-pruning cannot follow.

    A channel's magnitude is the L2 norm of the filters that produce it, relative to its group's
    mean.
    """
    scored: list[tuple[float, str, int]] = []
    for group in search.space.groups:
        norms = l2_importance(search.space.model.module, group)
        relative = (norms / norms.mean().clamp_min(1e-30)).tolist()
        scored.extend((norm, group.name, channel) for channel, norm in enumerate(relative))
    scored.sort()
    plans: list[Plan] = []
    for step in range(1, _STEPS):
        plan = search.space.without_constants
        leaving = scored[: len(scored) * step // _STEPS]
        for group in search.space.groups:
            gone = {channel for _, name, channel in leaving if name == group.name}
            gone |= _constant(search, group)
            kept = equal_heads(group, gone, search.settings.channel_multiple)
            if len(kept) < group.width:
                plan = plan.replacing(group.name, kept)
        if plan.kept and (not plans or plan != plans[-1]):
            plans.append(plan)
    return plans


def _constant(search: Search, group: Group) -> set[int]:
    kept = search.space.without_constants[group.name]
    return set() if kept is None else set(range(group.width)) - set(kept)


def _others(proxy: nn.Module, roots: dict[nn.Module, Group]) -> list[nn.Module]:
    """Layers that no group prunes: classifiers, and what could not be read or trusted."""
    layers = (nn.Conv1d, nn.Conv2d, nn.Linear)
    return [layer for layer in proxy.modules() if isinstance(layer, layers) and layer not in roots]
