"""Compose a `model.svit`, the file that the engine in `edge/native` runs, from a program."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from primesvt_deploy.lowering.native.memory_plan import ALIGNMENT, MemoryPlan, plan_memory
from primesvt_deploy.lowering.native.program import NativeProgram
from primesvt_deploy.lowering.native.records import Data, data_of, words_of

__all__ = ["FORMAT_VERSION", "EarlyStage", "arena_bytes", "native_bytes", "shape_and_classes"]

FORMAT_VERSION = 4
"""Version of the file format, `SVIT_FORMAT_VERSION` in the engine."""
_MAGIC = b"SVIT\r\n\x1a\n"
_HEADER = struct.Struct("<8s2I32s7I10i2I")
_EARLY = struct.Struct("<3I3if")
_ARENA_FIELD = 9
"""Place of the arena's size among the fields of the header."""
_SHAPE_FIELDS = slice(13, 17)
_SLACK = 256
"""Bytes behind the data, and behind the scratch memory, that vectors may read."""
_NO_MEAN = -1
_PIXELS_ALONE = 2


@dataclass(frozen=True)
class EarlyStage:
    """A program that runs before the main one, which then may not have to.

    Args:
        program: the same network for fewer timesteps.
        margin: largest logit less the second, from which on its logits are final.
    """

    program: NativeProgram
    margin: float


@dataclass(frozen=True)
class _Stage:
    """A program with its place in memory and in the file.

    Args:
        program: what it runs.
        memory: places of its buffers.
        input_offset: place of the sample in memory.
        logits_offset: place of the logits there.
        records: its operators.
    """

    program: NativeProgram
    memory: MemoryPlan
    input_offset: int
    logits_offset: int
    records: bytes

    @property
    def operators(self) -> int:
        """How many."""
        return len(self.program.operators)


@dataclass(frozen=True)
class _Placed:
    """Constants, one after another.

    Args:
        offsets: of each.
        content: of all.
    """

    offsets: dict[Data, int]
    content: bytes


def native_bytes(
    program: NativeProgram,
    *,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    early: Sequence[EarlyStage] = (),
) -> bytes:
    """The content of a `model.svit`.

    Args:
        program: what it runs.
        mean: of each channel, for values in 0..1; none: the model takes floats alone, or, where its
            input is not stored, pixels alone.
        std: standard deviation of each channel.
        early: stages that run before, with fewer timesteps, in the order of these. Constants that
            they share are stored once.
    """
    norm = Data(np.asarray([*mean, *std], dtype="<f4"))
    placed = _place([program, *(stage.program for stage in early)], [norm] if mean else [])
    last, *others = (_stage(p, placed) for p in (program, *(stage.program for stage in early)))
    stages = [last, *others]
    records, table = _records_and_table(last, others, [stage.margin for stage in early])
    data_at = _aligned(_HEADER.size + len(records))
    size = data_at + len(placed.content) + _SLACK
    head = (
        *(last.operators, _HEADER.size, len(last.records)),
        *(data_at, len(placed.content)),
        *(max(stage.memory.bytes for stage in stages) + _SLACK,),
        *(max(stage.memory.scratch_bytes for stage in stages) + _SLACK,),
        *(program.timesteps, program.frames, *program.input_shape, program.logits.shape[-1]),
        *(_takes_pixels(program, mean), last.input_offset, last.logits_offset),
        *(placed.offsets[norm] if mean else _NO_MEAN, len(others), table),
    )
    body = records.ljust(data_at - _HEADER.size, b"\0") + placed.content + bytes(_SLACK)
    blank = _HEADER.pack(_MAGIC, FORMAT_VERSION, size, bytes(32), *head)
    digest = hashlib.sha256(blank + body).digest()
    return _HEADER.pack(_MAGIC, FORMAT_VERSION, size, digest, *head) + body


def _records_and_table(
    last: _Stage, others: Sequence[_Stage], margins: Sequence[float]
) -> tuple[bytes, int]:
    """Records of all stages with the table of the early ones, and the place of that table."""
    table_at = _HEADER.size + len(last.records)
    at = table_at + len(others) * _EARLY.size
    table = b""
    for stage, margin in zip(others, margins, strict=True):
        table += _EARLY.pack(
            *(stage.operators, at, len(stage.records), stage.program.timesteps),
            *(stage.input_offset, stage.logits_offset, margin),
        )
        at += len(stage.records)
    return last.records + table + b"".join(stage.records for stage in others), table_at


def _stage(program: NativeProgram, placed: _Placed) -> _Stage:
    given, taken = program.input_buffer(), program.logits_buffer()
    memory = plan_memory(program.operators, [given], [taken])
    places = memory.offsets
    records = b"".join(
        words_of(op, scratch, places, placed.offsets)
        for op, scratch in zip(program.operators, memory.scratch, strict=True)
    )
    return _Stage(program, memory, places[given], places[taken], records)


def _takes_pixels(program: NativeProgram, mean: Sequence[float]) -> int:
    return _PIXELS_ALONE if program.input is None else int(bool(mean))


def arena_bytes(content: bytes) -> int:
    """Bytes of memory that a run of a `model.svit` works in."""
    return int(_HEADER.unpack_from(content)[_ARENA_FIELD])


def shape_and_classes(content: bytes) -> tuple[int, int, int, int]:
    """Channels, height and width that a `model.svit` takes, and the number of its classes."""
    channels, height, width, classes = _HEADER.unpack_from(content)[_SHAPE_FIELDS]
    return channels, height, width, classes


def _place(programs: Sequence[NativeProgram], others: Sequence[Data]) -> _Placed:
    """Place constants once each; those of wider types first, so that each is aligned.

    Equal constants of different programs are stored once.
    """
    stored: dict[tuple[str, bytes], Data] = {}
    same: dict[Data, Data] = {}
    for program in programs:
        constants = [data for operator in program.operators for data in data_of(operator)]
        keys = {data: (data.content.dtype.str, data.content.tobytes()) for data in constants}
        same |= {data: stored.get(key, data) for data, key in keys.items()}
        stored |= {key: same[data] for data, key in keys.items()}
    content = bytearray()
    offsets: dict[Data, int] = {}
    unique = dict.fromkeys([*same.values(), *others])
    for data in sorted(unique, key=lambda d: -d.content.dtype.itemsize):
        offsets[data] = len(content)
        content += data.content.tobytes()
    offsets |= {data: offsets[kept] for data, kept in same.items()}
    return _Placed(offsets, bytes(content))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
