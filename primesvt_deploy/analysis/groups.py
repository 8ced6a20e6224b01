"""Prunable groups, read from torch-pruning's dependency graph.

A group is the channels that must leave together: a residual stream, the q and k of an SSA, the
hidden width of an MLP. Source of the dependency graph: Fang et al., DepGraph (CVPR 2023).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from primesvt_deploy.errors import PruningError
from primesvt_deploy.families.base import Family, FamilyConfig

__all__ = ["Group", "find_groups", "trace_dependencies"]

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

    @property
    def unit(self) -> str:
        """The unit of the root layer."""
        return self.root.rpartition(".")[0]


def trace_dependencies(
    family: Family, module: nn.Module, config: FamilyConfig
) -> tuple[nn.Module, tp.DependencyGraph]:
    """A coupling twin of `module` and its dependency graph; `module` is not touched."""
    twin = family.coupling_twin(module).requires_grad_(True)
    example = torch.zeros(1, *config.input_shape, dtype=next(twin.parameters()).dtype)
    with _quiet():
        graph = tp.DependencyGraph().build_dependency(twin, example_inputs=example)
    return twin, graph


def find_groups(family: Family, module: nn.Module, config: FamilyConfig) -> tuple[Group, ...]:
    """All prunable groups of `module`, largest first (ties by name).

    The classifier's outputs and the image's channels are no group's.

    Raises:
        PruningError: the graph maps a channel to another index than its own.
    """
    twin, graph = trace_dependencies(family, module, config)
    names = {layer: name for name, layer in twin.named_modules()}
    classifiers = [twin.get_submodule(name) for name in family.classifiers]
    with _quiet():
        traced = list(graph.get_all_groups(ignored_layers=classifiers))
    groups = [_describe(family, config, graph, names, items) for items in traced]
    return tuple(sorted(groups, key=lambda group: (-group.size, group.name)))


def _describe(
    family: Family,
    config: FamilyConfig,
    graph: tp.DependencyGraph,
    names: dict[nn.Module, str],
    items: Any,
) -> Group:
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
    label, heads = family.group_label(config, outputs)
    layers = {name: layer for layer, name in names.items()}
    return Group(
        name=label,
        root=root,
        width=width,
        heads=heads,
        outputs=tuple(sorted(set(outputs))),
        norms=tuple(sorted(set(norms))),
        inputs=tuple(sorted(set(inputs))),
        # A layer may lose inputs and outputs alike: it counts once.
        size=sum(
            parameter.numel()
            for name in {*outputs, *norms, *inputs}
            for tail, parameter in layers[name].named_parameters()
            if not (tail == "bias" and name not in {*outputs, *norms})
        ),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch-pruning warns of things that do not concern the twin."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
