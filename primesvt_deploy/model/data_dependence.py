"""Refuse a module whose Python code looks at values of its input: a graph cannot follow it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.adopted import AdoptedNetwork
from primesvt_deploy.lowering.code_line import line_of_error

__all__ = ["check_values_are_not_read"]

_TO_PYTHON = frozenset({"numpy", "tolist", "__array__", "__dlpack__"})
"""Methods that take values out of torch without an operator."""
_VALUE = "its code takes a value of a tensor that depends on the input into Python"
_SHAPE = "the shape of a tensor depends on the values of the input"
_VALUE_ADVICE = "compute it with tensors (torch.where, a mask), or take it out of forward"
_SHAPE_ADVICE = "keep the shape fixed: torch.where or a product with the mask instead of indexing"


def check_values_are_not_read(network: AdoptedNetwork, net: nn.Module) -> None:
    """Run a network once and refuse what an exported graph would freeze or could not hold.

    These are a number, a truth value or an array taken from a tensor that depends on the input, as
    in `if x.sum() > 0`, and a shape that follows from values, as of `x[x > 0]`. Branches on shapes,
    flags and values of weights alone are fine.

    Args:
        network: the adopted network.
        net: the user's module, for the message.

    Raises:
        ModelError: it does either; names the line of code.
    """
    generator = torch.Generator().manual_seed(0)
    x = 2.0 * torch.randn(network.config.example(1).shape, generator=generator)
    watch = _Watch([x])
    # A copy, as a module may count its calls, which the checks that follow find out.
    tried = copy.deepcopy(network)
    try:
        with torch.no_grad(), _Operators(watch), _Functions(watch):
            tried(x)
    except _Read as found:
        place = line_of_error(found)
        raise ModelError(
            f"{type(net).__name__}: {found.reason}{f' ({place})' if place else ''}, which cannot "
            f"be exported: {found.advice}"
        ) from None
    except Exception:  # what else the user's code raises is told by the checks that follow
        return


class _Read(Exception):
    """The module did what cannot be exported."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.reason, self.advice = reason, advice


class _Watch:
    """The storages that hold what was computed from given tensors."""

    def __init__(self, sources: Iterable[torch.Tensor]) -> None:
        # A weak reference keeps a storage's address from being given to another, not its memory.
        self._references: dict[int, object] = {}
        self.add(sources)

    def add(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._references:
                self._references[storage._cdata] = storage._weak_ref()

    def sees(self, tensors: Iterable[torch.Tensor]) -> bool:
        return any(tensor.untyped_storage()._cdata in self._references for tensor in tensors)


class _Operators(TorchDispatchMode):
    """Follows every operator from the input on."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watch = watch

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = list(_tensors((args, kwargs)))
        if not self._watch.sees(given):
            return func(*args, **(kwargs or {}))
        if torch.Tag.data_dependent_output in func.tags:
            raise _Read(_VALUE, _VALUE_ADVICE)
        if torch.Tag.dynamic_output_shape in func.tags and _is_dynamic(func, args):
            raise _Read(_SHAPE, _SHAPE_ADVICE)
        made = func(*args, **(kwargs or {}))
        self._watch.add(_tensors(made))
        if func._schema.is_mutable:
            self._watch.add(_written(func, args))
        return made


class _Functions(TorchFunctionMode):
    """Sees values that leave torch for Python or NumPy."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _TO_PYTHON and self._watch.sees(_tensors(args)):
            raise _Read(_VALUE, _VALUE_ADVICE)
        return func(*args, **(kwargs or {}))


def _is_dynamic(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operator that can give a shape by values does so here."""
    if func.overloadpacket is not torch.ops.aten.index:
        return True
    return any(index.dtype in (torch.bool, torch.uint8) for index in _tensors(args[1]))


def _written(func: Any, args: tuple[Any, ...]) -> Iterator[torch.Tensor]:
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors(value)


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for leaf in tree_leaves(values):
        if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
            yield leaf
