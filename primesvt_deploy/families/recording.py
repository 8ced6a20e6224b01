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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from primesvt_deploy.families.blocks.neuron import Neuron

__all__ = ["KEEPS_CHANNELS", "UnrecordableError", "record", "replay", "running_owner"]

KEEPS_CHANNELS = "keeps_channels"
"""Attribute by which a user's module says that each channel of its result depends on one alone."""
_OWNER = "owner"
_owner: ContextVar[str] = ContextVar("owner", default="")
_LIBRARIES = ("torch.", "spikingjelly.")
_OPENED = (nn.Unflatten, nn.Flatten)
"""Layers whose sizes must stand in the graph."""
_MANY, _SEVERAL = 33, 5
"""Sizes of a large batch: of shapes alone, and of values."""
_NARROW = ("input", "dim", "start", "length")
_ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
_OF_TWO = {"matmul", "bmm", "mm"}
_READS = {"__bool__", "__int__", "__float__", "__index__", "item", "tolist", "numpy", "__array__"}


class UnrecordableError(Exception):
    """The code does something that no graph of tensor operations holds; says what."""


@dataclass(frozen=True)
class _Ref:
    """A tensor of a recorded run, by number."""

    number: int


@dataclass(frozen=True)
class _Attribute:
    """A parameter or buffer of the module, by name."""

    name: str


@dataclass(frozen=True)
class _Call:
    """One call of a layer (a name) or of a function, and the tensors that it returned.

    Args:
        target: what was called.
        args: tensors among them as `_Ref` or `_Attribute`.
        kwargs: the same.
        returned: the tensors.
        owner: name of the module whose code called it.
    """

    target: str | Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    returned: _Ref | tuple[_Ref | None, ...] | None
    owner: str


