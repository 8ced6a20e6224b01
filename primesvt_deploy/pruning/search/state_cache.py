"""Cache of the states that enter a network's segments, so that candidates start behind a prefix.

Masking a layer, and the recovery that follows, leave everything before the layer as it was. The
state at the entrance of its segment then holds for every plan that agrees on the layers before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from primesvt_deploy.compute.device import CPU
from primesvt_deploy.compute.memory import total_memory
from primesvt_deploy.pruning.plan import Plan

__all__ = ["CALIBRATION", "Chunk", "StateCache", "default_bytes", "restored"]

Chunk = tuple[int, int]
"""First and last (exclusive) image of a chunk."""
CALIBRATION: Chunk = (-1, -1)
"""The calibration batch, cached like a chunk of images."""
_Prefix = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass
class _Boundary:
    """States kept at the entrance of one segment, under one set of masks before it."""

    prefix: _Prefix
    chunks: dict[Chunk, list[torch.Tensor]]

    @property
    def bytes(self) -> int:
        return sum(t.nbytes for chunk in self.chunks.values() for t in chunk)


class StateCache:
    """States at the entrances of segments, by the part of a plan that they depend on.

    Spike-shortcut streams hold small integers, which are kept exactly as uint8.

    Args:
        entrance: index of the segment that each group begins in, by the group's name.
        max_bytes: memory for states; None: a quarter of the device's, of this machine's own 4 GB
            at most.
        device: that states lie on.
    """

    def __init__(
        self,
        entrance: Mapping[str, int],
        max_bytes: int | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.entrance = entrance
        self._max_bytes = default_bytes(device) if max_bytes is None else max_bytes
        self._boundaries: OrderedDict[int, _Boundary] = OrderedDict()

    def depth(self, plan: Plan, chunk: Chunk, most: int | None = None) -> int:
        """Index of the deepest segment, up to `most`, whose entrance is cached for a chunk."""
        for index in sorted(self._boundaries, reverse=True):
            cached = self._boundaries[index]
            if most is not None and index > most:
                continue
            if chunk in cached.chunks and cached.prefix == self._prefix(plan, index):
                return index
        return 0

    def states(self, segment: int, chunk: Chunk) -> list[torch.Tensor]:
        """The cached batches of a chunk at the entrance of a segment, as `depth` found it."""
        self._boundaries.move_to_end(segment)
        return self._boundaries[segment].chunks[chunk]

    def keep(self, plan: Plan, segment: int, chunk: Chunk, batches: list[torch.Tensor]) -> None:
        """Cache a chunk's batches at the entrance of a segment; the oldest states make room."""
        prefix = self._prefix(plan, segment)
        boundary = self._boundaries.get(segment)
        if boundary is None or boundary.prefix != prefix:
            boundary = self._boundaries[segment] = _Boundary(prefix, {})
        if chunk in boundary.chunks:
            return
        boundary.chunks[chunk] = [_compact(batch) for batch in batches]
        self._boundaries.move_to_end(segment)
        while sum(b.bytes for b in self._boundaries.values()) > self._max_bytes:
            oldest = next(iter(self._boundaries))
            if oldest == segment:
                del boundary.chunks[chunk]
                return
            del self._boundaries[oldest]

    def clear(self) -> None:
        """Give the memory of all states back."""
        self._boundaries.clear()

    def shrink(self) -> bool:
        """Take half of what is held now from now on; False: nothing is held."""
        held = sum(boundary.bytes for boundary in self._boundaries.values())
        self._max_bytes = held // 2
        self.clear()
        return held > 0

    def _prefix(self, plan: Plan, segment: int) -> _Prefix:
        """The part of a plan that the entrance of `segment` depends on."""
        return tuple(item for item in plan.kept if self.entrance[item[0]] < segment)


def restored(state: torch.Tensor) -> torch.Tensor:
    """A cached state as the network takes it."""
    return state.float() if state.dtype == torch.uint8 else state


def _compact(state: torch.Tensor) -> torch.Tensor:
    """The state as uint8 where that holds it exactly."""
    small = state.to(torch.uint8)
    return small if torch.equal(small.to(state.dtype), state) else state


def default_bytes(device: torch.device) -> int:
    """Memory for states: a quarter of the device's, of this machine's own 4 GB at most."""
    share = total_memory(device) // 4
    return share if device.type == "cuda" else min(4_000_000_000, share)
