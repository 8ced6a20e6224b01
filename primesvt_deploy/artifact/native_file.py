"""Write a native program as `model.svit`, the file that the engine in `edge/native` runs."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.lowering.native.memory_plan import ALIGNMENT, plan_memory
from primesvt_deploy.lowering.native.program import NativeProgram
from primesvt_deploy.lowering.native.records import Data, data_of, words_of
from primesvt_deploy.lowering.native.scratch import scratch_bytes

__all__ = ["FORMAT_VERSION", "native_bytes", "write_native"]

FORMAT_VERSION = 1
"""Version of the file format, `SVIT_FORMAT_VERSION` in the engine."""
_MAGIC = b"SVIT\r\n\x1a\n"
_HEADER = struct.Struct("<8s2I32s7I10i")
_DIGEST_AT = 16
_SLACK = 256
"""Bytes behind the data, and behind the scratch memory, that vectors may read."""
_NO_MEAN = -1


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
        mean: of each channel, for values in 0..1; none: the model takes floats alone.
        std: standard deviation of each channel.
    """
    assert program.input.values is not None and program.logits.values is not None
    given, taken = program.input.values.ref.buffer, program.logits.values.ref.buffer
    constants = [data for operator in program.operators for data in data_of(operator)]
    norm = Data(np.asarray([*mean, *std], dtype="<f4"))
    placed = _place([*constants, norm] if mean else constants)
    memory = plan_memory(program.operators, [given], [taken])  # type: ignore[list-item]
    offsets = {**memory.offsets}
    records = b"".join(words_of(op, offsets, placed.offsets) for op in program.operators)
    scratch = max((scratch_bytes(op) for op in program.operators), default=0)
    data_at = _aligned(_HEADER.size + len(records))
    size = data_at + len(placed.content) + _SLACK
    head = (
        *(len(program.operators), _HEADER.size, len(records)),
        *(data_at, len(placed.content)),
        *(memory.bytes + scratch + _SLACK, memory.bytes),
        *(program.timesteps, program.frames, *program.input_shape, program.logits.shape[-1]),
        *(int(bool(mean)), offsets[given], offsets[taken]),  # type: ignore[index]
        placed.offsets[norm] if mean else _NO_MEAN,
    )
    body = records.ljust(data_at - _HEADER.size, b"\0") + placed.content + bytes(_SLACK)
    blank = _HEADER.pack(_MAGIC, FORMAT_VERSION, size, bytes(32), *head)
    digest = hashlib.sha256(blank + body).digest()
    return _HEADER.pack(_MAGIC, FORMAT_VERSION, size, digest, *head) + body


def write_native(
    program: NativeProgram,
    path: str | os.PathLike[str],
    *,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> int:
    """Write a `model.svit`, replaced whole if it exists; its size in bytes."""
    content = native_bytes(program, mean=mean, std=std)
    write_whole(Path(path), content)
    return len(content)


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
