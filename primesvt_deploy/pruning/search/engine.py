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

__all__ = ["EvaluationEngine", "Outcome", "Request", "chunks_of"]


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


class EvaluationEngine(ABC):
    """Classifies a fixed list of images under any plan, chunk by chunk.

    Whoever evaluates the chunks, they are the same, and looked at in the same order: on devices of
    one kind the outcome is identical.

    Args:
        groups: the model's prunable groups.
        labels: class of each image, int64 `[N]`.
        chunk: images between two looks at `stop`.

    Attributes:
        device: kind of the device that it evaluates on, `cpu` or `cuda`.
        at_once: chunks that are evaluated side by side.
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
            start: the first image; those before it are left out.
            limit: the last image (exclusive); None: the last of all.
            stop: called after each chunk with the flags so far, from `start` on; True ends the
                evaluation, and chunks behind that were evaluated as well do not count.
            keep: groups about to be varied: the states before them are cached for later calls.
            progress: gets the images done; no step.
        """
        n = min(len(self.labels), limit or len(self.labels))
        request = Request(plan, tuple(group.name for group in keep))
        flags: list[npt.NDArray[np.bool_]] = []
        logits: list[torch.Tensor] = []
        for chunk, found in self._logits(request, chunks_of(n, self.chunk, start), progress):
            logits.append(found)
            labels = torch.from_numpy(self.labels[slice(*chunk)])
            flags.append((found.argmax(dim=1) == labels).numpy())
            if stop is not None and chunk[1] < n and stop(np.concatenate(flags)):
                break
        return Outcome(np.concatenate(flags), torch.cat(logits).float())

    @abstractmethod
    def release(self) -> None:
        """Give the memory of cached states back; later evaluations start from the images."""

    @abstractmethod
    def _logits(
        self, request: Request, chunks: Sequence[Chunk], progress: Progress
    ) -> Iterator[tuple[Chunk, torch.Tensor]]:
        """The chunks in order, each with its logits on the CPU; ended early, if it is closed."""


def chunks_of(images: int, size: int, start: int = 0) -> list[Chunk]:
    """Chunks of so many images; the last one may be smaller, and the first if it begins at `start`.

    Args:
        images: the last image (exclusive).
        size: images of a chunk: those begin at multiples of it.
        start: the first image.
    """
    begins = [start, *range(start - start % size + size, images, size)]
    return list(zip(begins, [*begins[1:], images], strict=True))
