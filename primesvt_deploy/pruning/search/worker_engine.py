"""The engine that has workers evaluate: a plan goes to all, logits come back in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.input_statistics import BatchSums
from primesvt_deploy.progress import Progress
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search.engine import EvaluationEngine, Request
from primesvt_deploy.pruning.search.state_cache import Chunk

__all__ = ["Call", "WorkerEngine", "Workers"]

Call = tuple[int, str, tuple[Any, ...]]
"""Number of a worker, one of its methods, and the arguments."""


class Workers(Protocol):
    """Workers in other processes, perhaps on other machines."""

    def __len__(self) -> int:
        """Number of workers."""

    def call(self, calls: Sequence[Call]) -> Iterator[Any]:
        """Results of calls that are made at once, in the order of the calls.

        Raises:
            DeployError: a worker's own, or it cannot be kept alive.
        """

    def put(self, value: Any) -> Any:
        """A small reference to a value for arguments of calls, that gives it when it is called."""


class WorkerEngine(EvaluationEngine):
    """Has workers evaluate; chunk number i belongs to worker i modulo their number.

    Args:
        workers: `EvaluationWorker`s, each with its shard.
        groups: the model's prunable groups.
        labels: class of each search image, int64 `[N]`.
        chunk: images of a chunk.
        device: kind of the workers' devices.
        recovery: of the driver; the workers measure its moments, and get them.
        progress: gets lines of the workers.
    """

    def __init__(
        self,
        workers: Workers,
        groups: Sequence[Group],
        labels: npt.NDArray[np.int64],
        chunk: int,
        *,
        device: str,
        recovery: Recovery,
        progress: Progress,
    ) -> None:
        super().__init__(groups, labels, chunk)
        self.device, self.at_once = device, len(workers)
        self._workers, self._recovery, self._progress = workers, recovery, progress
        self._moments: Any = None
        recovery.sums_elsewhere = self._sums

    def release(self) -> None:
        """See `EvaluationEngine`."""
        list(self._workers.call([(i, "release", ()) for i in range(len(self._workers))]))

    def _logits(
        self, request: Request, chunks: Sequence[Chunk], progress: Progress
    ) -> Iterator[tuple[Chunk, torch.Tensor]]:
        if self._moments is None and self._recovery.needs_moments:
            self._moments = self._workers.put(self._recovery.moments)
        calls = [
            (chunk[0] // self.chunk % len(self._workers), "logits", (request, chunk, self._moments))
            for chunk in chunks
        ]
        for chunk, (found, told) in zip(chunks, self._in_waves(calls), strict=True):
            for line in told:
                self._progress.message(line)
            progress.advance(chunk[1], chunks[-1][1])
            yield chunk, torch.from_numpy(np.array(found))

    def _sums(self, batches: int) -> Iterable[BatchSums]:
        calls = [(number % len(self._workers), "sums", (number,)) for number in range(batches)]
        return self._in_waves(calls)

    def _in_waves(self, calls: Sequence[Call]) -> Iterator[Any]:
        """Results of calls in their order; of as many at once as there are workers."""
        for start in range(0, len(calls), len(self._workers)):
            yield from self._workers.call(calls[start : start + len(self._workers)])
