"""Samples of some chunks of a list of images, under their numbers in the whole list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.pruning.search.engine import chunks_of
from primesvt_deploy.pruning.search.state_cache import Chunk

__all__ = ["Samples", "Shard", "Sharing"]

HELD_BY_ALL = 1024
"""First images, about, that each worker holds: most candidates are decided on fewer."""


class Samples(Protocol):
    """Gives preprocessed samples by their numbers; an `ImageList` does."""

    def inputs(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Samples `start..stop-1`, float32."""


class Shard:
    """Some chunks of a list of images, which alone are held.

    Args:
        images: the whole list.
        chunks: those of the shard, in order; of one size but for the last.
    """

    def __init__(self, images: ImageList, chunks: Sequence[Chunk]) -> None:
        sizes = [stop - start for start, stop in chunks]
        self._size = sizes[0]
        places = np.cumsum([0, *sizes])
        self._places = {start: int(at) for (start, _), at in zip(chunks, places[:-1], strict=True)}
        numbers = [np.arange(*chunk) for chunk in chunks]
        self.images = images.select(np.concatenate(numbers))

    def inputs(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Samples `start..stop-1` of the whole list, all of one chunk of the shard."""
        inside = start % self._size
        at = self._places[start - inside] + inside
        return self.images.inputs(at, at + stop - start)


@dataclass(frozen=True)
class Sharing:
    """Images that workers hold: all of them the first ones, and of the rest each its chunks.

    Args:
        images: number of all.
        chunk: images of a chunk.
        workers: number of workers.
    """

    images: int
    chunk: int
    workers: int

    def owner(self, chunk: Chunk) -> int:
        """Number of the worker that a chunk belongs to."""
        return chunk[0] // self.chunk % self.workers

    def held_by_all(self, chunk: Chunk) -> bool:
        """Whether all workers hold a chunk's images."""
        return chunk[1] <= max(HELD_BY_ALL, self.chunk)

    def chunks(self, worker: int) -> list[Chunk]:
        """Chunks that a worker holds, in order."""
        whole = chunks_of(self.images, self.chunk)
        return [c for c in whole if self.held_by_all(c) or self.owner(c) == worker]
