"""Check the groups of a user's own network: cut them, and compare with the masked network.

Its channels are followed through code that nobody declared anything about. So groups are trusted
only once cutting them gives what masking them gives.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from primesvt_deploy.analysis.channel_trace import LOGITS
from primesvt_deploy.analysis.groups import Group, find_groups, read_groups
from primesvt_deploy.analysis.traced_groups import traced_groups
from primesvt_deploy.errors import DeployError, first_line, type_and_message
from primesvt_deploy.families.adopted import AdoptedNetwork
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.families.recording import KEEPS_CHANNELS
from primesvt_deploy.model.smooth import smooth_copy
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.cut import check_cut, cut, mask
from primesvt_deploy.pruning.plan import Plan

__all__ = ["OWN_MODULE", "Prunable", "prunable_groups"]

_SAMPLES = 2
OWN_MODULE = "net."
"""Prefix of the names of an adopted network's layers, which its user does not know."""
_SINGLE = "there is one channel to a head, which cannot leave"


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
    if isinstance(model.module, AdoptedNetwork):
        return _of_own_module(model, model.module)
    return Prunable(find_groups(model.module, model.config.input_shape), {})


def _of_own_module(model: SViT, network: AdoptedNetwork) -> Prunable:
    groups, left = _read(model, network)
    trial = _Trial(model, groups)
    wide = [group for group in groups if group.width > group.heads]
    left |= {group.name: _SINGLE for group in groups if group not in wide}
    if trial.mistrust(wide) is None:
        return Prunable(tuple(wide), left)
    trusted: list[Group] = []
    for group in wide:
        reason = trial.mistrust([group])
        if reason is None:
            trusted.append(group)
        elif reason != LOGITS:
            left[group.name] = reason
    # Each by itself is right; together they may still meddle with one another.
    while trusted and (reason := trial.mistrust(trusted)) is not None:
        left[trusted.pop().name] = reason
    return Prunable(tuple(trusted), left)


def _read(model: SViT, network: AdoptedNetwork) -> tuple[list[Group], dict[str, str]]:
    """Groups to be tried, and layers of those that cannot be read, with reasons."""
    if network.graph is not None:
        sample = network.as_taken(model.config.example(1))
        try:
            found, left = traced_groups(
                network.net, network.graph, sample, OWN_MODULE, network.read
            )
        except Exception as error:  # operations of the user's code may be of any form
            return [], {"all layers": f"they cannot be followed ({type_and_message(error)})"}
        return list(found), {k: reason for k, reason in left.items() if reason != LOGITS}
    with torch.enable_grad():  # torch-pruning traces by gradients
        found, unreadable = read_groups(network, model.config.input_shape)
    left = {layer.removeprefix(OWN_MODULE): reason for layer, reason in unreadable.items()}
    left["the code"] = f"it keeps the sizes that it holds, as {network.unrecorded}"
    return [replace(group, name=_title(group)) for group in found], left


def _title(group: Group) -> str:
    """After the first layer that loses channels: nobody said what the others are."""
    first, *others = (name.removeprefix(OWN_MODULE) for name in group.outputs)
    return f"{first} and {len(others)} more" if others else first


class _Trial:
    """Cuts groups of a model, in float64, and compares with masking them.

    Args:
        model: of a user's own module.
        groups: all that it may have.
    """

    def __init__(self, model: SViT, groups: Sequence[Group]) -> None:
        self._smooth: SpikingNetwork = smooth_copy(model.module)
        self._exact: SpikingNetwork = copy.deepcopy(model.module).double().eval()
        self._groups = groups
        said = [n for n, m in model.module.named_modules() if getattr(m, KEEPS_CHANNELS, False)]
        names = ", ".join(name.removeprefix(OWN_MODULE) for name in said)
        self._hint = f" (does {names} keep channels, as its {KEEPS_CHANNELS} says?)" if said else ""
        self._random = torch.Generator().manual_seed(0)
        shape = model.config.example(_SAMPLES).shape
        self._inputs = torch.randn(shape, generator=self._random, dtype=torch.float64)
        with torch.no_grad():
            self._classes = self._smooth(self._inputs).shape[-1]

    def mistrust(self, groups: Sequence[Group]) -> str | None:
        """Why some groups cannot be trusted, or None if cutting them equals masking them.

        From each leave other channels, and another share of them: groups that are not what they
        seem cannot hide behind each other. Each channel leaves once and stays once, and once a
        single one of each head stays.
        """
        some, others, single = Plan(), Plan(), Plan()
        for group in groups:
            order = self._orders(group)
            keep = int(torch.randint(1, order.shape[1], (1,), generator=self._random))
            some = some.replacing(group.name, order[:, :keep].flatten().tolist())
            others = others.replacing(group.name, order[:, keep:].flatten().tolist())
            single = single.replacing(group.name, order[:, -1].tolist())
        networks = ((self._smooth, some), (self._smooth, others), (self._smooth, single))
        for network, plan in (*networks, (self._exact, some)):
            reason = self._mistrust(network, plan)
            if reason is not None:
                return reason
        return None

    def _mistrust(self, network: SpikingNetwork, plan: Plan) -> str | None:
        try:
            smaller = cut(network, self._groups, plan)
            with torch.no_grad():
                logits = smaller(self._inputs)
        except Exception as error:  # the user's code may raise anything
            return f"the model does not run without them ({first_line(error, 120)})"
        if logits.shape[-1] != self._classes:
            return LOGITS
        try:
            check_cut(mask(network, self._groups, plan), smaller, self._inputs)
        except DeployError:
            return f"cutting them is not the same as silencing them{self._hint}"
        return None

    def _orders(self, group: Group) -> torch.Tensor:
        """Channels of each head in an order of their own, `[heads, width of a head]`."""
        width = group.width // group.heads
        rows = [
            head * width + torch.randperm(width, generator=self._random)
            for head in range(group.heads)
        ]
        return torch.stack(rows)
