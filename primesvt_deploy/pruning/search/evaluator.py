"""Evaluate masked candidates on images: prefixes cached, hopeless ones stopped early."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.families.network import Segment, SpikingNetwork
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search.plan_networks import PlanNetworks
from primesvt_deploy.pruning.search.state_cache import CALIBRATION, Chunk, StateCache, restored

__all__ = ["Evaluator", "Outcome"]


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
class _Request:
    """One evaluation.

    Args:
        plan: channels that stay.
        keep_at: segments whose entrance states are cached for later calls.
        narrow: run the cut network, whose states do not fit the cache.
    """

    plan: Plan
    keep_at: frozenset[int]
    narrow: bool


@dataclass(frozen=True)
class _Network:
    """The network of a plan.

    Args:
        network: lowered.
        calibrated_from: the first segment whose norms were matched to this plan; those before it
            are right only where a cached state takes their place.
    """

    network: SpikingNetwork
    calibrated_from: int = 0


class Evaluator:
    """Classifies a fixed list of images under any plan.

    Args:
        model: the dense SViT.
        groups: its prunable groups.
        images: evaluated in their order.
        batch_size: images a forward pass; None: 32 small ones, fewer large ones.
        chunk: images between two looks at `stop`; a multiple of `batch_size`.
        cache_bytes: memory for cached states; None: a quarter of the machine's, 4 GB at most.
        recovery: how pruned models are recovered; None: not at all.
    """

    def __init__(
        self,
        model: SViT,
        groups: Sequence[Group],
        images: ImageList,
        *,
        batch_size: int | None = None,
        chunk: int = 128,
        cache_bytes: int | None = None,
        recovery: Recovery | None = None,
    ) -> None:
        self.groups, self.images = tuple(groups), images
        self._recovery = recovery if recovery and recovery.steps else None
        self._networks = PlanNetworks(model, groups)
        self._batch_size, self._chunk = batch_size or model.batch_of(32), chunk
        segments = self._networks.dense.segments()
        entrance = {group.name: _first_segment(group, segments) for group in groups}
        self._cache = StateCache(entrance, cache_bytes)

    @torch.no_grad()
    def outcome(
        self,
        plan: Plan,
        *,
        limit: int | None = None,
        stop: Callable[[npt.NDArray[np.bool_]], bool] | None = None,
        keep: Iterable[Group] = (),
        progress: Progress = SILENT,
    ) -> Outcome:
        """Classify the images under `plan`, in order.

        Args:
            plan: channels that stay.
            limit: so many images at most.
            stop: called after each chunk with the flags so far; True ends the evaluation.
            keep: groups about to be varied: the states before them are cached for later calls.
            progress: gets the images done; no step.
        """
        n = min(len(self.images), limit or len(self.images))
        varied = tuple(keep)
        keep_at = frozenset(self._cache.entrance[group.name] for group in varied) - {0}
        request = _Request(plan, keep_at, narrow=not varied and bool(plan.kept))
        chunks = [(i, min(i + self._chunk, n)) for i in range(0, n, self._chunk)]
        made = self._network(request, min(self._depth(request, chunk) for chunk in chunks))
        flags: list[npt.NDArray[np.bool_]] = []
        logits: list[torch.Tensor] = []
        for chunk in chunks:
            first = self._depth(request, chunk)
            if first < made.calibrated_from:
                made = self._network(request, first)  # states were dropped to make room since

            def tell(share: float, chunk: Chunk = chunk) -> None:
                progress.advance(chunk[0] + int(share * (chunk[1] - chunk[0])), n)

            logits.append(self._run(request, made.network, chunk, first, tell))
            labels = torch.from_numpy(self.images.labels[slice(*chunk)])
            flags.append((logits[-1].argmax(dim=1) == labels).numpy())
            if stop is not None and chunk[1] < n and stop(np.concatenate(flags)):
                break
        return Outcome(np.concatenate(flags), torch.cat(logits).float())

    def release(self) -> None:
        """Give the memory of cached states back; later evaluations start from the images."""
        self._cache.clear()

    def _depth(self, request: _Request, chunk: Chunk, most: int | None = None) -> int:
        return 0 if request.narrow else self._cache.depth(request.plan, chunk, most)

    def _run(
        self,
        request: _Request,
        network: SpikingNetwork,
        chunk: Chunk,
        first: int,
        tell: Callable[[float], None],
    ) -> torch.Tensor:
        """Logits of a chunk from segment `first` on; `tell` gets the share that is done."""
        batches = self._cache.states(first, chunk) if first else self._inputs(network, chunk)
        segments = network.segments()
        for index, segment in enumerate(segments):
            if index < first:
                continue
            if index in request.keep_at:
                self._cache.keep(request.plan, index, chunk, batches)
            reached: list[torch.Tensor] = []
            for batch in batches:  # a cached list stays as it is
                reached.append(segment.run(restored(batch)))
                passed = index - first + len(reached) / len(batches)
                tell(passed / (len(segments) - first))
            batches = reached
        return torch.cat(batches)

    def _inputs(self, network: SpikingNetwork, chunk: Chunk) -> list[torch.Tensor]:
        inputs = torch.from_numpy(self.images.inputs(*chunk)).split(self._batch_size)
        return [self._networks.state_in_layout(network.fold(time_first(b))) for b in inputs]

    def _network(self, request: _Request, first: int) -> _Network:
        """The network of a plan, recovered from segment `first` on at least."""
        plan = request.plan
        if self._recovery is None:
            made = self._networks.cut(plan) if request.narrow else self._networks.masked(plan)
            return _Network(made)
        recovered, calibrated_from = self._recovered(self._recovery, request, first)
        if request.narrow:
            return _Network(self._networks.cut(plan, recovered), calibrated_from)
        return _Network(self._networks.lowered(recovered), calibrated_from)

    def _recovered(
        self, recovery: Recovery, request: _Request, first: int
    ) -> tuple[SpikingNetwork, int]:
        """The recovered network, and the segment from which on its norms are matched."""
        network = recovery.masked(request.plan)
        if not (recovery.matches_norms and request.plan.kept):
            return network, 0
        network = self._networks.in_layout(network)
        start = self._depth(request, CALIBRATION, most=first)
        state = restored(self._cache.states(start, CALIBRATION)[0]) if start else recovery.state

        def keep(index: int, reached: torch.Tensor) -> None:
            if index in request.keep_at:
                self._cache.keep(request.plan, index, CALIBRATION, [reached])

        recovery.match(network, self._networks.state_in_layout(state), start, keep)
        return network, start


def _first_segment(group: Group, segments: Sequence[Segment]) -> int:
    units = [name.rpartition(".")[0] for name in group.outputs]
    return min(
        index
        for index, segment in enumerate(segments)
        for unit in units
        if any(unit == own or unit.startswith(f"{own}.") for own in segment.units)
    )
