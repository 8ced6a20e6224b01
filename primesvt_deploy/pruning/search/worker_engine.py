"""The engine that has workers evaluate: each other candidates, or its share of the images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.input_statistics import BatchSums
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search.engine import Asked, Course, EvaluationEngine, Outcome, Request
from primesvt_deploy.pruning.search.samples import Sharing
from primesvt_deploy.pruning.search.state_cache import Chunk

__all__ = ["WorkerEngine", "Workers"]


class Workers(Protocol):
    """Workers in other processes, perhaps on other machines."""

    def __len__(self) -> int:
        """Number of workers."""

    def submit(self, worker: int, method: str, *arguments: Any) -> Any:
        """Have a worker called; it does one call after another. Returns what stands for it."""

    def first_done(self, calls: Sequence[Any]) -> Any:
        """The first of some calls that is done; waits for one."""

    def result(self, call: Any) -> Any:
        """The result of a call; waits for it.

        Raises:
            DeployError: the worker's own, or it cannot be kept alive.
        """

    def close(self) -> None:
        """End the workers."""

    def put(self, value: Any) -> Any:
        """A small stand-in for a value in arguments of calls, that gives it when it is called."""


class WorkerEngine(EvaluationEngine):
    """Has workers evaluate.

    Evaluations that do not depend on one another are done side by side, each by one worker, as far
    as the images go that all workers hold; behind those a plan goes to all workers, and each
    evaluates the chunks that are its own.

    Args:
        spawn: starts the `EvaluationWorker`s, each with its part of the images.
        sharing: which those are.
        groups: the model's prunable groups.
        labels: class of each search image, int64 `[N]`.
        device: kind of the workers' devices.
        recovery: of the driver; the workers measure its moments, and get them.
        progress: gets lines of the workers.
    """

    def __init__(
        self,
        spawn: Callable[[], Workers],
        sharing: Sharing,
        groups: Sequence[Group],
        labels: npt.NDArray[np.int64],
        *,
        device: str,
        recovery: Recovery,
        progress: Progress,
    ) -> None:
        super().__init__(groups, labels, sharing.chunk)
        self.device, self.at_once = device, sharing.workers
        self._spawn, self._sharing = spawn, sharing
        self._crew: Workers | None = None
        self._recovery, self._progress = recovery, progress
        self._moments: Any = None
        recovery.sums_elsewhere = self._sums

    def start(self) -> None:
        """Start the workers, unless they run.

        Raises:
            DeployError: one cannot begin, as it lacks the device or the images.
        """
        if self._crew is None:
            self._crew, self._moments = self._spawn(), None
            self.call_all("begin")

    def release(self) -> None:
        """End the workers, which gives memory and devices back; later evaluations start others."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None

    def call_all(self, method: str) -> list[Any]:
        """Results of a method of all workers, called at once."""
        calls = [self._workers.submit(number, method) for number in range(self.at_once)]
        return [self._workers.result(call) for call in calls]

    @property
    def _workers(self) -> Workers:
        self.start()
        assert self._crew is not None
        return self._crew

    def outcomes(self, asked: Sequence[Asked], progress: Progress = SILENT) -> Iterator[Outcome]:
        """See `EvaluationEngine`."""
        courses = [Course(each, self.labels, self.chunk) for each in asked]
        side_by_side = _SideBySide(self, courses)
        for course in courses:
            side_by_side.advance(course)
            progress.advance(course.left[0][0] if course.left else len(self.labels), 0)
            self._run(course, progress)
            yield course.outcome()

    def ask(self, worker: int, request: Request, chunk: Chunk) -> Any:
        """Have a worker evaluate one of its chunks; `logits_of` waits for it."""
        workers = self._workers
        if self._moments is None and self._recovery.needs_moments:
            self._moments = workers.put(self._recovery.moments)
        return workers.submit(worker, "logits", request, chunk, self._moments)

    def logits_of(self, call: Any) -> torch.Tensor:
        """Logits `[n, K]` of a call of `ask`."""
        found, told = self._workers.result(call)
        for line in told:
            self._progress.message(line)
        return torch.from_numpy(np.array(found))

    def first_done(self, calls: Sequence[Any]) -> Any:
        """The first call that is done of some."""
        return self._workers.first_done(calls)

    def held_by_all(self, chunk: Chunk) -> bool:
        """Whether all workers hold a chunk's images."""
        return self._sharing.held_by_all(chunk)

    def _run(self, course: Course, progress: Progress) -> None:
        """Wave after wave: as many chunks at once as there are workers."""
        request, last = course.asked.request, course.chunks[-1][1]
        while not course.ended:
            wave = course.left[: self.at_once]
            calls = [self._shared(request, chunk) for chunk in wave]
            for chunk, call in zip(wave, calls, strict=True):
                if not course.ended:
                    course.take(self.logits_of(call))
                    progress.advance(chunk[1], last)

    def _shared(self, request: Request, chunk: Chunk) -> Any:
        """Ask the owner of a chunk; where others will follow, all that hold it cache its states."""
        owner = self._sharing.owner(chunk)
        if len(request.varied) > 1 and self.held_by_all(chunk):
            for worker in range(self.at_once):
                if worker != owner:
                    self.ask(worker, request, chunk)
        return self.ask(owner, request, chunk)

    def _sums(self, batches: int) -> Iterable[BatchSums]:
        count = self.at_once
        for start in range(0, batches, count):
            wave = range(start, min(start + count, batches))
            calls = [self._workers.submit(number % count, "sums", number) for number in wave]
            for call in calls:
                yield self._workers.result(call)


class _SideBySide:
    """Evaluations on workers of their own, as far as the images go that all workers hold.

    Args:
        engine: whose workers they are.
        courses: the evaluations, which begin in their order.
    """

    def __init__(self, engine: WorkerEngine, courses: Sequence[Course]) -> None:
        self._engine = engine
        self._waiting = deque(courses)
        self._idle = deque(range(engine.at_once))
        self._running: dict[Any, tuple[int, Course]] = {}

    def advance(self, course: Course) -> None:
        """Go on until one of the evaluations can go no further here."""
        self._begin()
        while any(course is running for _, running in self._running.values()):
            call = self._engine.first_done(list(self._running))
            worker, found = self._running.pop(call)
            found.take(self._engine.logits_of(call))
            if not self._ask(worker, found):
                self._idle.append(worker)
            self._begin()

    def _begin(self) -> None:
        while self._idle and self._waiting:
            worker = self._idle.popleft()
            if not self._ask(worker, self._waiting.popleft()):
                self._idle.append(worker)

    def _ask(self, worker: int, course: Course) -> bool:
        """Ask for the next chunk of an evaluation; False: it has ended here."""
        if course.ended or not self._engine.held_by_all(course.left[0]):
            return False
        call = self._engine.ask(worker, course.asked.request, course.left[0])
        self._running[call] = worker, course
        return True
