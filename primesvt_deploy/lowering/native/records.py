"""Operators of a native program, field by field as `edge/native/svit_internal.h` declares them.

A record is a frozen dataclass whose fields are those of the C struct of the same name, in order.
A `Buffer` stands for its offset in the arena, and a `Data` for its offset in the file's data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "NO_DATA",
    "AttentionOp",
    "Buffer",
    "CopyOp",
    "Data",
    "DenseOp",
    "ElementwiseOp",
    "Function",
    "MatMulOp",
    "NeuronOp",
    "NeuronRef",
    "OperandKind",
    "OperandRef",
    "Operator",
    "PixelsOp",
    "ReduceOp",
    "Reduction",
    "SinkKind",
    "SinkRef",
    "SparseOp",
    "SpikeAddOp",
    "SpikeAndOp",
    "SpikePoolOp",
    "SpikesRef",
    "ValuePoolOp",
    "ValuesRef",
    "WeightFormat",
    "WindowRef",
    "buffers_of",
    "data_of",
    "words_of",
]

MAX_RANK = 6
"""Axes of a strided operand."""


@dataclass(frozen=True, eq=False)
class Buffer:
    """Bytes in the arena, for as long as operators use them.

    Args:
        bytes: how many.
    """

    bytes: int


@dataclass(frozen=True, eq=False)
class Data:
    """A constant in the file.

    Args:
        content: the array, of a little-endian type.
    """

    content: npt.NDArray[Any]


class SinkKind(IntEnum):
    """Destination of a layer's currents."""

    NEURON = 1
    VALUES = 2
    ADD = 3


class WeightFormat(IntEnum):
    """How weights are stored."""

    INT8 = 1
    INT4 = 2
    FLOAT = 3


class OperandKind(IntEnum):
    """Kind of an operand."""

    VALUES = 1
    SPIKES = 2
    DATA = 3
    SCALAR = 4


class Function(IntEnum):
    """Arithmetic of two operands, element by element."""

    ADD = 1
    SUB = 2
    MUL = 3
    DIV = 4
    MAX = 5


class Reduction(IntEnum):
    """Reduction of the values along axes."""

    SUM = 1
    MEAN = 2
    MAX = 3


_NOTHING = Buffer(0)
NO_DATA = Data(np.zeros(0, dtype=np.uint8))
"""Stands for a constant that an operator does not have."""
_ZEROS = (0,) * MAX_RANK


@dataclass(frozen=True, kw_only=True)
class SpikesRef:
    """`spikes_ref`: spikes in bits of bytes `[groups, planes, elements]`."""

    buffer: Buffer = _NOTHING
    steps: int = 0
    groups: int = 0
    planes: int = 0
    binary: int = 0
    step_bits: int = 0
    steps_per_group: int = 0
    elements: int = 0


@dataclass(frozen=True, kw_only=True)
class ValuesRef:
    """`values_ref`: floats `[steps, elements]`, of constants as well."""

    buffer: Buffer | Data = _NOTHING
    steps: int = 0
    elements: int = 0


@dataclass(frozen=True, kw_only=True)
class NeuronRef:
    """`neuron_ref`: constants of a neuron."""

    decay: float = 0.0
    gain: float = 0.0
    first_shift: float = 0.0
    shift: float = 0.0
    threshold: float = 0.0
    v_reset: float = 0.0
    hard_reset: int = 0
    levels: int = 0
    half_up: int = 0


@dataclass(frozen=True, kw_only=True)
class WindowRef:
    """`window_ref`: geometry of a convolution or a pool."""

    channels: int = 0
    height: int = 0
    width: int = 0
    kernel_height: int = 0
    kernel_width: int = 0
    stride_y: int = 0
    stride_x: int = 0
    pad_top: int = 0
    pad_left: int = 0
    dilation_y: int = 0
    dilation_x: int = 0
    out_height: int = 0
    out_width: int = 0


@dataclass(frozen=True, kw_only=True)
class SinkRef:
    """`sink_ref`: where a layer's currents go."""

    kind: SinkKind
    steps: int
    width: int
    pooled: int = 0
    pool: WindowRef = field(default_factory=WindowRef)
    neuron: NeuronRef = field(default_factory=NeuronRef)
    spikes: SpikesRef = field(default_factory=SpikesRef)
    values: ValuesRef = field(default_factory=ValuesRef)
    other: ValuesRef = field(default_factory=ValuesRef)


