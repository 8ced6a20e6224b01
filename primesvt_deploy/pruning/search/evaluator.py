"""The engine that evaluates in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import Progress
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search.chunk_evaluator import ChunkEvaluator, EvaluatedOn
from primesvt_deploy.pruning.search.engine import Course, EvaluationEngine

__all__ = ["CHUNK", "Evaluator", "chunk_size"]

CHUNK = 32
"""Images between two looks, where a forward pass takes no more."""


def chunk_size(batch: int) -> int:
    """Images between two looks: whole batches of so many."""
    return batch * max(1, CHUNK // batch)


class Evaluator(EvaluationEngine):
    """Classifies a fixed list of images under any plan, in this process.

    Args:
        model: the dense SViT.
        groups: its prunable groups.
        images: evaluated in their order.
        chunk: images between two looks at `stop`; None: some batches.
        recovery: how pruned models are recovered, on the same device; None: not at all.
        on: device, arithmetic and memory.
        tell: gets a line when a batch had to be halved.
    """

    def __init__(
        self,
        model: SViT,
        groups: Sequence[Group],
        images: ImageList,
        *,
        chunk: int | None = None,
        recovery: Recovery | None = None,
        on: EvaluatedOn | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        on = on or EvaluatedOn()
        super().__init__(groups, images.labels, chunk or chunk_size(on.batch_of(model)))
        self.device = on.device.type
        self._chunks = ChunkEvaluator(model, groups, images, recovery=recovery, on=on, tell=tell)

    def start(self) -> None:
        """See `EvaluationEngine`: this process runs."""

    def release(self) -> None:
        """See `EvaluationEngine`."""
        self._chunks.release()

    def _run(self, course: Course, progress: Progress) -> None:
        request, last = course.asked.request, course.chunks[-1][1]
        while not course.ended:
            start, stop = chunk = course.left[0]

            def tell(share: float, start: int = start, stop: int = stop) -> None:
                progress.advance(start + int(share * (stop - start)), last)

            course.take(self._chunks.logits(request, chunk, tell))
