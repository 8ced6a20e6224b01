"""The contract of evaluation engines: hits and logits of a plan on the search images, in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.state_cache import Chunk

__all__ = ["Asked", "Course", "EvaluationEngine", "Outcome", "Request", "chunks_of"]


@dataclass(frozen=True)
class Outcome:
    """Classification of the images seen, under one plan.

    Args:
        hits: `[n]`, whether each is classified rightly.
        logits: `[n, K]`, float32.
    """

    hits: npt.NDArray[np.bool_]
    logits: torch.Tensor


@dataclass(frozen=True)
class Request:
    """One evaluation, as it is sent to whoever evaluates.

    Args:
        plan: channels that stay.
        varied: names of the groups about to be varied: the states before them are cached for later
            requests; none: the network is cut, and its states fit no cache.
    """

    plan: Plan
    varied: tuple[str, ...] = ()

    @property
    def narrow(self) -> bool:
        """Whether the cut network runs, not the masked one."""
        return not self.varied and bool(self.plan.kept)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An evaluation that is asked for.

    Args:
        plan: channels that stay.
        start: the first image; those before it are left out.
        limit: the last image (exclusive); None: the last of all.
        stop: called after each chunk with the flags so far, from `start` on; True ends the
            evaluation, and chunks behind that were evaluated as well do not count.
        keep: groups about to be varied: the states before them are cached for later evaluations.
    """

    plan: Plan
    start: int = 0
    limit: int | None = None
    stop: Callable[[npt.NDArray[np.bool_]], bool] | None = None
    keep: tuple[Group, ...] = ()

    @property
    def request(self) -> Request:
        """The part that whoever evaluates must know."""
        return Request(self.plan, tuple(group.name for group in self.keep))


class Course:
    """The course of one evaluation: chunks in order, until one ends it.

    Args:
        asked: the evaluation.
        labels: class of each image, int64 `[N]`.
        chunk: images of a chunk.
    """

    def __init__(self, asked: Asked, labels: npt.NDArray[np.int64], chunk: int) -> None:
        self.asked, self._labels = asked, labels
        last = min(len(labels), asked.limit or len(labels))
        self.chunks = chunks_of(last, chunk, asked.start)
        self._flags: list[npt.NDArray[np.bool_]] = []
        self._logits: list[torch.Tensor] = []
        self.ended = False

    @property
    def left(self) -> list[Chunk]:
        """Chunks that have not been taken, in order."""
        return self.chunks[len(self._flags) :]

    def take(self, logits: torch.Tensor) -> None:
        """Take the logits of the next chunk, `[n, K]` on the CPU."""
        chunk = self.left[0]
        labels = torch.from_numpy(self._labels[slice(*chunk)])
        self._logits.append(logits)
        self._flags.append((logits.argmax(dim=1) == labels).numpy())
        stop = self.asked.stop
        self.ended = not self.left or (stop is not None and stop(np.concatenate(self._flags)))

    def outcome(self) -> Outcome:
        """Hits and logits of the chunks taken."""
        return Outcome(np.concatenate(self._flags), torch.cat(self._logits).float())


class EvaluationEngine(ABC):
    """Classifies a fixed list of images under any plan, chunk by chunk.

    Whoever evaluates the chunks, they are the same, and looked at in the same order: on devices of
    one kind the outcome is identical.

    Args:
        groups: the model's prunable groups.
        labels: class of each image, int64 `[N]`.
        chunk: images between two looks at `Asked.stop`.

    Attributes:
        device: kind of the device that it evaluates on, `cpu` or `cuda`.
        at_once: evaluations or chunks that are computed side by side.
    """

    device: str
    at_once: int = 1

    def __init__(self, groups: Sequence[Group], labels: npt.NDArray[np.int64], chunk: int) -> None:
        self.groups, self.labels, self.chunk = tuple(groups), labels, chunk

    def outcome(
        self,
        plan: Plan,
        *,
        start: int = 0,
        limit: int | None = None,
        stop: Callable[[npt.NDArray[np.bool_]], bool] | None = None,
        keep: Iterable[Group] = (),
        progress: Progress = SILENT,
    ) -> Outcome:
        """Classify the images under `plan`, in order.

        Args:
            plan: channels that stay.
            start: the first image.
            limit: the last image (exclusive); None: the last of all.
            stop: ends it early (see `Asked`).
            keep: groups about to be varied.
            progress: gets the images done; no step.
        """
        asked = Asked(plan=plan, start=start, limit=limit, stop=stop, keep=tuple(keep))
        course = Course(asked, self.labels, self.chunk)
        self._run(course, progress)
        return course.outcome()

    def outcomes(self, asked: Sequence[Asked], progress: Progress = SILENT) -> Iterator[Outcome]:
        """Outcomes of evaluations that do not depend on one another, in their order.

        Args:
            asked: the evaluations.
            progress: gets the images done of each; no step.
        """
        for each in asked:
            course = Course(each, self.labels, self.chunk)
            self._run(course, progress)
            yield course.outcome()

    @abstractmethod
    def start(self) -> None:
        """Start whoever evaluates, unless that is done.

        Raises:
            DeployError: they cannot be had.
        """

    @abstractmethod
    def release(self) -> None:
        """Give the memory of cached states back; later evaluations start from the images."""

    @abstractmethod
    def _run(self, course: Course, progress: Progress) -> None:
        """Evaluate what is left of an evaluation, to its end."""


def chunks_of(images: int, size: int, start: int = 0) -> list[Chunk]:
    """Chunks of so many images; the last one may be smaller, and the first if it begins at `start`.

    Args:
        images: the last image (exclusive).
        size: images of a chunk: those begin at multiples of it.
        start: the first image.
    """
    begins = [start, *range(start - start % size + size, images, size)]
    return list(zip(begins, [*begins[1:], images], strict=True))
