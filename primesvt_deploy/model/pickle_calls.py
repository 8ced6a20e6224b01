"""Calls that a torch pickle may make, with stand-ins for what the calls make: nothing is allocated.

A tensor must lie within what is stored of it; everything else is of the size that its pickle has.
"""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from primesvt_deploy.model.stored_objects import STORED_OBJECTS

__all__ = ["DICTS", "Made", "Named", "NeedsCode", "Refused", "Storage", "called", "check_key",
           "check_state", "storage_of"]  # fmt: skip

DICTS = ("dict", "collections.OrderedDict", "collections.Counter")
_ITEM_BYTES = {
    **dict.fromkeys(("ComplexDouble",), 16),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Char", "Byte", "Bool", "QUInt8", "QInt8", "QUInt4x2", "QUInt2x4"), 1),
    "storage.Untyped": 1,
}
_STORAGE = re.compile(r"torch\.(?:cuda\.)?((?:storage\.)?\w+)Storage")
_MOST_DIMENSIONS = 64
_MOST_KEY = 1000
"""Most characters of a name; of a tensor's as well."""
_MOST_NUMBER = 2**31
_WITH_ATTRIBUTES = ("collections.OrderedDict", "collections.Counter", "tensor")
_SCALARS = (str, int, float, bool, bytes, type(None))


class Refused(Exception):
    """A pickle that is damaged, or would make more than its file holds; says which, if it can."""


class NeedsCode(Exception):
    """A pickle that calls what torch would have to import; the message is its name."""


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function by its full name."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes that a file stores, under a key, as `numel` items."""

    key: str
    numel: int
    item_bytes: int
    whole_bytes: int
    """Of the storage that it is a part of."""


@dataclass(slots=True, eq=False)
class Made:
    """Stand-in for an object, of which the entries of a dict are kept."""

    kind: str
    keys: list[Any] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    repeated: bool = False
    """Of a tensor: it has more numbers than are stored of it."""
    size: int = 0
    """Of bytes: how many."""


def check_key(key: Any, *, tuples: bool = False) -> None:
    """Refuse names of entries that are no short text and no small number, or few of them.

    Hashing a deep tuple would overrun the interpreter's stack. The hash of a number can be chosen,
    so that each is compared with all others.
    """
    parts = key if tuples and type(key) is tuple and len(key) <= 16 else (key,)
    for part in parts:
        if not isinstance(part, (*_SCALARS, Named, Made)) and type(part) is not object:
            raise Refused(f"names an entry by a {type(part).__name__}")
        if isinstance(part, str | bytes) and len(part) > _MOST_KEY:
            raise Refused(f"names an entry by {len(part)} characters")
        if isinstance(part, int | float) and not abs(part) < _MOST_NUMBER:
            raise Refused("names an entry by a number of 2^31 or more")


def storage_of(found: Any) -> Storage:
    """The storage that a pickle refers to as `("storage", type, key, location, numel[, view])`."""
    if type(found) is not tuple or len(found) not in (5, 6) or found[0] != "storage":
        raise Refused
    _, kind, key, location, numel, *view = found
    match = _STORAGE.fullmatch(kind.name) if isinstance(kind, Named) else None
    item_bytes = _ITEM_BYTES.get(match[1]) if match else None
    if item_bytes is None or type(key) is not str or type(location) is not str:
        raise Refused
    whole = _size(numel) * item_bytes
    if view and view[0] is not None:
        _, offset, part = view[0]
        if _size(offset) + _size(part) > numel:
            raise Refused(f"has a view beyond the end of {key[:40]!r}")
        numel = part
    return Storage(key, numel, item_bytes, whole)


def check_state(target: Any, state: Any) -> None:
    """Check the attributes that a pickle gives to an object that it has made."""
    kind = target.kind if isinstance(target, Made) else ""
    if kind in ("dropped", "numpy.dtype"):
        return
    if kind not in ("namespace", *_WITH_ATTRIBUTES) or kind == "tensor":
        raise Refused
    _check_attributes(kind, state)


def _check_attributes(kind: str, state: Any) -> None:
    if not isinstance(state, Made) or state.kind not in DICTS:
        raise Refused
    # An attribute of the name of a method would be called instead of it.
    if any(not isinstance(k, str) or k in _attributes(kind) for k in state.keys):
        raise Refused(f"replaces methods of a {kind.rpartition('.')[2]}")


@cache
def _attributes(kind: str) -> frozenset[str]:
    """Names that objects of a kind have by their class."""
    if kind == "tensor":
        import torch  # here, as few tensors have attributes of their own

        return frozenset(dir(torch.nn.Parameter))
    kinds = {"collections.OrderedDict": OrderedDict, "collections.Counter": Counter}
    return frozenset(dir(kinds[kind])) if kind in kinds else frozenset()


def called(name: str, arguments: tuple[Any, ...], *, new: bool = False) -> Any:
    """Stand-in for what a call makes.

    Args:
        name: of the class or function.
        arguments: as far as they are followed.
        new: by the class's `__new__`.

    Raises:
        NeedsCode: it is none of those that checkpoints need.
        Refused: it would make more than the file holds, or fail.
    """
    call = _CALLS.get(name)
    if call is None or (new and call not in (_dropped, _namespace)):
        if name in _UNUSUAL:
            raise Refused(f"holds a {_UNUSUAL[name]} tensor, expected dense ones")
        raise NeedsCode(name.removeprefix("builtins."))
    return call(name, arguments)


