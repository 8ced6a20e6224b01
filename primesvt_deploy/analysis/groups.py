"""Prunable groups of a network, found by torch-pruning's dependency graph.

A group is the channels that must be pruned together: a residual stream, the q and k of an SSA, the
hidden width of an MLP. Source of the dependency graph: Fang et al., DepGraph (CVPR 2023).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch_pruning as tp
from torch import nn

from primesvt_deploy.analysis.group_names import group_names, role_of
from primesvt_deploy.analysis.sizes import Size
from primesvt_deploy.errors import PruningError, first_line
from primesvt_deploy.families.coupling_proxy import coupling_proxy, keeps_channels_in_groups
from primesvt_deploy.families.network import SpikingNetwork

__all__ = ["Group", "Member", "find_groups", "read_groups"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)

Member = tuple[str, str]
"""A side of a layer that loses channels, `out`, `norm` or `in`, and the layer's name."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels that are pruned together.

    Args:
        name: name for people, such as `blocks.0.mlp`.
        root: layer whose output channels index the group.
        width: number of channels.
        heads: number of equal slices, each of which keeps equally many channels; 1: no
            constraint.
        outputs: names of the layers that lose output channels.
        norms: names of the batch norms that lose channels.
        inputs: names of the consumer layers, which lose input channels.
        size: number of parameters of all these channels.
        places: of the members that do not index the group's channels one to one, the channels that
            each of the group's stands for there, such as those of q, k and v in a fused layer.
        parameters: names of tensors of the code, such as a position embedding, that lose channels,
            and their channel axis; in `places` as `axis 2` and the name.
        sizes: numbers in a recorded graph that count channels of the group.
    """

    name: str
    root: str
    width: int
    heads: int
    outputs: tuple[str, ...]
    norms: tuple[str, ...]
    inputs: tuple[str, ...]
    size: int
    places: Mapping[Member, tuple[tuple[int, ...], ...]] = field(
        default_factory=dict, hash=False, repr=False
    )
    parameters: tuple[tuple[str, int], ...] = ()
    sizes: tuple[Size, ...] = ()

    @property
    def plain_inputs(self) -> tuple[str, ...]:
        """Consumer layers that index the group's channels one to one."""
        return tuple(name for name in self.inputs if ("in", name) not in self.places)

    def members(self) -> tuple[Member, ...]:
        """Every side of a layer and every tensor that loses channels."""
        return (
            *(("out", name) for name in self.outputs),
            *(("norm", name) for name in self.norms),
            *(("in", name) for name in self.inputs),
            *((f"axis {axis}", name) for name, axis in self.parameters),
        )

    def at(self, member: Member, channels: Iterable[int]) -> list[int]:
        """A member's own channels that some channels of the group stand for."""
        places = self.places.get(member)
        if places is None:
            return list(channels)
        return [place for channel in channels for place in places[channel]]

    def share(self, member: Member) -> int:
        """How many of a member's channels one channel of the group stands for."""
        return len(self.places[member][0]) if member in self.places else 1


def find_groups(network: SpikingNetwork, input_shape: tuple[int, int, int]) -> tuple[Group, ...]:
    """All prunable groups of `network`, largest first (ties by name).

    The classifiers' outputs and the image's channels are in no group.

    Args:
        network: not changed.
        input_shape: (C, H, W) of one image or frame.

    Raises:
        PruningError: a group cannot be read, such as where the graph maps a channel to another
            index than its own.
    """
    groups, unreadable = read_groups(network, input_shape)
    for layer, reason in unreadable.items():
        raise PruningError(f"{layer}: {reason}")
    return groups


def read_groups(
    network: SpikingNetwork, input_shape: tuple[int, int, int]
) -> tuple[tuple[Group, ...], dict[str, str]]:
    """The groups of `find_groups` that can be read, and the layers of those that cannot.

    Args:
        network: not changed.
        input_shape: (C, H, W) of one image or frame.

    Returns:
        Groups, and by name of a layer the reason why its group cannot be read.
    """
    proxy, run = coupling_proxy(network)
    proxy.requires_grad_(True)
    example = torch.zeros(1, *input_shape, dtype=next(proxy.parameters()).dtype)
    names = {layer: name for name, layer in proxy.named_modules()}
    classifiers = [proxy.get_submodule(name) for name in network.classifiers]
    try:
        with _quiet():
            graph = tp.DependencyGraph().build_dependency(
                proxy, example_inputs=example, forward_fn=run
            )
    except Exception as error:  # torch-pruning fails in many ways on code it cannot trace
        return (), {"all layers": _reason(error)}
    layers = dict(network.named_modules())
    members: list[_Members] = []
    found_groups, unreadable = _dependency_groups(graph, names, classifiers)
    for items in found_groups:
        try:
            members.append(_with_grouped_inputs(layers, _members(graph, names, items)))
        except PruningError as error:
            unreadable[names[items[0].dep.target.module]] = str(error)
    found_names = group_names(layers, [found.outputs for found in members])
    groups = [_group(layers, found, name) for found, name in zip(members, found_names, strict=True)]
    return tuple(sorted(groups, key=lambda group: (-group.size, group.name))), unreadable


