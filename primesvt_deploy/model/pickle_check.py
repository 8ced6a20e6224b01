"""Follow a torch pickle without making anything of it, before torch's restricted unpickler does.

That unpickler runs no code of the file, but it makes what it is told to: a tensor of any shape, an
array of any size, millions of lists. Here the pickle's operations are followed with stand-ins for
all tensors and objects; what cannot be followed, or would make more than the file holds, is
refused.
"""

from __future__ import annotations

import pickle
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Sequence
from mmap import mmap
from typing import Any

from primesvt_deploy.model.pickle_calls import (
    DICTS,
    Made,
    Named,
    Refused,
    Storage,
    called,
    check_key,
    check_state,
    storage_of,
)

__all__ = ["Follower"]

_MOST_PARTS = 2_000_000
"""Most lists, tuples, calls and the like in a file; each takes up to 200 bytes."""
_MOST_VALUES = 5_000_000
"""Most numbers, texts and other operations; torch follows them in Python, some 1 us each."""
_OF_A_TUPLE = 1000
"""What a tuple as a name counts: its hash can be chosen, so that thousands take minutes."""
_MOST_NAME = 4096
_USUAL_PROTOCOL = 2
_MOST_DIMENSIONS = 64
_BYTE = ord("K")
_FLOATS = re.compile(rb"(?:G.{8}){1,65536}", re.DOTALL)
_INTS = re.compile(rb"(?:K.|M..|J.{4}){16,65536}", re.DOTALL)
_ONE_INT = re.compile(rb"K.|M..|J.{4}", re.DOTALL)
_A_NUMBER = object()
"""Stands for numbers whose values do not matter."""


