"""Run a user's module, and note its calls of layers and of tensor operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.normalised_calls import normalised

__all__ = ["KEEPS_CHANNELS", "Attribute", "Call", "Ref", "Run", "UnrecordableError", "run"]

KEEPS_CHANNELS = "keeps_channels"
"""Attribute by which a user's module says that each channel of its result depends on one alone."""
_LIBRARIES = ("torch.", "spikingjelly.")
_OPENED = (nn.Unflatten, nn.Flatten)
"""Layers whose sizes must stand in the graph."""
_READS = {"__bool__", "__int__", "__float__", "__index__", "item", "tolist", "numpy", "__array__"}


class UnrecordableError(Exception):
    """The code does something that no graph of tensor operations holds; says what."""


@dataclass(frozen=True)
class Ref:
    """A tensor of a recorded run, by number."""

    number: int


@dataclass(frozen=True)
class Attribute:
    """A parameter or buffer of the module, by name."""

    name: str


@dataclass(frozen=True)
class Call:
    """One call of a layer (a name) or of a function, and the tensors that it returned.

    Args:
        target: what was called.
        args: tensors among them as `Ref` or `Attribute`.
        kwargs: the same.
        returned: the tensors.
        owner: name of the module whose code called it.
    """

    target: str | Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    returned: Ref | tuple[Ref | None, ...] | None
    owner: str


@dataclass
class Run:
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
    calls: list[Call] = field(default_factory=list)
    output: Ref | None = None
    refs: dict[int, Ref] = field(default_factory=dict)
    tensors: list[torch.Tensor] = field(default_factory=list)
    from_input: set[int] = field(default_factory=set)
    owners: list[str] = field(default_factory=lambda: [""])
    made_of: dict[int, frozenset[str]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def new(self, tensor: torch.Tensor) -> Ref:
        """A number for a tensor, which is kept, so that its identity is not given to another."""
        self.tensors.append(tensor)
        ref = Ref(len(self.tensors) - 1)
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
        refs = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Ref)]
        new = tuple(self.new(i) if isinstance(i, torch.Tensor) else None for i in items)
        sources = frozenset().union(*map(self._sources, tree_leaves(given)))
        self.made_of.update((ref.number, sources) for ref in new if ref is not None)
        if any(ref.number in self.from_input for ref in refs):
            self.from_input |= {ref.number for ref in (*new, *refs[:changes]) if ref is not None}
        returned = None if changes else new if several else new[0]
        self.calls.append(Call(target, *given, returned, self.owners[-1]))

    def is_constant(self, tensor: Any) -> bool:
        """Whether a tensor is of the module's own, or computed of such alone."""
        ref = self.refs.get(id(tensor))
        return id(tensor) in self.names if ref is None else ref.number not in self.from_input

    def note_read(self, tensor: torch.Tensor) -> None:
        """Note the module's tensors whose values the code takes into Python."""
        self.read |= self._sources(self._of(tensor))

    def _sources(self, leaf: Any) -> frozenset[str]:
        if isinstance(leaf, Attribute):
            return frozenset((leaf.name,))
        return self.made_of.get(leaf.number, frozenset()) if isinstance(leaf, Ref) else frozenset()

    def _of(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) in self.refs:
                return self.refs[id(value)]
            if id(value) in self.names:
                return Attribute(self.names[id(value)])
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

    def __init__(self, run: Run) -> None:
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
        return self._recorded(*normalised(func, args, kwargs))

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


@torch.no_grad()
def run(net: nn.Module, x: torch.Tensor, output: Callable[[Any], torch.Tensor]) -> Run:
    """Run a module once and note its calls.

    Args:
        net: in evaluation mode; its code may change what it keeps.
        x: input.
        output: takes the tensor that matters out of what the module returns.

    Raises:
        UnrecordableError: its code does what no graph of calls holds.
    """
    named: list[tuple[str, Any]] = [
        *net.named_modules(remove_duplicate=False),
        *net.named_parameters(remove_duplicate=False),
        *net.named_buffers(remove_duplicate=False),
    ]
    # A layer under two names, and its weights: by the first.
    names = {id(own): name for name, own in reversed(named)}
    noted = Run(names)
    noted.from_input.add(noted.new(x).number)
    recorder = _Recorder(noted)
    with recorder.layers_as_wholes():
        result = output(net(x))
    if id(result) not in noted.refs:
        raise UnrecordableError("it returns no tensor that it computed")
    noted.output = noted.refs[id(result)]
    return noted
