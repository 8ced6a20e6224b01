"""Prunable groups of an adopted network, from the channels followed through its graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import torch
from torch import fx, nn

from primesvt_deploy.analysis.channel_labels import NO_CHANNEL, compressed, varying_axes
from primesvt_deploy.analysis.channel_trace import ChannelTrace, trace_channels
from primesvt_deploy.analysis.groups import Group, Member
from primesvt_deploy.analysis.sizes import Counted, Size, counted_channels

__all__ = ["traced_groups"]

_OF_A_PARAMETER = "axis "


@dataclass
class _Bundle:
    """Channels that leave together: in which places of which layers they stand."""

    places: dict[Member, list[int]] = field(default_factory=dict)

    @property
    def kind(self) -> tuple[tuple[Member, int], ...]:
        """Members, and the places in each: bundles of one kind are a group."""
        return tuple(sorted((member, len(found)) for member, found in self.places.items()))


def traced_groups(
    net: nn.Module,
    graph: fx.Graph,
    sample: torch.Tensor,
    prefix: str,
    read: Sequence[str] = (),
) -> tuple[tuple[Group, ...], dict[str, str]]:
    """The groups of a recorded module, and the layers whose channels stay, with reasons.

    Args:
        net: the module.
        graph: of its forward pass.
        sample: a batch of one, as it takes it.
        prefix: of the names of its layers in the network.
        read: names of tensors whose values the code reads: no channel of theirs leaves.
    """
    trace = trace_channels(net, graph, sample)
    for name in read:
        trace.fix_tensor(name, f"the code reads values of {name}")
    while True:
        grouping = _Grouping(trace)
        if not grouping.tie_unlike():
            break
    reasons: dict[int, str] = {}
    for number, reason in trace.channels.fixed.items():
        reasons.setdefault(trace.channels.root(number), reason)
    counted = counted_channels(trace, graph, grouping.shrinking_axis)
    counted = [Counted(c.node, c.leaf, trace.channels.roots(c.numbers), c.sign) for c in counted]
    groups, left = [], {}
    for roots in grouping.by_kind():
        members = grouping.bundles[roots[0]].places
        layers = [name for side, name in members if side == "out"]
        if not layers:
            continue
        order, heads, unequal = grouping.ordered(roots)
        fixed = next((reasons[root] for root in roots if root in reasons), None)
        if fixed is not None or unequal:
            left[layers[0]] = fixed or "their heads are of unequal width"
            continue
        bundles = [grouping.bundles[root] for root in order]
        sizes = _sizes(counted, {root: index for index, root in enumerate(order)})
        groups.append(_group(net, prefix, bundles, heads, sizes))
    groups = _with_distinct_names(groups)
    return tuple(sorted(groups, key=lambda group: (-group.size, group.name))), left


def _with_distinct_names(groups: Sequence[Group]) -> list[Group]:
    """Tell groups of one layer, such as a fused q, k and v, apart by their channels in it."""
    count = Counter(group.name for group in groups)
    named = []
    for group in groups:
        own = group.at(("out", group.root), range(group.width))
        part = f"[{min(own)}:{max(own) + 1}]" if count[group.name] > 1 else ""
        named.append(replace(group, name=f"{group.name}{part}"))
    return named


class _Grouping:
    """Bundles of a trace as it is, and how tensors hold them."""

    def __init__(self, trace: ChannelTrace) -> None:
        self._trace = trace
        self.bundles: dict[int, _Bundle] = {}
        for member, numbers in _members(trace):
            for place, number in enumerate(trace.channels.roots(numbers).tolist()):
                if number != NO_CHANNEL:
                    bundle = self.bundles.setdefault(number, _Bundle())
                    bundle.places.setdefault(member, []).append(place)
        self._kinds = {root: bundle.kind for root, bundle in self.bundles.items()}
        self._axes: dict[object, int] = {}

    def by_kind(self) -> list[list[int]]:
        """Roots of each group."""
        kinds: dict[object, list[int]] = {}
        for root, kind in self._kinds.items():
            kinds.setdefault(kind, []).append(root)
        return list(kinds.values())

    def tie_unlike(self) -> bool:
        """Join channels of unlike kinds that a tensor keeps equally many of, as q and v of qkv.

        A tensor whose channels lie along several axes stays a block only if each of its rows keeps
        as many. Rows of one kind are heads, which may keep different ones.

        Returns:
            Whether any were joined.
        """
        before = len(self.bundles)
        for plane in self._wide_planes:
            alike: dict[object, dict[tuple[int, ...], None]] = {}
            for row in self._rows(plane).tolist():
                kinds = tuple(self._kinds.get(number) for number in row)
                alike.setdefault(kinds, {})[tuple(row)] = None
            first, *others = (torch.tensor(list(rows)) for rows in alike.values())
            for rows in others:
                # Head by head where each kind has as many, else all with one another.
                heads = first if rows.shape == first.shape else first[:1]
                self._trace.channels.join(heads, rows)
                if heads is not first:
                    self._trace.channels.join(heads, first)
        roots = {self._trace.channels.root(root) for root in self.bundles}
        return len(roots) < before

    def shrinking_axis(self, plane: torch.Tensor) -> int:
        """The axis along which a tensor becomes shorter when channels leave.

        It is the last one along which channels of one kind lie, but for those that products treat
        as heads.
        """
        axes = varying_axes(plane)
        if len(axes) == 1:
            return axes[0]
        roots = self._trace.channels.roots(plane)
        # Along an axis of channels that are joined, as q, k and v may be, none can leave.
        axes = varying_axes(compressed(roots)) or axes
        key = (plane.shape, roots.numpy().tobytes())
        if key not in self._axes:
            self._axes[key] = next(
                (axis for axis in reversed(axes) if self._alike(roots, axis)), axes[-1]
            )
        return self._axes[key]

    def _alike(self, roots: torch.Tensor, axis: int) -> bool:
        """Whether the channels along an axis are of one kind and of one head."""
        rows = roots.movedim(axis, -1).reshape(-1, roots.shape[axis]).tolist()
        return all(
            len({(self._kinds.get(n), self._heads.get(n)) for n in row}) == 1 for row in rows
        )

    @cached_property
    def _heads(self) -> dict[int, tuple[int, int]]:
        """Head into which a product puts a channel: the product and the position in it."""
        found: dict[int, tuple[int, int]] = {}
        for product, rows in enumerate(self._products):
            for head, row in enumerate(rows.tolist()):
                for number in row:
                    found.setdefault(number, (product, head))
        return found

    @cached_property
    def _products(self) -> list[torch.Tensor]:
        """Roots of the channels of each head, `[heads, channels]`, of each product."""
        return [
            self._trace.channels.roots(
                plane.movedim(axes, tuple(range(len(axes)))).flatten(0, len(axes) - 1).flatten(1)
            )
            for plane, axes in self._trace.heads
        ]

    @cached_property
    def _wide_planes(self) -> list[torch.Tensor]:
        """Planes whose channels lie along several axes, each once."""
        found: dict[object, torch.Tensor] = {}
        for planes in self._trace.planes.values():
            for each in planes if isinstance(planes, list) else [planes]:
                for plane in each:
                    if len(varying_axes(plane)) > 1:
                        found.setdefault((plane.shape, plane.numpy().tobytes()), plane)
        return list(found.values())

    def _rows(self, plane: torch.Tensor) -> torch.Tensor:
        """Rows of a plane along the axis that shrinks, as roots."""
        axis = self.shrinking_axis(plane)
        roots = self._trace.channels.roots(plane)
        return roots.movedim(axis, -1).reshape(-1, plane.shape[axis])

    @cached_property
    def _partitions(self) -> list[dict[int, int]]:
        """For each tensor or product with heads, the head of each root in it."""
        rows = [*self._products, *(self._rows(plane) for plane in self._wide_planes)]
        return [{n: index for index, row in enumerate(each.tolist()) for n in row} for each in rows]

    def ordered(self, roots: Sequence[int]) -> tuple[list[int], int, bool]:
        """Bundles of a group, head after head; number of heads; whether these are unequal."""
        own = set(roots)
        keys: dict[int, list[int]] = {root: [] for root in roots}
        for heads in self._partitions:
            if own <= heads.keys() and len({heads[root] for root in roots}) > 1:
                for root in roots:
                    keys[root].append(heads[root])
        slices = Counter(tuple(key) for key in keys.values())
        order = sorted(roots, key=lambda root: (keys[root], self.bundles[root].kind, root))
        return order, len(slices), len(set(slices.values())) > 1


def _members(trace: ChannelTrace) -> Iterator[tuple[Member, torch.Tensor]]:
    sides = (("out", trace.produced), ("norm", trace.normed), ("in", trace.consumed))
    for side, found in sides:
        for name, numbers in found.items():
            yield (side, name), numbers
    for (name, axis), numbers in trace.parameters.items():
        yield (f"{_OF_A_PARAMETER}{axis}", name), numbers


def _sizes(counted: Sequence[Counted], numbers: Mapping[int, int]) -> tuple[Size, ...]:
    """Numbers of the graph that count channels of the group with these roots."""
    found = []
    for each in counted:
        channels = tuple(numbers[n] for n in each.numbers.tolist() if n in numbers)
        if channels:
            found.append(Size(each.node, each.leaf, channels, each.sign))
    return tuple(found)


def _group(
    net: nn.Module, prefix: str, bundles: Sequence[_Bundle], heads: int, sizes: tuple[Size, ...]
) -> Group:
    members = list(bundles[0].places)
    places: dict[Member, tuple[tuple[int, ...], ...]] = {}
    total = 0
    for side, name in members:
        each = tuple(tuple(bundle.places[side, name]) for bundle in bundles)
        width, numel = _extent(net, side, name)
        if each != tuple((i,) for i in range(width)):
            places[side, prefix + name] = each
        total += sum(map(len, each)) * numel // width
    sides = {
        side: tuple(sorted(prefix + name for s, name in members if s == side))
        for side in ("out", "norm", "in")
    }
    first = min(sides["out"], key=list(f"{prefix}{n}" for n, _ in net.named_modules()).index)
    others = len(sides["out"]) - 1
    title = first.removeprefix(prefix)
    return Group(
        name=f"{title} and {others} more" if others else title,
        root=first,
        width=len(bundles),
        heads=heads,
        outputs=sides["out"],
        norms=sides["norm"],
        inputs=sides["in"],
        size=total,
        places=places,
        parameters=tuple(
            (prefix + name, int(side.removeprefix(_OF_A_PARAMETER)))
            for side, name in members
            if side.startswith(_OF_A_PARAMETER)
        ),
        sizes=sizes,
    )


def _extent(net: nn.Module, side: str, name: str) -> tuple[int, int]:
    """Number of a member's channels, and of the parameters that they are shared among."""
    if side.startswith(_OF_A_PARAMETER):
        owner, _, tail = name.rpartition(".")
        tensor: torch.Tensor = getattr(net.get_submodule(owner), tail)
        return tensor.shape[int(side.removeprefix(_OF_A_PARAMETER))], tensor.numel()
    layer = net.get_submodule(name)
    own = [parameter.numel() for parameter in layer.parameters(recurse=False)]
    weight = getattr(layer, "weight", None)
    if side == "norm":
        return int(cast(nn.BatchNorm2d, layer).num_features), sum(own)
    assert isinstance(weight, torch.Tensor)
    groups = int(getattr(layer, "groups", 1))
    if side == "in":
        depthwise = groups == weight.shape[1] * groups == weight.shape[0] and groups > 1
        return weight.shape[1] * groups, 0 if depthwise else weight.numel()
    return weight.shape[0], sum(own)
