"""Record the forward pass of a user's module as a graph of layers and tensor operations.

A module's code may hold the sizes of its tensors: in attributes (`self.dim`), in what it unpacks
from `x.shape`, in a pattern of `einops`. In the graph all of them are numbers in the arguments of
operations, where they can be changed with the widths of the layers. Recording runs the module on
two batches of different size: whatever number is in proportion to the size becomes that.
"""

from __future__ import annotations

import copy
import operator
import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import fx, nn

from primesvt_deploy.families.recorded_calls import (
    KEEPS_CHANNELS,
    Attribute,
    Call,
    Ref,
    Run,
    UnrecordableError,
    run,
)

__all__ = ["KEEPS_CHANNELS", "UnrecordableError", "record", "replay", "running_owner"]

_OWNER = "owner"
_owner: ContextVar[str] = ContextVar("owner", default="")
_MANY, _SEVERAL = 33, 5
"""Sizes of a large batch: of shapes alone, and of values."""


def record(
    net: nn.Module,
    batch: Callable[[int], torch.Tensor],
    axis: int,
    output: Callable[[Any], torch.Tensor],
) -> tuple[fx.Graph, tuple[str, ...]]:
    """Record the forward pass of `net` as a graph that computes the same for any batch size.

    Args:
        net: in evaluation mode, its neurons replaced by `Neuron`s; not changed.
        batch: makes an input of that many samples.
        axis: of the input, along which samples lie.
        output: takes the tensor that matters out of what the module returns.

    Returns:
        The graph, and the names of tensors of `net` whose values the code reads: these are in it
        as numbers.

    Raises:
        UnrecordableError: it cannot be recorded, or calls differ between two batches.
    """
    # Sizes that a channel count is unlikely to be in proportion to, one as the other.
    # Copies, as the code may keep a state.
    few, more = (run(copy.deepcopy(net), batch(count), output) for count in (2, 3))
    if len(few.calls) != len(more.calls):
        raise UnrecordableError("it takes another way for another batch")
    _check_large_batch(net, batch, output, few)
    return _Writer(few, more, axis).graph, tuple(sorted(few.read | more.read))


def _check_large_batch(
    net: nn.Module,
    batch: Callable[[int], torch.Tensor],
    output: Callable[[Any], torch.Tensor],
    few: Run,
) -> None:
    """Compare the calls with those of a large batch, which code may take in parts."""
    try:  # shapes alone, where the code allows that
        count = _MANY
        many = run(copy.deepcopy(net).to("meta"), batch(count).to("meta"), output)
    except Exception:
        count = _SEVERAL
        many = run(copy.deepcopy(net), batch(count), output)
    same = len(few.calls) == len(many.calls) and all(
        first.target == other.target
        and first.returned == other.returned
        and _agree((first.args, first.kwargs), (other.args, other.kwargs), count)
        for first, other in zip(few.calls, many.calls, strict=True)
    )
    if not same:
        raise UnrecordableError("it takes another way for a larger batch")


def _agree(first: Any, other: Any, count: int) -> bool:
    """Whether arguments for 2 samples and for `count` are the same, or in proportion."""
    if type(first) is not type(other):
        return False
    if isinstance(first, tuple | list):
        pairs = zip(first, other, strict=False)
        return len(first) == len(other) and all(_agree(a, b, count) for a, b in pairs)
    if isinstance(first, dict):
        return first.keys() == other.keys() and all(
            _agree(first[key], other[key], count) for key in first
        )
    if isinstance(first, slice):
        bounds = ((first.start, other.start), (first.stop, other.stop), (first.step, other.step))
        return all(_agree(a, b, count) for a, b in bounds)
    proportional = type(first) is int and first % 2 == 0 and first * count == other * 2
    return isinstance(first, torch.device) or proportional or bool(first == other)