@dataclass(frozen=True, kw_only=True)
class OperandRef:
    """`operand_ref`: an operand with axes."""

    kind: OperandKind
    base: int = 0
    strides: tuple[int, ...] = _ZEROS
    values: ValuesRef = field(default_factory=ValuesRef)
    spikes: SpikesRef = field(default_factory=SpikesRef)
    unit: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Common beginning of all operators; `KIND` is an operator's number in the file.

    Args:
        name: of the layer.
        observed: channels of the output that an observer gets; 0: it gets none.
    """

    name: Data
    observed: int = 0


@dataclass(frozen=True, kw_only=True)
class SparseOp(Operator):
    """`op_sparse`: a convolution of spikes."""

    KIND = 1

    input: SpikesRef
    window: WindowRef
    outputs: int
    weights: WeightFormat
    rows: Data
    multipliers: Data = NO_DATA
    group_rows: int = 0
    scale: Data
    bias: Data
    block_rows: int
    together: int = 1
    set_bits: int
    tile: int
    listed: int = 0
    gathered: int = 0
    sink: SinkRef


@dataclass(frozen=True, kw_only=True)
class DenseOp(Operator):
    """`op_dense`: a convolution in float."""

    KIND = 2

    input_is_spikes: int
    spikes: SpikesRef = field(default_factory=SpikesRef)
    unit: float = 0.0
    values: ValuesRef = field(default_factory=ValuesRef)
    window: WindowRef
    outputs: int
    groups: int
    weights: WeightFormat
    rows: Data
    scale: Data = NO_DATA
    bias: Data
    sink: SinkRef


@dataclass(frozen=True, kw_only=True)
class NeuronOp(Operator):
    """`op_neuron`: neurons on values."""

    KIND = 3

    input: ValuesRef
    neuron: NeuronRef
    output: SpikesRef


@dataclass(frozen=True, kw_only=True)
class SpikePoolOp(Operator):
    """`op_spike_pool`: maxima of spikes."""

    KIND = 4

    input: SpikesRef
    window: WindowRef
    output: SpikesRef


@dataclass(frozen=True, kw_only=True)
class ValuePoolOp(Operator):
    """`op_value_pool`: maxima of values."""

    KIND = 5

    input: ValuesRef
    window: WindowRef
    output: ValuesRef


@dataclass(frozen=True, kw_only=True)
class SpikeAddOp(Operator):
    """`op_spike_add`: sums of counts."""

    KIND = 6

    a: SpikesRef
    b: SpikesRef
    output: SpikesRef


@dataclass(frozen=True, kw_only=True)
class ElementwiseOp(Operator):
    """`op_elementwise`: arithmetic of two operands."""

    KIND = 7

    function: Function
    rank: int
    sizes: tuple[int, ...]
    a: OperandRef
    b: OperandRef
    output: OperandRef


@dataclass(frozen=True, kw_only=True)
class SpikeAndOp(Operator):
    """`op_spike_and`: products of spikes."""

    KIND = 8

    rank: int
    sizes: tuple[int, ...]
    base_a: int
    base_b: int
    base_output: int
    strides_a: tuple[int, ...]
    strides_b: tuple[int, ...]
    strides_output: tuple[int, ...]
    a: SpikesRef
    b: SpikesRef
    output: SpikesRef


@dataclass(frozen=True, kw_only=True)
class ReduceOp(Operator):
    """`op_reduce`: sums, means or maxima along axes."""

    KIND = 9

    function: Reduction
    rank: int
    kept: int
    sizes: tuple[int, ...]
    input: OperandRef
    output: OperandRef


@dataclass(frozen=True, kw_only=True)
class MatMulOp(Operator):
    """`op_matmul`: products of matrices."""

    KIND = 10

    rank: int
    sizes: tuple[int, ...]
    a: OperandRef
    b: OperandRef
    output: OperandRef


@dataclass(frozen=True, kw_only=True)
class AttentionOp(Operator):
    """`op_attention`: attention on spikes, into neurons."""

    KIND = 11

    q: SpikesRef
    k: SpikesRef
    v: SpikesRef
    positions: int
    heads: int
    key_size: int
    value_size: int
    chunk: int
    windows: int
    columns: int
    unit: float
    neuron: NeuronRef
    output: SpikesRef


@dataclass(frozen=True, kw_only=True)
class CopyOp(Operator):
    """`op_copy`: a tensor in another order."""

    KIND = 12

    rank: int
    sizes: tuple[int, ...]
    input: OperandRef
    output: OperandRef


@dataclass(frozen=True, kw_only=True)
class PixelsOp(Operator):
    """`op_pixels`: a convolution of the caller's pixels."""

    KIND = 13

    window: WindowRef
    outputs: int
    rows: Data
    centre: Data
    scale: Data
    bias: Data
    sink: SinkRef


def _leaves(record: Any) -> Iterator[Any]:
    """Content of a record, field by field, nested ones spelled out."""
    for part in fields(record):
        value = getattr(record, part.name)
        if hasattr(value, "__dataclass_fields__") and not isinstance(value, Buffer | Data):
            yield from _leaves(value)
        elif isinstance(value, tuple):
            yield from value
        else:
            yield value


def buffers_of(operator: Operator) -> list[Buffer]:
    """The buffers that an operator reads or writes."""
    return [x for x in _leaves(operator) if isinstance(x, Buffer) and x is not _NOTHING]


def data_of(operator: Operator) -> list[Data]:
    """The constants that an operator reads."""
    return [x for x in _leaves(operator) if isinstance(x, Data) and x is not NO_DATA]


def words_of(
    operator: Operator, scratch: int, buffers: Mapping[Buffer, int], data: Mapping[Data, int]
) -> bytes:
    """An operator as it stands in a file.

    Args:
        operator: the record.
        scratch: offset of its scratch memory in the arena.
        buffers: offset of each buffer in the arena.
        data: offset of each constant in the file's data.
    """
    parts: list[bytes] = []
    leaves = list(_leaves(operator))
    name, observed = leaves[:2]
    for value in leaves[2:]:
        if isinstance(value, float):
            parts.append(struct.pack("<f", value))
        elif isinstance(value, Buffer):
            parts.append(struct.pack("<i", 0 if value is _NOTHING else buffers[value]))
        elif isinstance(value, Data):
            parts.append(struct.pack("<i", 0 if value is NO_DATA else data[value]))
        else:
            parts.append(struct.pack("<i", int(value)))
    kind = type(operator).KIND  # type: ignore[attr-defined]
    head = struct.pack("<5i", kind, 5 + len(parts), data[name], scratch, observed)
    return head + b"".join(parts)