class Follower:
    """Follows the pickles of one file.

    Args:
        data: the pickles, one behind another.
        stored: bytes of each storage that the file holds, by its key; None: unknown in a
            file without a list of them, whose storages must not exceed it together.
        size: bytes of the file.
    """

    def __init__(self, data: bytes | mmap, stored: dict[str, int] | None, size: int) -> None:
        self._data, self._stored, self._size = data, stored, size
        self._place = 0
        self._parts = self._values = 0
        self._protocol = 0
        self._declared = 0
        self._storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def follow(self) -> Any:
        """Follow the next pickle to its end; what it makes, or a stand-in.

        Raises:
            Refused: it is cut off, does what no checkpoint of torch does, or would make more than
                the file holds.
            NeedsCode: it calls something that torch would have to import.
        """
        self._stack, self._marks, self._memo = [], [], {}
        data, steps = self._data, _STEPS
        try:
            while True:
                code = data[self._place]
                self._place += 1
                if code == _STOP:
                    return self._stack.pop()
                step = steps.get(code)
                if step is None:
                    raise Refused(self._of_protocol())
                self._count_values(1)
                step(self)
        except (IndexError, KeyError, UnicodeDecodeError, TypeError, ValueError) as error:
            raise Refused from error

    def _take(self, count: int) -> bytes:
        found = self._data[self._place : self._place + count]
        if len(found) < count:
            raise Refused
        self._place += count
        return found

    def _byte(self) -> int:
        self._place += 1
        return self._data[self._place - 1]

    def _number(self, count: int) -> int:
        return int.from_bytes(self._take(count), "little")

    def _count(self, parts: int = 1) -> None:
        self._parts += parts
        if self._parts > _MOST_PARTS:
            raise Refused(f"holds more than {_MOST_PARTS} lists, tuples and other parts")

    def _count_values(self, values: int) -> None:
        self._values += values
        if self._values > _MOST_VALUES:
            raise Refused(f"holds more than {_MOST_VALUES} numbers, texts and other values")

    def _of_protocol(self) -> str:
        """Message about an operation that torch's restricted unpickler does not know."""
        if self._protocol <= _USUAL_PROTOCOL:
            return ""
        return (
            f"is of pickle protocol {self._protocol}, of which torch reads {_USUAL_PROTOCOL} alone "
            "without running code, so nothing of it was loaded"
        )

    def _to_mark(self) -> list[Any]:
        found = self._stack
        self._stack = self._marks.pop()
        return found

    def _mark(self) -> None:
        self._count()
        self._marks.append(self._stack)
        self._stack = []

    def _floats(self) -> None:
        found = _FLOATS.match(self._data, self._place - 1)
        if found is None:
            raise Refused
        count = (found.end() - found.start()) // 9
        self._count_values(count)
        self._stack.extend([_A_NUMBER] * count)
        self._place = found.end()

    def _int(self) -> None:
        start = self._place - 1
        # More than any tensor has dimensions: a list of numbers.
        found = _INTS.match(self._data, start) if len(self._stack) > _MOST_DIMENSIONS else None
        if found is not None:
            count = len(_ONE_INT.findall(self._data, start, found.end()))
            self._count_values(count)
            self._stack.extend([_A_NUMBER] * count)
            self._place = found.end()
            return
        code = self._data[start]
        if code == _BYTE:
            self._stack.append(self._byte())
            return
        taken = self._take(2 if code == ord("M") else 4)
        self._stack.append(int.from_bytes(taken, "little", signed=code == ord("J")))

    def _long(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._byte()), "little", signed=True))

    def _text(self) -> None:
        self._stack.append(str(self._take(self._number(4)), "utf-8", "surrogatepass"))

    def _short_bytes(self) -> None:
        self._stack.append(self._take(self._byte()).decode("utf-8"))

    def _global(self) -> None:
        self._count()
        module, name = self._line(), self._line()
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        self._stack.append(Named(f"{module}.{name}"))

    def _line(self) -> str:
        end = self._data.find(b"\n", self._place, self._place + _MOST_NAME)
        if end < 0:
            raise Refused
        found = self._data[self._place : end].decode("utf-8")
        self._place = end + 1
        return found

    def _get(self) -> None:
        self._stack.append(self._memo[self._byte()])

    def _long_get(self) -> None:
        self._stack.append(self._memo[self._number(4)])

    def _put(self) -> None:
        self._memo[self._byte()] = self._stack[-1]

    def _long_put(self) -> None:
        self._count()
        self._memo[self._number(4)] = self._stack[-1]

    def _tuple(self) -> None:
        self._count()
        found = self._to_mark()
        self._stack.append(tuple(found))

    def _tuple_of(self, count: int) -> None:
        self._count()
        if len(self._stack) < count:
            raise Refused
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _append(self) -> None:
        self._extend([self._stack.pop()])

    def _appends(self) -> None:
        self._extend(self._to_mark())

    def _extend(self, items: Sequence[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise Refused
        self._stack[-1].extend(items)

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._fill([key, value])

    def _set_items(self) -> None:
        self._fill(self._to_mark())

    def _fill(self, items: Sequence[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, Made) or target.kind not in DICTS or len(items) % 2:
            raise Refused
        for key in items[::2]:
            check_key(key, tuples=True)
            self._count(_OF_A_TUPLE if type(key) is tuple else 0)
        target.keys += items[::2]
        target.values += items[1::2]

    def _reduce(self, *, new: bool = False) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Named) or type(arguments) is not tuple:
            raise Refused
        self._count(1 + sum(_parts_of(each) for each in arguments))
        self._stack.append(called(function.name, arguments, new=new))

    def _new(self) -> None:
        self._reduce(new=True)

    def _build(self) -> None:
        state = self._stack.pop()
        self._count(1 + _parts_of(state))
        check_state(self._stack[-1], state)

    def _persistent(self) -> None:
        self._count()
        found = storage_of(self._stack.pop())
        first = self._storages.setdefault(found.key, found)
        if first is found:
            self._check_stored(found)
        if (first.whole_bytes, first.item_bytes) != (found.whole_bytes, found.item_bytes):
            raise Refused(f"says two things of its part {found.key[:40]!r}")
        self._stack.append(found)

    def _check_stored(self, found: Storage) -> None:
        """Refuse a storage of which the file holds less than the pickle says."""
        self._declared += found.whole_bytes
        held = self._size - self._declared if self._stored is None else 0
        if self._stored is not None:
            held = self._stored.get(found.key, -1) - found.whole_bytes
        if held < 0 or (self._stored is not None and held):
            raise Refused(
                f"says that its part {found.key[:40]!r} has {found.whole_bytes} bytes, which it "
                "does not hold"
            )


def _parts_of(argument: Any) -> int:
    """Entries that a call may copy."""
    if isinstance(argument, Made):
        return len(argument.keys) + argument.size // 64
    if type(argument) is str:
        return len(argument) // 64
    return len(argument) if type(argument) in (list, tuple) else 0


def _pushing(value: Any) -> Callable[[Follower], None]:
    return lambda follower: follower._stack.append(value)


def _making(make: Callable[[], Any]) -> Callable[[Follower], None]:
    def step(follower: Follower) -> None:
        follower._count()
        follower._stack.append(make())

    return step


def _tuples(count: int) -> Callable[[Follower], None]:
    return lambda follower: follower._tuple_of(count)


def _protocol(follower: Follower) -> None:
    follower._protocol = follower._byte()


_STOP = pickle.STOP[0]
_STEPS: dict[int, Callable[[Follower], None]] = {
    code[0]: step
    for code, step in (
        (pickle.PROTO, _protocol),
        (pickle.MARK, Follower._mark),
        (pickle.GLOBAL, Follower._global),
        (pickle.NEWOBJ, Follower._new),
        (pickle.REDUCE, Follower._reduce),
        (pickle.BUILD, Follower._build),
        (pickle.APPEND, Follower._append),
        (pickle.APPENDS, Follower._appends),
        (pickle.SETITEM, Follower._set_item),
        (pickle.SETITEMS, Follower._set_items),
        (pickle.TUPLE, Follower._tuple),
        (pickle.TUPLE1, _tuples(1)),
        (pickle.TUPLE2, _tuples(2)),
        (pickle.TUPLE3, _tuples(3)),
        (pickle.NONE, _pushing(None)),
        (pickle.NEWFALSE, _pushing(False)),
        (pickle.NEWTRUE, _pushing(True)),
        (pickle.EMPTY_TUPLE, _pushing(())),
        (pickle.EMPTY_LIST, _making(list)),
        (pickle.EMPTY_DICT, _making(lambda: Made("dict"))),
        (pickle.EMPTY_SET, _making(lambda: Made("set"))),
        (pickle.BININT, Follower._int),
        (pickle.BININT1, Follower._int),
        (pickle.BININT2, Follower._int),
        (pickle.BINFLOAT, Follower._floats),
        (pickle.BINUNICODE, Follower._text),
        (pickle.SHORT_BINSTRING, Follower._short_bytes),
        (pickle.BINPERSID, Follower._persistent),
        (pickle.BINGET, Follower._get),
        (pickle.LONG_BINGET, Follower._long_get),
        (pickle.BINPUT, Follower._put),
        (pickle.LONG_BINPUT, Follower._long_put),
        (pickle.LONG1, Follower._long),
    )
}
"""The operations that torch's restricted unpickler knows."""
