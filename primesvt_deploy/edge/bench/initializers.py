"""Bytes of a model file's initializers (weights and constants), without the onnx package.

An ONNX file is a protocol buffer: ModelProto.graph is field 7, GraphProto.initializer field 5;
TensorProto.dims is field 1, data_type 2, raw_data 9. Constant nodes and functions are not counted,
as artifacts hold their weights in initializers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from primesvt_deploy.edge.bench.errors import BundleError

__all__ = ["initializer_bytes"]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_GRAPH, _INITIALIZER, _DIMS, _TYPE, _RAW = 7, 5, 1, 2, 9
_BITS = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20), 8),  # (u)int8, bool, float8
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
}
"""By TensorProto.DataType."""


def initializer_bytes(path: Path) -> int | None:
    """Bytes of all initializers of a `.onnx` or `.ort` file; None where an ORT file tells none.

    Raises:
        BundleError: it is no whole ONNX file.
    """
    data = path.read_bytes()
    if path.suffix == ".ort":
        return _of_ort(data)
    view = memoryview(data)
    try:
        graphs = [part for field, part in _fields(view) if field == _GRAPH]
        tensors = [
            part for graph in graphs for field, part in _fields(graph) if field == _INITIALIZER
        ]
        return sum(map(_tensor_bytes, tensors))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path.name} is no whole ONNX file: copy or build it again") from error


def _of_ort(data: bytes) -> int | None:
    """By the reader that onnxruntime brings; older and smaller builds have none."""
    try:
        from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import (
            InferenceSession,
        )
    except ImportError:
        return None
    graph = InferenceSession.GetRootAsInferenceSession(data, 0).Model().Graph()
    count = graph.InitializersLength()
    return sum(int(graph.Initializers(index).RawDataLength()) for index in range(count))


def _tensor_bytes(tensor: memoryview | int) -> int:
    dims: list[int] = []
    kind = 0
    for field, value in _fields(tensor):
        if field == _RAW and isinstance(value, memoryview):
            return len(value)
        if field == _DIMS:
            dims += _packed(value) if isinstance(value, memoryview) else [value]
        elif field == _TYPE:
            kind = int(value)  # of a part of the buffer: a ValueError, told as damage
    return math.ceil(math.prod(dims) * _BITS[kind] / 8)


def _packed(value: memoryview) -> list[int]:
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


def _fields(message: memoryview | int) -> Iterator[tuple[int, memoryview | int]]:
    """Field numbers and values: parts of the buffer, or whole numbers."""
    if isinstance(message, int):
        raise ValueError("a number where a message was expected")
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield field, value
            continue
        if wire == _LENGTH:
            size, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(message):
            raise ValueError("cut short")
        yield field, message[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("no varint")
