"""Give each buffer of a program its place in the arena, so that none is allocated at run time.

A buffer lives from the operator that writes it to the last one that reads it, the scratch memory of
an operator as long as that runs. The largest are placed first, each at the lowest offset that is
free for as long as it lives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from primesvt_deploy.lowering.native.records import Buffer, Operator, buffers_of
from primesvt_deploy.lowering.native.scratch import scratch_bytes

__all__ = ["ALIGNMENT", "MemoryPlan", "plan_memory"]

ALIGNMENT = 64
"""Bytes that buffers are aligned to."""


@dataclass(frozen=True)
class MemoryPlan:
    """Places of buffers.

    Args:
        offsets: of each buffer, bytes.
        scratch: offset of each operator's scratch memory.
        bytes: of the arena.
        scratch_bytes: of the operator that needs most scratch memory.
    """

    offsets: Mapping[Buffer, int]
    scratch: tuple[int, ...]
    bytes: int
    scratch_bytes: int


@dataclass
class _Life:
    first: int
    last: int


def plan_memory(
    operators: Sequence[Operator], inputs: Sequence[Buffer], outputs: Sequence[Buffer]
) -> MemoryPlan:
    """Place the buffers of a program.

    Args:
        operators: in order.
        inputs: written before the first operator.
        outputs: read after the last one.
    """
    lives: dict[Buffer, _Life] = {buffer: _Life(-1, -1) for buffer in inputs}
    for number, operator in enumerate(operators):
        for buffer in buffers_of(operator):
            lives.setdefault(buffer, _Life(number, number)).last = number
    for buffer in outputs:
        lives.setdefault(buffer, _Life(-1, -1)).last = len(operators)
    scratch = [Buffer(scratch_bytes(operator)) for operator in operators]
    lives |= {buffer: _Life(number, number) for number, buffer in enumerate(scratch)}
    offsets: dict[Buffer, int] = {}
    for buffer in sorted(lives, key=lambda b: (-b.bytes, lives[b].first)):
        offsets[buffer] = _lowest_free(buffer, lives, offsets)
    end = max((offset + _aligned(b.bytes) for b, offset in offsets.items()), default=0)
    places = tuple(offsets[buffer] for buffer in scratch)
    return MemoryPlan(offsets, places, end, max((b.bytes for b in scratch), default=0))


def _lowest_free(
    buffer: Buffer, lives: Mapping[Buffer, _Life], offsets: Mapping[Buffer, int]
) -> int:
    life = lives[buffer]
    taken = sorted(
        (offset, offset + _aligned(other.bytes))
        for other, offset in offsets.items()
        if lives[other].first <= life.last and life.first <= lives[other].last
    )
    place = 0
    for start, end in taken:
        if start - place >= buffer.bytes:
            break
        place = max(place, end)
    return place


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