def _dependency_groups(
    graph: tp.DependencyGraph, names: Mapping[nn.Module, str], classifiers: Sequence[nn.Module]
) -> tuple[list[Any], dict[str, str]]:
    """Groups of torch-pruning's graph, and the layers of those that it fails on, with reasons.

    As its `get_all_groups`, which fails altogether where one group fails.
    """
    groups: list[Any] = []
    failed: dict[str, str] = {}
    visited = set(classifiers)
    for layer in list(graph.module2node):
        if not isinstance(layer, _LAYERS) or layer in visited:
            continue
        pruner = graph.get_pruner_of_module(layer)
        channels = list(range(pruner.get_out_channels(layer)))
        try:
            with _quiet():
                group = graph.get_pruning_group(layer, pruner.prune_out_channels, channels)
        except Exception as error:  # in many ways, as above
            failed[names[layer]] = _reason(error)
            continue
        losing = {d.target.module for d, _ in group if graph.is_out_channel_pruning_fn(d.handler)}
        visited |= losing
        if not losing & set(classifiers):
            groups.append(group)
    return groups, failed


def _reason(error: Exception) -> str:
    return f"torch-pruning cannot follow the model there ({first_line(error)})"


@dataclass(frozen=True)
class _Members:
    """Names of the layers of one group."""

    root: str
    width: int
    outputs: tuple[str, ...]
    norms: tuple[str, ...]
    inputs: tuple[str, ...]


def _members(graph: tp.DependencyGraph, names: dict[nn.Module, str], items: Any) -> _Members:
    root = names[items[0].dep.target.module]
    width = len(items[0].idxs)
    outputs, norms, inputs = [], [], []
    for dependency, indices in items:
        layer = dependency.target.module
        if not isinstance(layer, (*_LAYERS, *_NORMS)):
            continue
        name = names[layer]
        if list(indices) != list(range(width)):
            raise PruningError(f"{name} does not index the channels of {root} one to one")
        if isinstance(layer, _NORMS):
            norms.append(name)
        elif graph.is_out_channel_pruning_fn(dependency.handler):
            outputs.append(name)
        else:
            inputs.append(name)
    if not outputs:
        raise PruningError("its channels come from a layer of another kind than a convolution")
    return _Members(
        root,
        width,
        tuple(sorted(set(outputs))),
        tuple(sorted(set(norms))),
        tuple(sorted(set(inputs))),
    )


def _with_grouped_inputs(layers: Mapping[str, nn.Module], found: _Members) -> _Members:
    """Add grouped convolutions, depthwise ones in the proxy, to the layers that lose inputs."""
    grouped = {name for name in found.outputs if keeps_channels_in_groups(layers[name])}
    return replace(found, inputs=tuple(sorted({*found.inputs, *grouped})))


def _is_grouped(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups < layer.in_channels


def _group(layers: Mapping[str, nn.Module], found: _Members, name: str) -> Group:
    members = {*found.outputs, *found.norms, *found.inputs}
    producing = {*found.outputs, *found.norms}
    return Group(
        name=name,
        root=found.root,
        width=found.width,
        heads=_heads(layers, found),
        outputs=found.outputs,
        norms=found.norms,
        inputs=found.inputs,
        # A layer may lose inputs and outputs alike: it counts once.
        size=sum(
            parameter.numel()
            for layer in members
            for tail, parameter in layers[layer].named_parameters()
            if not (tail == "bias" and layer not in producing)
        ),
    )


def _heads(layers: Mapping[str, nn.Module], found: _Members) -> int:
    """Number of slices that keep equally many channels: heads, groups of grouped convolutions."""
    heads = 1
    for name in (*found.outputs, *found.inputs):
        role = role_of(layers, name) if name in found.outputs else None
        if role is not None:
            heads = math.lcm(heads, role[1].heads)
        if _is_grouped(layers[name]):
            heads = math.lcm(heads, cast(nn.Conv2d, layers[name]).groups)
    return heads


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch-pruning's warnings, which do not concern the proxy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
