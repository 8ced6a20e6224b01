"""Compose a `model.svit`, the file that the engine in `edge/native` runs, from a program."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from primesvt_deploy.lowering.native.memory_plan import ALIGNMENT, plan_memory
from primesvt_deploy.lowering.native.program import NativeProgram
from primesvt_deploy.lowering.native.records import Buffer, Data, data_of, words_of

__all__ = ["FORMAT_VERSION", "arena_bytes", "native_bytes", "shape_and_classes"]

FORMAT_VERSION = 1
"""Version of the file format, `SVIT_FORMAT_VERSION` in the engine."""
_MAGIC = b"SVIT\r\n\x1a\n"
_HEADER = struct.Struct("<8s2I32s7I10i")
_ARENA_FIELD = 9
"""Place of the arena's size among the fields of the header."""
_SHAPE_FIELDS = slice(13, 17)
_SLACK = 256
"""Bytes behind the data, and behind the scratch memory, that vectors may read."""
_NO_MEAN = -1
_PIXELS_ALONE = 2


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
    program: NativeProgram, *, mean: Sequence[float] = (), std: Sequence[float] = ()
) -> bytes:
    """The content of a `model.svit`.

    Args:
        program: what it runs.
        mean: of each channel, for values in 0..1; none: the model takes floats alone, or, where its
            input is not stored, pixels alone.
        std: standard deviation of each channel.
    """
    assert program.logits.values is not None
    given, taken = _input_buffer(program), program.logits.values.ref.buffer
    constants = [data for operator in program.operators for data in data_of(operator)]
    norm = Data(np.asarray([*mean, *std], dtype="<f4"))
    placed = _place([*constants, norm] if mean else constants)
    memory = plan_memory(program.operators, [given], [taken])  # type: ignore[list-item]
    offsets = memory.offsets
    records = b"".join(
        words_of(op, scratch, offsets, placed.offsets)
        for op, scratch in zip(program.operators, memory.scratch, strict=True)
    )
    data_at = _aligned(_HEADER.size + len(records))
    size = data_at + len(placed.content) + _SLACK
    head = (
        *(len(program.operators), _HEADER.size, len(records)),
        *(data_at, len(placed.content)),
        *(memory.bytes + _SLACK, memory.scratch_bytes + _SLACK),
        *(program.timesteps, program.frames, *program.input_shape, program.logits.shape[-1]),
        *(_takes_pixels(program, mean), offsets[given], offsets[taken]),  # type: ignore[index]
        placed.offsets[norm] if mean else _NO_MEAN,
    )
    body = records.ljust(data_at - _HEADER.size, b"\0") + placed.content + bytes(_SLACK)
    blank = _HEADER.pack(_MAGIC, FORMAT_VERSION, size, bytes(32), *head)
    digest = hashlib.sha256(blank + body).digest()
    return _HEADER.pack(_MAGIC, FORMAT_VERSION, size, digest, *head) + body


def _input_buffer(program: NativeProgram) -> Buffer:
    """Buffer that the input is written to; of no bytes, if it is not stored."""
    if program.input is None:
        return Buffer(0)
    assert program.input.values is not None
    buffer = program.input.values.ref.buffer
    assert isinstance(buffer, Buffer)
    return buffer


def _takes_pixels(program: NativeProgram, mean: Sequence[float]) -> int:
    return _PIXELS_ALONE if program.input is None else int(bool(mean))


def arena_bytes(content: bytes) -> int:
    """Bytes of memory that a run of a `model.svit` works in."""
    return int(_HEADER.unpack_from(content)[_ARENA_FIELD])


def shape_and_classes(content: bytes) -> tuple[int, int, int, int]:
    """Channels, height and width that a `model.svit` takes, and the number of its classes."""
    channels, height, width, classes = _HEADER.unpack_from(content)[_SHAPE_FIELDS]
    return channels, height, width, classes


def _place(constants: Sequence[Data]) -> _Placed:
    """Place constants once each; those of wider types first, so that each is aligned."""
    content = bytearray()
    offsets: dict[Data, int] = {}
    for data in sorted(dict.fromkeys(constants), key=lambda d: -d.content.dtype.itemsize):
        offsets[data] = len(content)
        content += data.content.tobytes()
    return _Placed(offsets, bytes(content))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
