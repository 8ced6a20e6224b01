"""Lowered networks of one model under any plan: masked in place, recovered, or cut."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.compute.device import CPU
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.lowering.fold_batchnorm import fold_batchnorm
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.cut import cut, mask, silence
from primesvt_deploy.pruning.plan import Plan

__all__ = ["PlanNetworks"]


class PlanNetworks:
    """Makes the lowered network of a plan, in the memory layout that evaluates fastest.

    Args:
        model: the dense SViT; it stays on the CPU.
        groups: its prunable groups.
        device: that networks are made for.
    """

    def __init__(self, model: SViT, groups: Sequence[Group], device: torch.device = CPU) -> None:
        self.groups, self._device = tuple(groups), device
        # A user's own code may ask for contiguous tensors (`view`).
        self._channels_last = model.module.couplings_declared
        self._module = model.module
        self.dense = self.in_layout(lower_module(model.module))
        masked = {name for group in groups for name in (*group.outputs, *group.norms)}
        masked |= {name for group in groups for name, _ in group.parameters}
        self._unmasked = {
            name: tensor.clone()
            for name, tensor in self.dense.state_dict().items()
            if name in masked or name.rpartition(".")[0] in masked
        }

    def masked(self, plan: Plan) -> SpikingNetwork:
        """`dense` itself with the channels that leave silenced, until the next call."""
        self.dense.load_state_dict(self._unmasked, strict=False)
        kept = plan.as_dict()
        for group in self.groups:
            if group.name in kept:
                silence(self.dense, group, kept[group.name])
        return self.dense

    def cut(self, plan: Plan, recovered: SpikingNetwork | None = None) -> SpikingNetwork:
        """A network as narrow as the plan says, of the masked or a `recovered` one."""
        if recovered is not None:
            return self.lowered(cut(recovered, self.groups, plan))
        masked = mask(self._module, self.groups, plan)
        return self.in_layout(lower_module(cut(masked, self.groups, plan)))

    def lowered(self, recovered: SpikingNetwork) -> SpikingNetwork:
        """A recovered network, whose neurons are stateless already, lowered in place."""
        fold_batchnorm(recovered)
        return self.in_layout(recovered)

    def in_layout(self, network: SpikingNetwork) -> SpikingNetwork:
        """The network on the device, its weights in the memory layout; in place."""
        network = network.to(self._device)
        return network.to(memory_format=torch.channels_last) if self._channels_last else network

    def state_in_layout(self, state: torch.Tensor) -> torch.Tensor:
        """A segment's input on the device, in the memory layout."""
        state = state.to(self._device)
        if not self._channels_last or state.ndim != 4:
            return state
        return state.contiguous(memory_format=torch.channels_last)
