"""Stand-ins for harmless classes that training scripts store beside weights.

torch's restricted unpickler calls only what it is told to. It is told to call the functions and
classes here, under the names of the real ones: they keep plain numbers and names and drop the
rest, so that no code of numpy, pathlib or the training script sees bytes of the file.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, Self

import numpy as np

__all__ = ["STORED_OBJECTS", "Dropped"]

_NUMBERS = frozenset({"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))}) | {
    *("f2", "f4", "f8")
}


_MOST_PATH = 4096
"""Most characters of a path, as of Linux."""


class Dropped:
    """An object of which nothing is kept."""

    def __new__(cls, *_arguments: Any) -> Self:
        """Make one, whatever the file gives."""
        return super().__new__(cls)

    def __init__(self, *_arguments: Any) -> None:
        """Keep nothing."""

    def __setstate__(self, _state: Any) -> None:
        """Keep nothing."""


class _Dtype:
    """A numpy dtype: its code, such as `f8`, and its byte order."""

    def __new__(cls, *_arguments: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, code: Any = "", *_arguments: Any) -> None:
        self.code = code if isinstance(code, str) else ""
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


def _scalar(dtype: Any = None, data: Any = b"", *_: Any) -> Any:
    """A Python number of a numpy scalar; another scalar is dropped."""
    if not isinstance(dtype, _Dtype) or dtype.code not in _NUMBERS or type(data) is not bytes:
        return Dropped()
    kind = np.dtype(dtype.order + dtype.code)
    return np.frombuffer(data, kind)[0].item() if len(data) == kind.itemsize else Dropped()


def _dict(*_arguments: Any) -> dict[Any, Any]:
    """An empty dict, which the file then fills: a defaultdict without its factory."""
    return {}


def _list(*_arguments: Any) -> list[Any]:
    """An empty list, which the file then fills: a deque without its length."""
    return []


def _namespace(*_arguments: Any) -> Namespace:
    return Namespace()


def _path(*parts: Any) -> Any:
    """A path; one that no file can have is dropped, as one part may be there a million times."""
    names = [part for part in parts if isinstance(part, str)]
    return PurePosixPath(*names) if sum(map(len, names)) <= _MOST_PATH else Dropped()


_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_PATHS = ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
_DROPPED = (
    *(f"{module}._reconstruct" for module in _MULTIARRAY),
    "numpy.ndarray",
    *(f"numpy.{name}" for name in ("float16", "float32", "float64", "int32", "int64", "uint8")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    # Factories of a defaultdict.
    *(f"{module}.{name}" for module in ("builtins", "__builtin__")
      for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
)  # fmt: skip

STORED_OBJECTS: tuple[Callable[..., Any] | tuple[Callable[..., Any], str], ...] = (
    Namespace,
    Dropped,
    _Dtype,
    PurePosixPath,
    (_dict, "collections.defaultdict"),
    (_list, "collections.deque"),
    (_namespace, "types.SimpleNamespace"),
    (_Dtype, "numpy.dtype"),
    *((_scalar, f"{module}.scalar") for module in _MULTIARRAY),
    *((_path, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *((Dropped, name) for name in _DROPPED),
)
"""What `torch.serialization.safe_globals` takes; every other class is refused."""
