"""The process of a worker: it makes its object at the first call, and calls its methods.

A worker that was killed is started anew by Ray with the same arguments, and its call is repeated
there: the object has to be all made of its arguments.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

__all__ = ["Host", "Stored"]

_FETCHED: dict[Any, Any] = {}
"""Values that this process has got from Ray's store, each once."""


class Stored:
    """A small stand-in for a value in Ray's store; called, it gives the value."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def __call__(self) -> Any:
        """The value, fetched where it is not in this process yet."""
        import ray

        if self._reference not in _FETCHED:
            _FETCHED[self._reference] = ray.get(self._reference)
        return _FETCHED[self._reference]


class Host:
    """The object of a worker; Ray makes an actor of this class.

    Args:
        kind: class of the object.
        arguments: those of its constructor, pickled; values of `Stored` are fetched first.
        threads: of torch.
    """

    def __init__(self, kind: Callable[..., Any], arguments: bytes, threads: int) -> None:
        self._kind, self._arguments, self._threads = kind, arguments, threads
        self._object: Any = None

    def process(self) -> int:
        """Number of this process; says that the worker runs."""
        return os.getpid()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the object."""
        if self._object is None:
            self._object = self._made()
        return getattr(self._object, method)(*arguments)

    def _made(self) -> Any:
        import torch

        # Ray sets OMP_NUM_THREADS by what the worker demands of the node, which is no core here.
        torch.set_num_threads(self._threads)
        arguments = pickle.loads(self._arguments)
        given = (a() if isinstance(a, Stored) else a for a in arguments)
        return self._kind(*given)
