"""Accuracy of masked candidates: lowered once, prefixes cached, hopeless ones stopped early.

A mask on a layer leaves everything before it unchanged, so the state that enters the layer's
segment is kept, for each chunk of images, and candidates start there. Spike-shortcut streams
hold small integers and are kept exactly as uint8.
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
from primesvt_deploy.lowering.fold import lower
from primesvt_deploy.model import SViT, time_first
from primesvt_deploy.pruning.cut import silence
from primesvt_deploy.pruning.plan import Plan

__all__ = ["Evaluator"]

_Prefix = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass
class _Boundary:
    """States kept at the entrance of one segment, under one set of masks before it."""

    prefix: _Prefix
    chunks: dict[tuple[int, int], list[torch.Tensor]]

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
    ) -> None:
        self.images = images
        self._groups = groups
        self._twin = lower(model.module)
        # A user's own code may ask for contiguous tensors (`view`).
        self._channels_last = model.module.couplings_declared
        if self._channels_last:
            self._twin = self._twin.to(memory_format=torch.channels_last)
        self._segments = self._twin.segments()
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
    def hits(
        self,
        plan: Plan,
        *,
        limit: int | None = None,
        stop: Callable[[npt.NDArray[np.bool_]], bool] | None = None,
        keep: Iterable[Group] = (),
    ) -> npt.NDArray[np.bool_]:
        """Whether each image is classified rightly under `plan`, in order.

        Args:
            plan: channels that stay.
            limit: so many images at most.
            stop: asked after each chunk with the flags so far; True ends the evaluation.
            keep: groups about to be varied: the states before them are kept for later calls.
        """
        self._apply(plan)
        n = min(len(self.images), limit or len(self.images))
        keep_at = frozenset(self._entrance[group.name] for group in keep) - {0}
        flags: list[npt.NDArray[np.bool_]] = []
        for start in range(0, n, self._chunk):
            stop_at = min(start + self._chunk, n)
            logits = self._run_chunk(plan, start, stop_at, keep_at)
            labels = torch.from_numpy(self.images.labels[start:stop_at])
            flags.append((logits.argmax(dim=1) == labels).numpy())
            if stop is not None and stop_at < n and stop(np.concatenate(flags)):
                break
        return np.concatenate(flags)

    def _run_chunk(
        self, plan: Plan, start: int, stop: int, keep_at: frozenset[int]
    ) -> torch.Tensor:
        segment, batches = self._deepest(plan, start, stop)
        for index in range(segment, len(self._segments)):
            if index in keep_at:
                self._remember(plan, index, (start, stop), batches)
            batches = [self._segments[index].run(_restored(batch)) for batch in batches]
        return torch.cat(batches)

    def _deepest(self, plan: Plan, start: int, stop: int) -> tuple[int, list[torch.Tensor]]:
        """The deepest known state of a chunk under this plan: segment index and batches."""
        for index in sorted(self._boundaries, reverse=True):
            known = self._boundaries[index]
            if (start, stop) in known.chunks and known.prefix == self._prefix(plan, index):
                self._boundaries.move_to_end(index)
                return index, known.chunks[start, stop]
        inputs = torch.from_numpy(self.images.inputs(start, stop))
        batches = [self._twin.fold(time_first(b)) for b in inputs.split(self._batch_size)]
        if self._channels_last:
            batches = [b.contiguous(memory_format=torch.channels_last) for b in batches]
        return 0, batches

    def _remember(
        self, plan: Plan, index: int, chunk: tuple[int, int], batches: list[torch.Tensor]
    ) -> None:
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

    def _apply(self, plan: Plan) -> None:
        """Silence the channels that leave, in the twin: their folded filters and biases."""
        self._twin.load_state_dict(self._pristine, strict=False)
        kept = plan.as_dict()
        for group in self._groups:
            if group.name in kept:
                silence(self._twin, group, kept[group.name])


def _default_cache() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(4_000_000_000, memory // 4)


def _compact(state: torch.Tensor) -> torch.Tensor:
    """The state as uint8 where that holds it exactly."""
    small = state.to(torch.uint8)
    return small if torch.equal(small.to(state.dtype), state) else state


def _restored(state: torch.Tensor) -> torch.Tensor:
    return state.float() if state.dtype == torch.uint8 else state