@dataclass
class _Run:
    """Calls of one run of a module, in order.

    Args:
        names: of its layers, parameters and buffers, by identity.
        calls: in order.
        output: the tensor that it returned.
        from_input: numbers of the tensors that depend on the input.
        owners: names of the modules whose code runs, outermost first.
        made_of: names of the module's tensors that each tensor is computed of, by number.
        read: names of those whose values the code took into Python.
    """

    names: dict[int, str]
    calls: list[_Call] = field(default_factory=list)
    output: _Ref | None = None
    refs: dict[int, _Ref] = field(default_factory=dict)
    tensors: list[torch.Tensor] = field(default_factory=list)
    from_input: set[int] = field(default_factory=set)
    owners: list[str] = field(default_factory=lambda: [""])
    made_of: dict[int, frozenset[str]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def new(self, tensor: torch.Tensor) -> _Ref:
        """A number for a tensor, which is kept, so that its identity is not given to another."""
        self.tensors.append(tensor)
        ref = _Ref(len(self.tensors) - 1)
        self.refs[id(tensor)] = ref
        return ref

    def add(self, target: str | Callable[..., Any], args: Any, kwargs: Any, result: Any) -> None:
        """Record a call, unless it returns no tensor."""
        changes = getattr(target, "__name__", "") == "__setitem__"
        several = isinstance(result, tuple | list)
        items = list(result) if several else [result]
        if not changes and not any(isinstance(item, torch.Tensor) for item in items):
            return
        # Arguments first: an operation in place returns the tensor that it takes.
        given = (self._of(tuple(args)), self._of(dict(kwargs)))
        refs = [leaf for leaf in tree_leaves(given) if isinstance(leaf, _Ref)]
        new = tuple(self.new(i) if isinstance(i, torch.Tensor) else None for i in items)
        sources = frozenset().union(*map(self._sources, tree_leaves(given)))
        self.made_of.update((ref.number, sources) for ref in new if ref is not None)
        if any(ref.number in self.from_input for ref in refs):
            self.from_input |= {ref.number for ref in (*new, *refs[:changes]) if ref is not None}
        returned = None if changes else new if several else new[0]
        self.calls.append(_Call(target, *given, returned, self.owners[-1]))

    def is_constant(self, tensor: Any) -> bool:
        """Whether a tensor is of the module's own, or computed of such alone."""
        ref = self.refs.get(id(tensor))
        return id(tensor) in self.names if ref is None else ref.number not in self.from_input

    def note_read(self, tensor: torch.Tensor) -> None:
        """Note the module's tensors whose values the code takes into Python."""
        self.read |= self._sources(self._of(tensor))

    def _sources(self, leaf: Any) -> frozenset[str]:
        if isinstance(leaf, _Attribute):
            return frozenset((leaf.name,))
        return self.made_of.get(leaf.number, frozenset()) if isinstance(leaf, _Ref) else frozenset()

    def _of(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) in self.refs:
                return self.refs[id(value)]
            if id(value) in self.names:
                return _Attribute(self.names[id(value)])
            raise UnrecordableError(
                "it uses a tensor that is no parameter or buffer of it, or that a script computed"
            )
        if isinstance(value, tuple | list):
            return (
                type(value)(map(self._of, value))
                if type(value) in (tuple, list)
                else tuple(map(self._of, value))
            )
        if isinstance(value, dict):
            return {key: self._of(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(self._of(value.start), self._of(value.stop), self._of(value.step))
        return value


class _Recorder(TorchFunctionMode):
    """Records calls of torch functions, and of layers as wholes."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self.run, self.inside_layer = run, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside_layer:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in _READS:
            if self.run.is_constant(args[0]):
                self.run.note_read(args[0])
                return func(*args, **kwargs)
            raise UnrecordableError("it reads a value out of a tensor")
        if name == "__iter__":
            return iter(self._recorded(torch.unbind, (args[0],), {}))
        if name == "__get__":
            attribute = getattr(func, "__self__", None)
            return self._recorded(getattr, (args[0], getattr(attribute, "__name__", "")), {})
        return self._recorded(*_normalised(func, args, kwargs))

    def _recorded(self, func: Any, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        self.run.add(func, args, kwargs, result)
        return result

    @contextmanager
    def layers_as_wholes(self) -> Iterator[None]:
        """Have layers of torch, SpikingJelly and this package recorded as one call each."""
        call = nn.Module.__call__

        def recorded(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self.inside_layer:
                return call(module, *args, **kwargs)
            if not _is_whole(module):
                owners = self.run.owners
                owners.append(self.run.names.get(id(module), owners[-1]))
                try:
                    return call(module, *args, **kwargs)
                finally:
                    owners.pop()
            self.inside_layer = True
            try:
                result = call(module, *args, **kwargs)
            finally:
                self.inside_layer = False
            if id(module) not in self.run.names:
                raise UnrecordableError(f"it makes a layer ({type(module).__name__}) as it runs")
            self.run.add(self.run.names[id(module)], args, kwargs, result)
            return result

        with mock.patch.object(nn.Module, "__call__", recorded), self:
            yield


def _normalised(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """A call in the form that is recorded.

    `chunk` and `split` become a split into parts of given sizes: after a cut these may be unequal.
    Arguments that hold sizes have one place each.
    """
    if not args and "input" in kwargs:
        kwargs = dict(kwargs)
        args = (kwargs.pop("input"),)
    if func is torch.conv2d:
        return _conv2d, args, kwargs
    name = getattr(func, "__name__", "")
    if name == "narrow":
        given = {**dict(zip(_NARROW, args, strict=False)), **kwargs}
        size = given["input"].shape[given["dim"]]
        start = given["start"] + size if given["start"] < 0 else given["start"]
        return func, (given["input"], given["dim"], start, given["length"]), {}
    if name in _OF_TWO and len(args) == 1:
        second = next(iter(kwargs.values()), None)
        return func, (*args, second), {}
    if name == "scaled_dot_product_attention":
        given = {**dict(zip(_ATTENTION, args, strict=False)), **kwargs}
        return _attention(func, **given)
    if name not in ("chunk", "split", "tensor_split", "hsplit"):
        return func, args, kwargs
    parts = func(*args, **kwargs)
    whole = args[0] if args else kwargs.get("input", kwargs.get("tensor"))
    axes = [
        axis
        for axis in range(whole.ndim)
        if sum(part.shape[axis] for part in parts) == whole.shape[axis]
        and all(part.shape[axis] != whole.shape[axis] for part in parts)
    ]
    if len(axes) != 1:
        return func, args, kwargs
    return torch.split, (whole, [part.shape[axes[0]] for part in parts]), {"dim": axes[0]}


def _attention(
    func: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **further: Any,
) -> tuple[Any, Any, Any]:
    """A call of attention with its scale, which must not change with the width of a head."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if attn_mask is None and not is_causal and not any(further.values()):
        return scaled_dot_product_attention, (query, key, value, scale), {}
    options = {"attn_mask": attn_mask, "is_causal": is_causal, "scale": scale, **further}
    return func, (query, key, value), options


def scaled_dot_product_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention as products: torch.onnx writes torch's own for tensors of four axes alone."""
    weights = (query @ key.transpose(-2, -1) * scale).softmax(dim=-1)
    return weights @ value


def _conv2d(*args: Any, **kwargs: Any) -> torch.Tensor:
    """`torch.nn.functional.conv2d` by its name, under which training replaces it."""
    found: torch.Tensor = F.conv2d(*args, **kwargs)
    return found


def _is_whole(module: nn.Module) -> bool:
    """Whether a layer is recorded as one call: its code is a library's, or its user says so."""
    if isinstance(module, Neuron) or getattr(module, KEEPS_CHANNELS, False) is True:
        return True
    home = f"{type(module).forward.__module__}."
    return (
        home.startswith(_LIBRARIES)
        and not list(module.children())
        and not isinstance(module, _OPENED)
    )


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
    few, more = (_run(copy.deepcopy(net), batch(count), output) for count in (2, 3))
    if len(few.calls) != len(more.calls):
        raise UnrecordableError("it takes another way for another batch")
    _check_large_batch(net, batch, output, few)
    return _Writer(few, more, axis).graph, tuple(sorted(few.read | more.read))


def _check_large_batch(
    net: nn.Module,
    batch: Callable[[int], torch.Tensor],
    output: Callable[[Any], torch.Tensor],
    few: _Run,
) -> None:
    """Compare the calls with those of a large batch, which code may take in parts."""
    try:  # shapes alone, where the code allows that
        count = _MANY
        many = _run(copy.deepcopy(net).to("meta"), batch(count).to("meta"), output)
    except Exception:
        count = _SEVERAL
        many = _run(copy.deepcopy(net), batch(count), output)
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


@torch.no_grad()
def _run(net: nn.Module, x: torch.Tensor, output: Callable[[Any], torch.Tensor]) -> _Run:
    named: list[tuple[str, Any]] = [
        *net.named_modules(remove_duplicate=False),
        *net.named_parameters(remove_duplicate=False),
        *net.named_buffers(remove_duplicate=False),
    ]
    # A layer under two names, and its weights: by the first.
    names = {id(own): name for name, own in reversed(named)}
    run = _Run(names)
    run.from_input.add(run.new(x).number)
    recorder = _Recorder(run)
    with recorder.layers_as_wholes():
        result = output(net(x))
    if id(result) not in run.refs:
        raise UnrecordableError("it returns no tensor that it computed")
    run.output = run.refs[id(result)]
    return run


class _Writer:
    """Writes two runs of the same calls as one graph."""

    def __init__(self, few: _Run, more: _Run, axis: int) -> None:
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

    def _write(self, first: _Call, second: _Call) -> None:
        if first.target != second.target or first.returned != second.returned:
            raise UnrecordableError("it takes another way for another batch")
        args, kwargs = self._of(first.args, second.args), self._of(first.kwargs, second.kwargs)
        if isinstance(first.target, str):
            node = self.graph.call_module(first.target, args, kwargs)
        else:
            node = self.graph.call_function(first.target, args, kwargs)
        node.meta[_OWNER] = first.owner
        if isinstance(first.returned, _Ref):
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
        if isinstance(first, _Ref) and first == second:
            return self._nodes[first.number]
        if isinstance(first, _Attribute) and first == second:
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
