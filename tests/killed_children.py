"""Kill a function at each of its changes to files, or do something else at each.

The function runs in forked children of this process. Changes by C libraries are not seen.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

__all__ = ["changes", "ended", "kills"]

Ending = Literal["killed", "ended", "raised"]
_KILLED, _RAISED = 137, 97
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink",
    "os.truncate", "os.utime",
}  # fmt: skip


def kills(root: Path, body: Callable[[], object]) -> Iterator[int]:
    """Run `body` again and again, killed before its 1st, 2nd, ... change to files below `root`.

    Yields the number of each change after the kill; ends with the run that nothing kills.
    """
    number = 1
    while ended(body, root, number) == "killed":
        yield number
        number += 1


def changes(root: Path, body: Callable[[], object]) -> int:
    """Changes to files below `root` that `body` makes."""
    counter = mmap.mmap(-1, 8)  # shared with the child

    def counted() -> None:
        found = 0

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal found
            if _changes(event, arguments, os.path.realpath(root)):
                found += 1

        sys.addaudithook(count)
        body()
        counter[:] = found.to_bytes(8, "little")

    if ended(counted, root) != "ended":
        raise AssertionError("it raised")
    return int.from_bytes(counter[:], "little")


def ended(
    body: Callable[[], object],
    root: Path,
    number: int = 0,
    *,
    then: Callable[[], object] = lambda: os._exit(_KILLED),
) -> Ending:
    """How `body` ends in a forked child that dies before its `number`-th change; 0: at none.

    Args:
        body: what the child does.
        root: of the files whose changes count.
        number: from 1.
        then: what is done there instead.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _run(body, os.path.realpath(root), number, then)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, _KILLED, _RAISED):
        raise AssertionError(f"the child ended with {code}")
    return {0: "ended", _KILLED: "killed", _RAISED: "raised"}[code]  # type: ignore[return-value]


def _run(body: Callable[[], object], root: str, number: int, then: Callable[[], object]) -> None:
    left = number

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if left and _changes(event, arguments, root):
            left -= 1
            if not left:
                then()

    status = _RAISED
    try:
        sys.addaudithook(count)
        body()
        status = 0
    except BaseException:
        with contextlib.suppress(OSError):  # its disk may be full
            traceback.print_exc()
            sys.stderr.flush()
    finally:  # whatever happens, it does not go on with the tests
        os._exit(status)


def _changes(event: str, arguments: tuple[Any, ...], root: str) -> bool:
    """Whether an audit event announces a change below a directory."""
    if event == "open":
        path, _, flags = arguments
        return bool(flags & _WRITES) and _is_below(path, root, -1)
    if event not in _CHANGES:
        return False
    descriptors = [a for a in arguments[1:] if isinstance(a, int)]
    return _is_below(arguments[0], root, descriptors[-1] if event != "os.rename" else -1)


def _is_below(path: Any, root: str, directory: int) -> bool:
    if isinstance(path, int):
        return True  # of an open file, of which there are few
    name = os.fsdecode(path)
    if not os.path.isabs(name):
        base = os.readlink(f"/proc/self/fd/{directory}") if directory >= 0 else os.getcwd()
        name = os.path.join(base, name)
    return os.path.normpath(name).startswith(f"{root}{os.sep}")