def _tensor(name: str, arguments: tuple[Any, ...]) -> Made:
    storage, offset, size, stride, *rest = arguments
    if not isinstance(storage, Storage):
        raise Refused
    if type(size) is not tuple or type(stride) is not tuple:
        raise Refused
    if len(size) != len(stride) or len(size) > _MOST_DIMENSIONS:
        raise Refused
    available = storage.numel
    if name.endswith("_v3"):
        import torch  # here, as such tensors are few

        dtype = getattr(torch, rest[2].name.removeprefix("torch."), None)
        if not isinstance(dtype, torch.dtype):
            raise Refused
        available = available * storage.item_bytes // dtype.itemsize
    numel = math.prod(map(_size, size))
    reach = _size(offset) + sum((s - 1) * _size(t) for s, t in zip(size, stride, strict=True)) + 1
    repeated = numel > storage.numel
    if (numel and reach > available) or (repeated and name.endswith("_qtensor")):
        raise Refused(
            f"says that a tensor of shape {list(size[:8])} lies in its part {storage.key[:40]!r}, "
            f"beyond the {available} numbers that it holds there"
        )
    if numel >= 2**62:
        raise Refused
    if name.endswith("_qtensor") and any(_repeats(each) for each in _flat(rest[0])):
        raise Refused
    return Made("tensor", repeated=repeated)


def _parameter(_: str, arguments: tuple[Any, ...]) -> Made:
    data, _grad, _hooks, *state = arguments
    if not isinstance(data, Made) or data.kind != "tensor":
        raise Refused
    if state and state[0] is not None:
        _check_attributes("tensor", state[0])
    return data


def _typed(_: str, arguments: tuple[Any, ...]) -> Made:
    """A tensor with attributes."""
    function, kind, inner, state = arguments
    if kind.name not in ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter"):
        raise NeedsCode(kind.name)
    found = called(function.name, inner)
    if not isinstance(found, Made) or found.kind != "tensor":
        raise Refused
    _check_attributes("tensor", state)
    return found


def _sparse(_: str, arguments: tuple[Any, ...]) -> Made:
    if any(_repeats(each) for each in _flat(arguments[1])):
        raise Refused("holds a sparse tensor of numbers that it does not store")
    return Made("tensor")


def _meta(_: str, arguments: tuple[Any, ...]) -> Made:
    _dtype, size, stride, *_rest = arguments
    if any(_size(each) >= 2**40 for each in (*size, *stride)) or len(size) > _MOST_DIMENSIONS:
        raise Refused
    return Made("tensor")


def _mapping(name: str, arguments: tuple[Any, ...]) -> Made:
    """An OrderedDict or Counter: empty, of pairs, or of a dict."""
    made = Made(name)
    for given in arguments:
        if isinstance(given, Made) and given.kind in DICTS:
            made.keys += given.keys
            made.values += given.values
            continue
        if type(given) is not list:
            raise Refused
        for pair in given:
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise Refused
            check_key(pair[0])
            made.keys.append(pair[0])
            made.values.append(pair[1])
    return made


def _set(_: str, arguments: tuple[Any, ...]) -> Made:
    for entry in arguments[0] if arguments else ():
        check_key(entry)
    return Made("set")


def _bytes(name: str, arguments: tuple[Any, ...]) -> Made:
    """Bytes, which are stored as text."""
    if arguments and type(arguments[0]) is str:
        if arguments[1:] not in (("latin1",), ("latin-1",)):
            raise Refused
    elif name == "_codecs.encode" or any(
        not isinstance(each, Made) or each.kind != "bytes" for each in arguments
    ):
        raise Refused
    return Made("bytes", size=sum(_length(each) for each in arguments))


def _length(argument: Any) -> int:
    return argument.size if isinstance(argument, Made) else len(argument)


def _plain(name: str, arguments: tuple[Any, ...]) -> Made:
    flat = [part for each in arguments for part in _flat(each)]
    if any(not isinstance(each, _SCALARS) and type(each) is not object for each in flat):
        raise Refused
    return Made(name)


def _path(_: str, arguments: tuple[Any, ...]) -> Made:
    return Made("path")


def _dtype(name: str, arguments: tuple[Any, ...]) -> Made:
    if arguments and type(arguments[0]) is not str:
        raise Refused
    return Made(name)


def _dropped(_name: str, _arguments: tuple[Any, ...]) -> Made:
    return Made("dropped")


def _namespace(_name: str, _arguments: tuple[Any, ...]) -> Made:
    return Made("namespace")


def _dict(_name: str, _arguments: tuple[Any, ...]) -> Made:
    return Made("dict")


def _list(_name: str, _arguments: tuple[Any, ...]) -> list[Any]:
    return []


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise Refused
    return value


def _flat(value: Any) -> Sequence[Any]:
    return value if type(value) is tuple else (value,)


def _repeats(value: Any) -> bool:
    return isinstance(value, Made) and value.repeated


_UNUSUAL = {
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_wrapper_subclass": "wrapped",
    "torch.nested._internal.nested_tensor._rebuild_njt": "nested",
}
_CALLS: dict[str, Callable[[str, tuple[Any, ...]], Any]] = {
    **{
        (one[1] if isinstance(one, tuple) else f"{one.__module__}.{one.__qualname__}"): _dropped
        for one in STORED_OBJECTS
    },
    "argparse.Namespace": _namespace,
    "types.SimpleNamespace": _namespace,
    "collections.defaultdict": _dict,
    "collections.deque": _list,
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "numpy.dtype": _dtype,
    "builtins.set": _set,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _bytes,
    **dict.fromkeys(
        ("builtins.complex", "torch.Size", "torch.device", "torch.serialization._get_layout"),
        _plain,
    ),
    **{f"torch._utils._rebuild_{kind}": _tensor
       for kind in ("tensor", "tensor_v2", "tensor_v3", "qtensor")},
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._tensor._rebuild_from_type_v2": _typed,
}  # fmt: skip
