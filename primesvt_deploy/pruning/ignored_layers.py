"""Layers that must keep all their channels, by name or pattern."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from torch import nn

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.families.adopted import AdoptedNetwork
from primesvt_deploy.pruning.group_check import OWN_MODULE, Prunable

__all__ = ["idle_patterns", "without_ignored"]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_MOST_NAMED = 5


def without_ignored(network: nn.Module, found: Prunable, patterns: Sequence[str]) -> Prunable:
    """The groups of a network without those that a pattern names.

    A pattern is a name, in which `*`, `?` and `[...]` stand for others (`fnmatch`): of a group, or
    where it is of none, of a layer or of a module around layers. Groups of a user's own module have
    names of layers: there it may be of any. A layer keeps its output channels, and so do all layers
    of its group.

    Args:
        network: whose groups these are.
        found: its groups, and what is left already.
        patterns: none: nothing changes.

    Raises:
        SettingsError: a pattern fits nothing; names what is nearest.
    """
    names = _names(network, found.groups)
    for pattern in patterns:
        if not _fits(names, pattern):
            raise SettingsError(
                f"there is no layer {pattern!r} to ignore: expected one such as "
                f"{', '.join(_nearest(pattern, names))}; change --ignore"
            )
    kept: list[Group] = []
    left = dict(found.left)
    groups = _own_names(network, found)
    for group in found.groups:
        found_by = next((p for p in patterns if _means(p, group, groups)), None)
        if found_by is None:
            kept.append(group)
        else:
            left[group.name] = f"--ignore {found_by}"
    return replace(found, groups=tuple(kept), left=left)


def idle_patterns(network: nn.Module, found: Prunable, patterns: Sequence[str]) -> list[str]:
    """The patterns that keep nothing which pruning could take: their layers lose no channels.

    Args:
        network: whose groups these are.
        found: its groups before any is left out.
        patterns: as `without_ignored` takes them.
    """
    groups = _own_names(network, found)
    return [p for p in patterns if not any(_means(p, group, groups) for group in found.groups)]


def _own_names(network: nn.Module, found: Prunable) -> set[str]:
    """Names of groups that are not also names of layers."""
    if isinstance(network, AdoptedNetwork):
        return set()
    return {group.name for group in found.groups}


def _means(pattern: str, group: Group, groups: Collection[str]) -> bool:
    """Whether a pattern names a group, or, if it names no group, one of its layers."""
    names = [group.name] if _fits(groups, pattern) else {group.name, *_layers(group)}
    return _fits(names, pattern)


def _names(network: nn.Module, groups: Iterable[Group]) -> set[str]:
    """Every name that a pattern may mean."""
    layers = [name for name, module in network.named_modules() if isinstance(module, _LAYERS)]
    around = {name for layer in layers for name in _around(layer)}
    return around | {group.name for group in groups}


def _layers(group: Group) -> set[str]:
    """Layers that lose output channels with the group, and the modules around them."""
    return {name for layer in group.outputs for name in _around(layer)}


def _around(layer: str) -> list[str]:
    """A layer's name and those of the modules around it."""
    parts = layer.removeprefix(OWN_MODULE).split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _fits(names: Collection[str], pattern: str) -> bool:
    # A name may hold brackets itself, such as of the group `qkv[0:32]`.
    return pattern in names or any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _nearest(pattern: str, names: Collection[str]) -> list[str]:
    plain = pattern.replace("*", "").replace("?", "")
    near = difflib.get_close_matches(plain, sorted(names), n=_MOST_NAMED, cutoff=0.5)
    return near or sorted(names, key=lambda name: (name.count("."), name))[:_MOST_NAMED]