class _Writer:
    """Writes two runs of the same calls as one graph."""

    def __init__(self, few: Run, more: Run, axis: int) -> None:
        self.graph = fx.Graph()
        self._x = self.graph.placeholder("x")
        self._nodes: dict[int, fx.Node] = {0: self._x}
        self._axis = axis
        self._size: fx.Node | None = None
        self._dtype, self._device = few.tensors[0].dtype, few.tensors[0].device
        for first, second in zip(few.calls, more.calls, strict=True):
            self._write(first, second)
        assert few.output is not None
        if few.output != more.output:
            raise UnrecordableError("it takes another way for another batch")
        self.graph.output(self._nodes[few.output.number])
        self._drop_unused()
        self.graph.lint()

    def _drop_unused(self) -> None:
        """Leave out what does not reach the output, and changes nothing in place."""
        for node in reversed(list(self.graph.nodes)):
            if node.op not in ("call_function", "get_attr") or node.users:
                continue
            name = getattr(node.target, "__name__", "")
            in_place = name.strip("_") == "setitem" or re.fullmatch(r"__i\w+__|\w*[^_]_", name)
            if not in_place:
                self.graph.erase_node(node)

    def _write(self, first: Call, second: Call) -> None:
        if first.target != second.target or first.returned != second.returned:
            raise UnrecordableError("it takes another way for another batch")
        args, kwargs = self._of(first.args, second.args), self._of(first.kwargs, second.kwargs)
        if isinstance(first.target, str):
            node = self.graph.call_module(first.target, args, kwargs)
        else:
            node = self.graph.call_function(first.target, args, kwargs)
        node.meta[_OWNER] = first.owner
        if isinstance(first.returned, Ref):
            self._nodes[first.returned.number] = node
        for index, ref in enumerate(first.returned if isinstance(first.returned, tuple) else ()):
            if ref is not None:
                self._nodes[ref.number] = self.graph.call_function(operator.getitem, (node, index))

    def _of(self, first: Any, second: Any) -> Any:
        """An argument of both runs: a node, or a number that they share."""
        if type(first) is not type(second):
            raise UnrecordableError("it takes another way for another batch")
        if isinstance(first, tuple | list):
            if len(first) != len(second):
                raise UnrecordableError("it takes another way for another batch")
            return type(first)(self._of(a, b) for a, b in zip(first, second, strict=True))
        if isinstance(first, dict):
            return {key: self._of(first[key], second[key]) for key in first}
        if isinstance(first, slice):
            bounds = ("start", "stop", "step")
            return slice(*(self._of(getattr(first, b), getattr(second, b)) for b in bounds))
        return self._of_one(first, second)

    def _of_one(self, first: Any, second: Any) -> Any:
        if isinstance(first, Ref) and first == second:
            return self._nodes[first.number]
        if isinstance(first, Attribute) and first == second:
            return self.graph.get_attr(first.name)
        if first == second:
            if isinstance(first, torch.dtype) and first == self._dtype:
                return self.graph.call_function(getattr, (self._x, "dtype"))
            if isinstance(first, torch.device) and first == self._device:
                return self.graph.call_function(getattr, (self._x, "device"))
            return first
        if type(first) is int and first % 2 == 0 and first * 3 == second * 2:
            if self._size is None:
                with self.graph.inserting_after(self._x):
                    self._size = self.graph.call_method("size", (self._x, self._axis))
            # One node for each use: its factor may hold a width.
            return self.graph.call_function(operator.mul, (self._size, first // 2))
        raise UnrecordableError("a value in it depends on the batch in another way than its size")


def replay(net: nn.Module, graph: fx.Graph, x: torch.Tensor) -> torch.Tensor:
    """Run a recorded forward pass.

    Args:
        net: the module that was recorded, or one like it with other weights and widths.
        graph: of `record`.
        x: input.
    """
    interpreter = _Replay(net, graph=graph)
    interpreter.extra_traceback = False
    result: torch.Tensor = interpreter.run(x)
    return result


class _Replay(fx.Interpreter):
    """Runs a graph, and says of what module each operation is."""

    def run_node(self, n: fx.Node) -> Any:
        token = _owner.set(n.meta.get(_OWNER, ""))
        try:
            return super().run_node(n)
        finally:
            _owner.reset(token)


def running_owner() -> str:
    """Name of the module of whose code an operation runs in `replay` now; "": the outermost."""
    return _owner.get()
