"""Prunable groups, read from torch-pruning's dependency graph.

A group is the channels that must leave together: a residual stream, the q and k of an SSA, the
hidden width of an MLP. Source of the dependency graph: Fang et al., DepGraph (CVPR 2023).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch_pruning as tp
from torch import nn

from primesvt_deploy.analysis.group_names import group_titles, role_of
from primesvt_deploy.errors import PruningError
from primesvt_deploy.families.coupling import coupling_twin, keeps_channels_in_groups
from primesvt_deploy.families.network import SpikingNetwork

__all__ = ["Group", "find_groups", "read_groups"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels that leave together.

    Args:
        name: for people, such as `blocks.0.mlp`.
        root: the layer whose output channels index the group.
        width: channels.
        heads: channels leave in equal numbers from each of so many equal slices; 1: no matter.
        outputs: layers that lose output channels.
        norms: batch norms that lose channels.
        inputs: layers that lose input channels.
        size: parameters that leave if all channels do.
    """

    name: str
    root: str
    width: int
    heads: int
    outputs: tuple[str, ...]
    norms: tuple[str, ...]
    inputs: tuple[str, ...]
    size: int


def find_groups(network: SpikingNetwork, input_shape: tuple[int, int, int]) -> tuple[Group, ...]:
    """All prunable groups of `network`, largest first (ties by name).

    The classifiers' outputs and the image's channels are no group's.

    Args:
        network: not touched.
        input_shape: (C, H, W).

    Raises:
        PruningError: the graph maps a channel to another index than its own.
    """
    groups, unreadable = read_groups(network, input_shape)
    for layer, reason in unreadable.items():
        raise PruningError(f"{layer}: {reason}")
    return groups


def read_groups(
    network: SpikingNetwork, input_shape: tuple[int, int, int]
) -> tuple[tuple[Group, ...], dict[str, str]]:
    """The groups of `find_groups`, and the layers whose groups cannot be read, with reasons."""
    twin, run = coupling_twin(network)
    twin.requires_grad_(True)
    example = torch.zeros(1, *input_shape, dtype=next(twin.parameters()).dtype)
    names = {layer: name for name, layer in twin.named_modules()}
    classifiers = [twin.get_submodule(name) for name in network.classifiers]
    try:
        with _quiet():
            graph = tp.DependencyGraph().build_dependency(
                twin, example_inputs=example, forward_fn=run
            )
    except Exception as error:  # torch-pruning fails in many ways on code it cannot follow
        return (), {"all layers": _lost(error)}
    layers = dict(network.named_modules())
    members: list[_Members] = []
    traced, unreadable = _traced(graph, names, classifiers)
    for items in traced:
        try:
            members.append(_with_grouped(layers, _members(graph, names, items)))
        except PruningError as error:
            unreadable[names[items[0].dep.target.module]] = str(error)
    titles = group_titles(layers, [found.outputs for found in members])
    groups = [
        _described(layers, found, title) for found, title in zip(members, titles, strict=True)
    ]
    return tuple(sorted(groups, key=lambda group: (-group.size, group.name))), unreadable


def _traced(
    graph: tp.DependencyGraph, names: Mapping[nn.Module, str], classifiers: Sequence[nn.Module]
) -> tuple[list[Any], dict[str, str]]:
    """torch-pruning's groups, and the layers of those that it fails on, with reasons.

    As its `get_all_groups`, which gives up altogether where one group fails.
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
            failed[names[layer]] = _lost(error)
            continue
        losing = {d.target.module for d, _ in group if graph.is_out_channel_pruning_fn(d.handler)}
        visited |= losing
        if not losing & set(classifiers):
            groups.append(group)
    return groups, failed


def _lost(error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return f"torch-pruning cannot follow the model there ({reason})"


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


def _with_grouped(layers: Mapping[str, nn.Module], found: _Members) -> _Members:
    """Grouped convolutions, which the twin has as depthwise ones, lose inputs with outputs."""
    grouped = {name for name in found.outputs if keeps_channels_in_groups(layers[name])}
    return replace(found, inputs=tuple(sorted({*found.inputs, *grouped})))


def _is_grouped(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups < layer.in_channels


def _described(layers: Mapping[str, nn.Module], found: _Members, title: str) -> Group:
    members = {*found.outputs, *found.norms, *found.inputs}
    producing = {*found.outputs, *found.norms}
    return Group(
        name=title,
        root=found.root,
        width=found.width,
        heads=_heads(layers, found),
        outputs=found.outputs,
        norms=found.norms,
        inputs=found.inputs,
        # A layer may lose inputs and outputs alike: it counts once.
        size=sum(
            parameter.numel()
            for name in members
            for tail, parameter in layers[name].named_parameters()
            if not (tail == "bias" and name not in producing)
        ),
    )


def _heads(layers: Mapping[str, nn.Module], found: _Members) -> int:
    """Equal slices that lose equally many channels: of attention, and of grouped convolutions."""
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
    """Torch-pruning warns of things that do not concern the twin."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
