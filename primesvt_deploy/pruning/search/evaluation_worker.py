"""Workers of a search: each holds a shard of the search images, and evaluates its chunks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.input_statistics import BatchSums, Moments
from primesvt_deploy.compute.device import compute_device, use_exact_arithmetic
from primesvt_deploy.data.images import ImageList, check_visible
from primesvt_deploy.data.pixel_cache import cached
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search.chunk_evaluator import ChunkEvaluator, EvaluatedOn
from primesvt_deploy.pruning.search.engine import Request
from primesvt_deploy.pruning.search.samples import Shard
from primesvt_deploy.pruning.search.state_cache import Chunk, default_bytes

__all__ = ["EvaluationWorker", "WorkerSetup"]


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """All that the workers of one search have in common.

    Args:
        model: the dense SViT.
        groups: its prunable groups.
        steps: names of the recovery steps.
        calibration: images that recovery is calibrated on.
        device: of each worker, such as `cuda`; see `ComputeSettings`.
        precision: of evaluation.
        batch_size: images a forward pass; it decides the chunks, so it is the same everywhere.
    """

    model: SViT
    groups: tuple[Group, ...]
    steps: tuple[str, ...]
    calibration: ImageList
    device: str
    precision: str
    batch_size: int


class EvaluationWorker:
    """Evaluates the chunks of its shard under any plan, and sums calibration batches.

    Its state is all made of its arguments: one that was killed is replaced by another.

    Args:
        setup: what all workers have in common.
        shard: chunks of the search images.
    """

    def __init__(self, setup: WorkerSetup, shard: Shard) -> None:
        use_exact_arithmetic()
        device = compute_device(setup.device)
        self._given = (shard.images, setup.calibration)
        shard.images = cached(shard.images, None)  # files are decoded once by each worker
        self._recovery = Recovery(
            setup.model, setup.groups, cached(setup.calibration, None), setup.steps, device=device
        )
        self._notes: list[str] = []
        on = EvaluatedOn(
            device=device,
            precision=setup.precision,
            batch_size=setup.batch_size,
            cache_bytes=_share_of_memory(device),
        )
        self._chunks = ChunkEvaluator(
            setup.model, setup.groups, shard,
            recovery=self._recovery, on=on, tell=self._notes.append,
        )  # fmt: skip

    def process(self) -> int:
        """Number of the process that this worker runs in."""
        return os.getpid()

    def sums(self, number: int) -> BatchSums:
        """Sums of one calibration batch (see `Recovery.sums_of`)."""
        return self._recovery.sums_of(number)

    def logits(
        self, request: Request, chunk: Chunk, moments: Callable[[], Moments] | None
    ) -> tuple[npt.NDArray[np.float32], list[str]]:
        """Logits of a chunk, `[n, K]`, and lines to tell the user.

        Args:
            request: the plan, and what to cache for later ones.
            chunk: of the shard.
            moments: gives the statistics of the dense model, if recovery needs them.
        """
        if moments is not None:
            self._recovery.use_moments(moments)
        found = self._chunks.logits(request, chunk).numpy()
        told, self._notes[:] = list(self._notes), []
        return found, told

    def begin(self) -> None:
        """Refuse, before any work, images that this machine lacks.

        Raises:
            DataError: it lacks some.
        """
        for images in self._given:
            check_visible(images)


def _share_of_memory(device: torch.device) -> int:
    """Memory for cached states: as many workers as the cores are for may be on this machine."""
    beside = (
        1 if device.type == "cuda" else max(1, (os.cpu_count() or 1) // torch.get_num_threads())
    )
    return default_bytes(device) // beside
