"""Outcomes of masked candidates: prefixes cached, hopeless ones stopped early.

A mask on a layer, and the recovery it brings about, leave everything before it unchanged, so the
state that enters the layer's segment is kept, for each chunk of images and for the calibration
batch, and candidates start there. Spike-shortcut streams hold small integers and are kept exactly
as uint8.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.lowering.fold_batchnorm import lower
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.pruning.cut import cut, mask, silence
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery.recovery import Recovery

__all__ = ["Evaluator", "Outcome"]

_Prefix = tuple[tuple[str, tuple[int, ...]], ...]
_Chunk = tuple[int, int]
_CALIBRATION: _Chunk = (-1, -1)


@dataclass(frozen=True)
class Outcome:
    """What a plan gives on the images seen.

    Args:
        hits: `[n]`, whether each is classified rightly.
        logits: `[n, K]`, float32.
    """

    hits: npt.NDArray[np.bool_]
    logits: torch.Tensor


@dataclass
class _Boundary:
    """States kept at the entrance of one segment, under one set of masks before it."""

    prefix: _Prefix
    chunks: dict[_Chunk, list[torch.Tensor]]

    @property
    def bytes(self) -> int:
        return sum(t.nbytes for chunk in self.chunks.values() for t in chunk)


class Evaluator:
    """Classifies a fixed list of images under any plan.

    Args:
        model: the dense SViT.
        groups: its prunable groups.
        images: evaluated in their order.
        batch_size: images a forward pass; None: 32 small ones, fewer large ones.
        chunk: images between two looks at `stop`; a multiple of `batch_size`.
        cache_bytes: at most so much memory for cached states; None: a quarter of the machine's,
            4 GB at most.
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
        self.images = images
        self._groups = groups
        self._recovery = recovery if recovery and recovery.steps else None
        # A user's own code may ask for contiguous tensors (`view`).
        self._channels_last = model.module.couplings_declared
        self._module = model.module
        self._twin = self._whole = self._laid_out_network(lower(model.module))
        self._segments = self._whole.segments()
        self._calibrated_from, self._narrow = 0, False
        self._batch_size, self._chunk = batch_size or model.batch_of(32), chunk
        self._cache_bytes = _default_cache() if cache_bytes is None else cache_bytes
        self._boundaries: OrderedDict[int, _Boundary] = OrderedDict()
        self._entrance = {group.name: self._first_segment(group) for group in groups}
        masked = {name for group in groups for name in (*group.outputs, *group.norms)}
        self._pristine = {
            name: tensor.clone()
            for name, tensor in self._twin.state_dict().items()
            if name.rpartition(".")[0] in masked
        }

    @torch.no_grad()
    def outcome(
        self,
        plan: Plan,
        *,
        limit: int | None = None,
        stop: Callable[[npt.NDArray[np.bool_]], bool] | None = None,
        keep: Iterable[Group] = (),
    ) -> Outcome:
        """What each image is classified as under `plan`, in order.

        Args:
            plan: channels that stay.
            limit: so many images at most.
            stop: asked after each chunk with the flags so far; True ends the evaluation.
            keep: groups about to be varied: the states before them are kept for later calls.
        """
        n = min(len(self.images), limit or len(self.images))
        varied = tuple(keep)
        keep_at = frozenset(self._entrance[group.name] for group in varied) - {0}
        # What nobody keeps states of need not be as wide as the dense model, whose states do not
        # fit it then.
        self._narrow = not varied and bool(plan.kept)
        chunks = [(i, min(i + self._chunk, n)) for i in range(0, n, self._chunk)]
        self._apply(plan, min(self._depth(plan, chunk) for chunk in chunks), keep_at)
        flags: list[npt.NDArray[np.bool_]] = []
        logits: list[torch.Tensor] = []
        for chunk in chunks:
            logits.append(self._run_chunk(plan, chunk, keep_at))
            labels = torch.from_numpy(self.images.labels[slice(*chunk)])
            flags.append((logits[-1].argmax(dim=1) == labels).numpy())
            if stop is not None and chunk[1] < n and stop(np.concatenate(flags)):
                break
        return Outcome(np.concatenate(flags), torch.cat(logits).float())

    def _run_chunk(self, plan: Plan, chunk: _Chunk, keep_at: frozenset[int]) -> torch.Tensor:
        first = self._depth(plan, chunk)
        if first < self._calibrated_from:
            self._apply(plan, first, keep_at)  # states were dropped to make room since
        batches = self._entering(plan, chunk, first)
        for index in range(first, len(self._segments)):
            if index in keep_at:
                self._remember(plan, index, chunk, batches)
            batches = [self._segments[index].run(_restored(batch)) for batch in batches]
        return torch.cat(batches)

    def _depth(self, plan: Plan, chunk: _Chunk, most: int | None = None) -> int:
        """Index of the deepest segment, up to `most`, whose entrance is known for a chunk."""
        if self._narrow:
            return 0
        for index in sorted(self._boundaries, reverse=True):
            known = self._boundaries[index]
            if most is not None and index > most:
                continue
            if chunk in known.chunks and known.prefix == self._prefix(plan, index):
                return index
        return 0

    def _entering(self, plan: Plan, chunk: _Chunk, segment: int) -> list[torch.Tensor]:
        """A chunk's batches at the entrance of a segment."""
        if segment:
            self._boundaries.move_to_end(segment)
            return self._boundaries[segment].chunks[chunk]
        inputs = torch.from_numpy(self.images.inputs(*chunk))
        batches = [self._twin.fold(time_first(b)) for b in inputs.split(self._batch_size)]
        return [self._laid_out(batch) for batch in batches]

    def _remember(self, plan: Plan, index: int, chunk: _Chunk, batches: list[torch.Tensor]) -> None:
        prefix = self._prefix(plan, index)
        boundary = self._boundaries.get(index)
        if boundary is None or boundary.prefix != prefix:
            boundary = self._boundaries[index] = _Boundary(prefix, {})
        if chunk in boundary.chunks:
            return
        boundary.chunks[chunk] = [_compact(batch) for batch in batches]
        self._boundaries.move_to_end(index)
        while sum(b.bytes for b in self._boundaries.values()) > self._cache_bytes:
            oldest = next(iter(self._boundaries))
            if oldest == index:
                del boundary.chunks[chunk]
                return
            del self._boundaries[oldest]

    def _prefix(self, plan: Plan, segment: int) -> _Prefix:
        """The part of a plan that the entrance of `segment` depends on."""
        return tuple(item for item in plan.kept if self._entrance[item[0]] < segment)

    def _first_segment(self, group: Group) -> int:
        units = [name.rpartition(".")[0] for name in group.outputs]
        return min(
            index
            for index, segment in enumerate(self._segments)
            for unit in units
            if any(unit == own or unit.startswith(f"{own}.") for own in segment.units)
        )

    def _apply(self, plan: Plan, first: int, keep_at: frozenset[int]) -> None:
        """Make the twin that of `plan`, rightly recovered from segment `first` on at least."""
        self._calibrated_from = 0
        if self._recovery is None and not self._narrow:
            self._use(self._whole)
            self._twin.load_state_dict(self._pristine, strict=False)
            kept = plan.as_dict()
            for group in self._groups:
                if group.name in kept:
                    silence(self._twin, group, kept[group.name])
            return
        if self._recovery is None:
            network = mask(self._module, self._groups, plan)
        else:
            network = self._recovered(self._recovery, plan, first, keep_at)
        self._use(lower(cut(network, self._groups, plan) if self._narrow else network))

    def _recovered(
        self, recovery: Recovery, plan: Plan, first: int, keep_at: frozenset[int]
    ) -> SpikingNetwork:
        network = recovery.masked(plan)
        if not (recovery.matches_norms and plan.kept):
            return network
        network = self._laid_out_network(network)
        start = self._depth(plan, _CALIBRATION, most=first)
        known = self._boundaries[start].chunks[_CALIBRATION][0] if start else None
        state = recovery.state if known is None else _restored(known)

        def remember(index: int, reached: torch.Tensor) -> None:
            if index in keep_at:
                self._remember(plan, index, _CALIBRATION, [reached])

        recovery.match(network, self._laid_out(state), start, remember)
        self._calibrated_from = start
        return network

    def _use(self, twin: SpikingNetwork) -> None:
        self._twin = self._laid_out_network(twin)
        self._segments = self._twin.segments()

    def _laid_out_network(self, network: SpikingNetwork) -> SpikingNetwork:
        return network.to(memory_format=torch.channels_last) if self._channels_last else network

    def _laid_out(self, state: torch.Tensor) -> torch.Tensor:
        if not self._channels_last or state.ndim != 4:
            return state
        return state.contiguous(memory_format=torch.channels_last)


def _default_cache() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(4_000_000_000, memory // 4)


def _compact(state: torch.Tensor) -> torch.Tensor:
    """The state as uint8 where that holds it exactly."""
    small = state.to(torch.uint8)
    return small if torch.equal(small.to(state.dtype), state) else state


def _restored(state: torch.Tensor) -> torch.Tensor:
    return state.float() if state.dtype == torch.uint8 else state
