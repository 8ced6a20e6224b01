"""Numbers in a recorded graph that count channels, and so change when channels leave."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx
from torch.fx.node import map_aggregate

from primesvt_deploy.analysis.channel_labels import varying_axes
from primesvt_deploy.analysis.channel_rules import operation_name
from primesvt_deploy.analysis.channel_trace import ChannelTrace

__all__ = ["Counted", "Size", "counted_channels"]


_CREATING = {"zeros", "ones", "empty", "full", "new_zeros", "new_ones", "new_empty", "new_full"}


@dataclass(frozen=True)
class Size:
    """A number in the arguments of an operation that counts channels of a group.

    Args:
        node: name of the operation in the graph.
        leaf: position among all leaves of its arguments.
        channels: channels of the group that it counts; one may count several times.
        sign: -1 where it counts from the end of an axis, and so is negative.
    """

    node: str
    leaf: int
    channels: tuple[int, ...]
    sign: int = 1


@dataclass(frozen=True)
class Counted:
    """The same, of any channels, by their numbers in a trace."""

    node: str
    leaf: int
    numbers: torch.Tensor
    sign: int = 1


def counted_channels(
    trace: ChannelTrace, graph: fx.Graph, shrinking: Callable[[torch.Tensor], int]
) -> list[Counted]:
    """All numbers of a graph that count channels.

    Args:
        trace: of the graph.
        graph: recorded.
        shrinking: the axis along which a tensor with this plane becomes shorter.
    """
    reader = _Reader(trace, shrinking)
    return [counted for node in graph.nodes for counted in reader.read(node)]


class _Reader:
    """Finds the numbers in an operation's arguments that count channels."""

    def __init__(self, trace: ChannelTrace, shrinking: Callable[[torch.Tensor], int]) -> None:
        self._trace, self._shrinking = trace, shrinking

    def read(self, node: fx.Node) -> Iterator[Counted]:
        if node.op != "call_function":
            return
        name = operation_name(node)
        if name in _CREATING:
            yield from self._created(node, name)
        if not node.args or not isinstance(node.args[0], fx.Node):
            return
        if name in ("reshape", "view", "expand", "broadcast_to"):
            rest = node.args[1:]
            if len(rest) == 1 and isinstance(rest[0], tuple | list):
                yield from self._shape(node, (1,), 0, len(rest[0]))
            elif rest:
                yield from self._shape(node, (), 1, len(rest))
            elif "shape" in node.kwargs:
                yield from self._shape(node, ("shape",), 0, len(node.kwargs["shape"]))  # type: ignore[arg-type]
        elif name == "unflatten" and len(node.args) == 3:
            dim = int(node.args[1]) % len(self._trace.shapes[node.args[0]])  # type: ignore[arg-type]
            yield from self._shape(node, (2,), 0, len(node.args[2]), dim)  # type: ignore[arg-type]
        elif node.target is torch.split:
            yield from self._parts(node)
        elif name in ("getitem", "setitem") and node.args[0] in self._trace.shapes:
            yield from self._slices(node)
        elif name == "narrow" and len(node.args) == 4:
            axis, start, length = (int(value) for value in node.args[1:])  # type: ignore[arg-type]
            fibre = self._fibre(self._trace.planes[node.args[0]], axis)
            if fibre is not None:
                yield from self._counted(node, (2,), fibre[:start])
                yield from self._counted(node, (3,), fibre[start : start + length])

    def _created(self, node: fx.Node, name: str) -> Iterator[Counted]:
        """Sizes of a tensor that is made in the code, and into which channels are written."""
        first = 1 if name.startswith("new_") else 0
        rest = node.args[first:]
        if "size" in node.kwargs:
            yield from self._shape(node, ("size",), 0, len(node.kwargs["size"]))  # type: ignore[arg-type]
        elif rest and isinstance(rest[0], tuple | list):
            yield from self._shape(node, (first,), 0, len(rest[0]))
        else:
            yield from self._shape(node, (), first, len(rest))

    def _shape(
        self,
        node: fx.Node,
        path: tuple[int | str, ...],
        first: int,
        count: int,
        axis: int = 0,
    ) -> Iterator[Counted]:
        """Sizes of the result's axes, `axis` and those after it, in `count` arguments."""
        for index in range(count):
            fibre = self._fibre(self._trace.planes[node], axis + index)
            if fibre is not None:
                yield from self._counted(node, (*path, first + index), fibre)

    def _parts(self, node: fx.Node) -> Iterator[Counted]:
        axis = int(node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0))  # type: ignore[arg-type]
        parts = self._trace.planes[node]
        if isinstance(parts, list) and isinstance(node.args[1], tuple | list):
            for index, planes in enumerate(parts):
                fibre = self._fibre(planes, axis)
                if fibre is not None:
                    yield from self._counted(node, (1, index), fibre)

    def _slices(self, node: fx.Node) -> Iterator[Counted]:
        index = node.args[1]
        items = list(index) if isinstance(index, tuple | list) else [index]
        path: tuple[int | str, ...] = (1,)
        whole = cast(fx.Node, node.args[0])
        planes, ndim = self._trace.planes[whole], len(self._trace.shapes[whole])
        axis = 0
        for place, item in enumerate(items):
            if item is Ellipsis:
                axis = ndim - sum(other is not None for other in items[place + 1 :])
                continue
            if item is None:
                continue
            if isinstance(item, slice):
                fibre = self._fibre(planes, axis)
                own = (*path, place) if isinstance(index, tuple | list) else path
                for bound in ("start", "stop") if fibre is not None and not item.step else ():
                    value = getattr(item, bound)
                    if type(value) is int and fibre is not None:
                        before = fibre[:value] if value >= 0 else fibre[value:]
                        yield from self._counted(node, (*own, bound), before, bounds=True)
            axis += 1

    def _fibre(self, planes: Any, axis: int) -> torch.Tensor | None:
        """Channels along an axis, where the tensor becomes shorter along it."""
        for plane in planes if isinstance(planes, tuple) else ():
            at = axis % plane.ndim
            if at in varying_axes(plane) and self._shrinking(plane) == at:
                found: torch.Tensor = plane.movedim(at, 0).reshape(plane.shape[at], -1)[:, 0]
                return found
        return None

    def _counted(
        self,
        node: fx.Node,
        path: Sequence[int | str],
        numbers: torch.Tensor,
        *,
        bounds: bool = False,
    ) -> Iterator[Counted]:
        """The number at `path`, if it counts these channels; -1 among sizes means the rest."""
        value: Any = (node.args, node.kwargs)
        leaf: Any = _numbered(node)
        where = (1, *path) if isinstance(path[0], str) else (0, *path)
        for step in where:
            value, leaf = _step(value, step), _step(leaf, step)
        if isinstance(value, fx.Node) and value.target is operator.mul:
            yield from self._counted(value, (1,), numbers)  # in proportion to the batch
        elif type(value) is int and abs(value) == len(numbers) and (bounds or value != -1):
            yield Counted(node.name, int(leaf), numbers, 1 if value >= 0 else -1)


def _step(value: Any, step: int | str) -> Any:
    return getattr(value, str(step)) if isinstance(value, slice) else value[step]


def _numbered(node: fx.Node) -> Any:
    """The node's arguments with each leaf replaced by its position among all."""
    count = iter(range(10**9))
    return map_aggregate((node.args, node.kwargs), lambda _: next(count))
