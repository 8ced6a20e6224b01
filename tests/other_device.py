"""A second device for tests on machines that have only a CPU.

Its tensors compute on the CPU, but claim to be elsewhere, and are as strict as those of a GPU: they
meet no tensor of the CPU in one operation, and do not become NumPy arrays. So a test on it finds
what was not moved to the device, or not brought back, and its results are the CPU's to the bit.

A composite operation of torch that makes a tensor beside its arguments, such as `one_hot`, is
refused although a GPU would run it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

__all__ = ["OTHER", "OtherTensor", "is_there", "other_device"]

OTHER = torch.device("privateuseone", 0)
"""The second device; it exists within `other_device()`."""

_parse_to = torch._C._nn._parse_to  # the arguments of `Module.to`
_ops = torch.ops.aten
_COPIES = {_ops.copy_.default, _ops._to_copy.default, _ops.copy.default}
"""Operations between devices."""
_INDEXED = {
    _ops.index.Tensor,
    _ops.index_put.default,
    _ops.index_put_.default,
    _ops._index_put_impl_.default,
    _ops._unsafe_index.Tensor,
}
"""Operations on a device's tensor whose indices, the second argument, may be the CPU's."""


class OtherTensor(torch.Tensor):
    """A tensor on the second device."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The second device."""
        return OTHER

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        """No."""
        return False

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Like that of any tensor."""
        copies = kwargs.pop("copy", False)
        device, dtype, _, memory_format = _parse_to(*args, **kwargs)
        if args and isinstance(args[0], torch.Tensor):
            device = args[0].device
        form = {} if memory_format is None else {"memory_format": memory_format}
        changed = super().to(dtype or self.dtype, copy=copies, **form)
        return _Return.apply(changed) if device is not None and device != OTHER else changed

    def cpu(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A copy on the CPU."""
        return _Return.apply(self)

    def numpy(self, *, force: bool = False) -> Any:
        """Refused, as by any device but the CPU, unless forced."""
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"cannot convert a tensor of {OTHER} to NumPy: copy it to the CPU first")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        """Its values; they are copied to the CPU for that, as by any device."""
        return self.detach().cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"{self.detach().cpu()!r} on {OTHER}"

    def __format__(self, specification: str) -> str:
        return format(self.detach().cpu(), specification)

    def new_tensor(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A tensor of given values on the same device."""
        return torch.tensor(*args, **{"dtype": self.dtype, "device": OTHER, **kwargs})

    def __deepcopy__(self, memo: dict[int, Any]) -> OtherTensor:
        if id(self) in memo:
            return memo[id(self)]
        copied = self.detach().clone()
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        else:
            copied.requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"a tensor of {OTHER} is not written to files: copy it to the CPU first")

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _COPIES:
            _refuse_mixed(func, args, kwargs)
        with torch._C._DisableTorchDispatch():
            found = func(*args, **kwargs)
        if func is _ops.copy_.default or func is _ops.copy.default:
            return found if func is _ops.copy_.default or not is_there(args[0]) else _claim(found)
        return _mapped(_claim, found)


class _Move(torch.autograd.Function):
    """Copy a tensor of the CPU to the second device."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return _claim(tensor.clone())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return _released(gradient)


class _Return(torch.autograd.Function):
    """Copy a tensor of the second device to the CPU."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return _released(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return _claim(gradient.clone())


class _Factories(TorchFunctionMode):
    """Makes tensors on the second device where a call names it."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.from_numpy, torch.as_tensor, torch.tensor) and any(map(is_there, args)):
            raise TypeError(f"cannot make a tensor of a tensor of {OTHER}: use .to()")
        if func is torch.Tensor.to and not is_there(args[0]):
            return _moved(args[0], args[1:], kwargs)
        if func is _parse_to or not _is_meant(args, kwargs):
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"expected a generator of {OTHER}, found one of the CPU")
        here = _mapped(lambda value: "cpu" if _names_other(value) else value, (args, kwargs))
        return _mapped(_claim, func(*here[0], **here[1]))


@contextmanager
def other_device() -> Iterator[torch.device]:
    """Have a second device for a while.

    Within, `tensor.to(OTHER)`, `module.to(OTHER)` and `torch.zeros(n, device=OTHER)` work. A module
    that is moved gets new parameters, as with `torch.__future__`.
    """
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Factories():
            yield OTHER
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def is_there(value: object) -> bool:
    """Whether it is a tensor of the second device."""
    return isinstance(value, OtherTensor)


def _moved(tensor: torch.Tensor, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """`tensor.to(...)` of a tensor of the CPU."""
    if args and is_there(args[0]):
        there, args = True, (args[0].dtype, *args[1:])
    else:
        there = _is_meant(args, kwargs)
        args, kwargs = _mapped(lambda x: "cpu" if _names_other(x) else x, (args, kwargs))
    changed = torch.Tensor.to(tensor, *args, **kwargs)
    return _Move.apply(changed) if there else changed


def _names_other(value: object) -> bool:
    if isinstance(value, torch.device):
        return value.type == OTHER.type
    return isinstance(value, str) and value.partition(":")[0] == OTHER.type


def _is_meant(args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an argument of a call is the second device; lists of arguments hold no devices."""
    return any(map(_names_other, args)) or any(map(_names_other, kwargs.values()))


def _leaves(value: Any) -> list[Any]:
    """What tuples, lists and dicts hold; many times as fast as torch's own, which knows more."""
    found, left = [], [value]
    while left:
        each = left.pop()
        if isinstance(each, tuple | list):
            left.extend(each)
        elif isinstance(each, dict):
            left.extend(each.values())
        else:
            found.append(each)
    return found


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """A value whose leaves are changed; the same containers."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_mapped(change, each) for each in value)
    if type(value) is dict:
        return {key: _mapped(change, each) for key, each in value.items()}
    return tree_map(change, value)


def _claim(value: Any) -> Any:
    """A tensor of the CPU as one of the second device that shares its memory; else the value."""
    if not isinstance(value, torch.Tensor) or is_there(value):
        return value
    with torch._C._DisableTorchDispatch():
        return torch.Tensor._make_subclass(OtherTensor, value.detach())


def _released(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU."""
    with torch._C._DisableTorchDispatch():
        copied = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
        copied.copy_(tensor.detach())
    return copied


def _refuse_mixed(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Refuse an operation on tensors of both devices that a GPU would refuse.

    Raises:
        RuntimeError: a tensor of the CPU takes part that is not a single number, or is written to.
    """
    operands = (args, kwargs)
    if func in _INDEXED and is_there(args[0]):
        operands = ((args[0], *args[2:]), kwargs)
    here = [x for x in _leaves(operands) if isinstance(x, torch.Tensor) and not is_there(x)]
    written = [
        value
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    if any(x.ndim > 0 or any(x is w for w in _leaves(written)) for x in here):
        raise RuntimeError(
            f"{func}: expected all tensors to be on the same device, found {OTHER} and cpu"
        )
