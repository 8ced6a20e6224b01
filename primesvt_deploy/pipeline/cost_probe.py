"""Network, images, device and seconds that the pace of a search is measured with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.pruning.search.chunk_evaluator import EvaluatedOn
from primesvt_deploy.settings import SearchSettings

__all__ = ["Probe"]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A network, what it is measured on, and how long that may take.

    Args:
        model: the dense SViT.
        groups: that can lose channels.
        images: that candidates are judged on; None: random ones stand for them.
        settings: of the search.
        on: device and arithmetic.
        seconds: to spend, about.
    """

    model: SViT
    groups: Sequence[Group]
    images: ImageList | None
    settings: SearchSettings
    on: EvaluatedOn
    seconds: float

    def samples(self, count: int) -> torch.Tensor:
        """Samples as the network takes them, `count` at most."""
        if self.images is None or not len(self.images):
            return self.model.config.example(count)
        return time_first(torch.from_numpy(self.images.inputs(0, min(count, len(self.images)))))

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds of some work, with what it leaves for the device to do."""
        started = time.perf_counter()
        work()
        if self.on.device.type == "cuda":
            torch.cuda.synchronize(self.on.device)
        return time.perf_counter() - started
