"""Evaluate masked candidates on chunks of images, behind cached prefixes, on one device."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.compute.device import CPU
from primesvt_deploy.compute.fitting_batches import FittingBatches
from primesvt_deploy.families.network import Segment, SpikingNetwork
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search.engine import Request
from primesvt_deploy.pruning.search.plan_networks import PlanNetworks
from primesvt_deploy.pruning.search.samples import Samples
from primesvt_deploy.pruning.search.state_cache import CALIBRATION, Chunk, StateCache, restored

__all__ = ["ChunkEvaluator", "EvaluatedOn", "first_segment"]

_ON_CPU, _ON_CUDA = 32, 256
"""Small images a forward pass."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedOn:
    """Device, arithmetic and memory of evaluations.

    Args:
        device: that networks and states lie on.
        precision: `fp32`, or `bf16`: products of bfloat16.
        batch_size: images a forward pass; None: 32 small ones (256 on CUDA), fewer large ones.
        cache_bytes: memory for cached states; None: see `StateCache`.
    """

    device: torch.device = CPU
    precision: str = "fp32"
    batch_size: int | None = None
    cache_bytes: int | None = None

    def arithmetic(self) -> AbstractContextManager[object]:
        """Context in which networks compute in this precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def batch_of(self, model: SViT) -> int:
        """Images a forward pass."""
        return self.batch_size or model.batch_of(
            _ON_CUDA if self.device.type == "cuda" else _ON_CPU
        )


@dataclass(frozen=True)
class _Made:
    """The network of a request.

    Args:
        network: lowered.
        calibrated_from: the first segment whose norms were matched to its plan; those before it
            are right only where a cached state takes their place.
    """

    network: SpikingNetwork
    calibrated_from: int = 0


class ChunkEvaluator:
    """Logits of chunks of images under any plan; a batch that does not fit the memory is halved.

    Args:
        model: the dense SViT; it stays on the CPU.
        groups: its prunable groups.
        samples: gives the images of a chunk.
        recovery: how pruned models are recovered, on the same device; None: not at all.
        on: device, arithmetic and memory.
        tell: gets a line when a batch had to be halved.
    """

    def __init__(
        self,
        model: SViT,
        groups: Sequence[Group],
        samples: Samples,
        *,
        recovery: Recovery | None = None,
        on: EvaluatedOn | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._on = on or EvaluatedOn()
        self._samples = samples
        self._recovery = recovery if recovery and recovery.steps else None
        self._networks = PlanNetworks(model, groups, self._on.device)
        self._batch_size = self._on.batch_of(model)
        segments = self._networks.dense.segments()
        entrance = {group.name: first_segment(group, segments) for group in groups}
        self._cache = StateCache(entrance, self._on.cache_bytes, self._on.device)
        self._made: OrderedDict[Request, _Made] = OrderedDict()
        self._fitting = FittingBatches(tell)

    @torch.no_grad()
    def logits(
        self, request: Request, chunk: Chunk, tell: Callable[[float], None] = lambda share: None
    ) -> torch.Tensor:
        """Logits of a chunk, `[n, K]` float32 on the CPU.

        Args:
            request: the plan, and what to cache for later ones.
            chunk: first and last (exclusive) image.
            tell: gets the share that is done.

        Raises:
            SettingsError: a single image does not fit the device's memory.
        """
        while True:
            try:
                return self._run(request, chunk, tell).float().cpu()
            except torch.OutOfMemoryError as error:
                self._made_room(error, chunk[1] - chunk[0])

    def release(self) -> None:
        """Give the memory of cached states back; later evaluations start from the images."""
        self._cache.clear()
        self._made.clear()

    def _made_room(self, error: torch.OutOfMemoryError, images: int) -> None:
        """Have less in the device's memory from now on: fewer cached states, then smaller batches.

        A network of its own is made anew, as making it may be what did not fit.
        """
        self._made.clear()
        if not self._cache.shrink():
            self._batch_size = self._fitting.halve(min(self._batch_size, images), error)
        torch.cuda.empty_cache()

    def _run(self, request: Request, chunk: Chunk, tell: Callable[[float], None]) -> torch.Tensor:
        first = self._depth(request, chunk)
        made = self._made.get(request)
        if made is None or first < made.calibrated_from:
            self._forget()
            made = self._made[request] = self._make(request, first)
        self._made.move_to_end(request)
        network = made.network
        keep_at = self._keep_at(request)
        batches = self._cache.states(first, chunk) if first else self._inputs(network, chunk)
        segments = network.segments()
        for index, segment in enumerate(segments):
            if index < first:
                continue
            if index in keep_at:
                self._cache.keep(request.plan, index, chunk, batches)
            reached: list[torch.Tensor] = []
            for batch in batches:  # a cached list stays as it is
                with self._on.arithmetic():
                    reached.append(segment.run(restored(batch)))
                passed = index - first + len(reached) / len(batches)
                tell(passed / (len(segments) - first))
            batches = reached
        return torch.cat(batches)

    def _forget(self) -> None:
        """Make room for a network; one stays, as candidates and the dense model take turns."""
        # Without recovery all masked networks are one and the same.
        while len(self._made) > (0 if self._recovery is None else 1):
            self._made.popitem(last=False)

    def _inputs(self, network: SpikingNetwork, chunk: Chunk) -> list[torch.Tensor]:
        inputs = torch.from_numpy(self._samples.inputs(*chunk)).split(self._batch_size)
        return [self._networks.state_in_layout(network.fold(time_first(b))) for b in inputs]

    def _keep_at(self, request: Request) -> frozenset[int]:
        return frozenset(self._cache.entrance[name] for name in request.varied) - {0}

    def _depth(self, request: Request, chunk: Chunk, most: int | None = None) -> int:
        return 0 if request.narrow else self._cache.depth(request.plan, chunk, most)

    def _make(self, request: Request, first: int) -> _Made:
        """The network of a request, recovered from segment `first` on at least."""
        plan = request.plan
        if self._recovery is None:
            made = self._networks.cut(plan) if request.narrow else self._networks.masked(plan)
            return _Made(made)
        recovered, calibrated_from = self._recovered(self._recovery, request, first)
        if request.narrow:
            return _Made(self._networks.cut(plan, recovered), calibrated_from)
        return _Made(self._networks.lowered(recovered), calibrated_from)

    def _recovered(
        self, recovery: Recovery, request: Request, first: int
    ) -> tuple[SpikingNetwork, int]:
        """The recovered network, and the segment from which on its norms are matched."""
        network = recovery.masked(request.plan)
        if not (recovery.matches_norms and request.plan.kept):
            return network, 0
        network = self._networks.in_layout(network)
        start = self._depth(request, CALIBRATION, most=first)
        state = restored(self._cache.states(start, CALIBRATION)[0]) if start else recovery.state
        keep_at = self._keep_at(request)

        def keep(index: int, reached: torch.Tensor) -> None:
            if index in keep_at:
                self._cache.keep(request.plan, index, CALIBRATION, [reached])

        recovery.match(network, self._networks.state_in_layout(state), start, keep)
        return network, start


def first_segment(group: Group, segments: Sequence[Segment]) -> int:
    """Index of the segment that a group begins in: states before it do not depend on its mask."""
    units = [name.rpartition(".")[0] for name in group.outputs]
    return min(
        index
        for index, segment in enumerate(segments)
        for unit in units
        if any(unit == own or unit.startswith(f"{own}.") for own in segment.units)
    )
