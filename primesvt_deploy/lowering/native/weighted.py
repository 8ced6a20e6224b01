"""Lower convolutions and linear layers: spikes with integer weights, or floats.

Which layer runs on integers is decided as for ONNX artifacts (`integer.weighted_nodes`). Its
weight rows are added in 16 bits: all at once where no sum can exceed them, or else in blocks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from primesvt_deploy.lowering.integer.int4_packing import GROUP, pack
from primesvt_deploy.lowering.integer.matmul import window_of
from primesvt_deploy.lowering.integer.weight_grid import GridWeights, grid_of
from primesvt_deploy.lowering.integer.weighted_nodes import integer_grid, linear_weights
from primesvt_deploy.lowering.native.program import ProgramBuilder, unsupported
from primesvt_deploy.lowering.native.records import (
    NO_DATA,
    DenseOp,
    Operator,
    SparseOp,
    SpikesRef,
    WeightFormat,
    WindowRef,
)
from primesvt_deploy.lowering.native.scratch import COLUMNS, record_bytes
from primesvt_deploy.lowering.native.sinks import Sink, sink_of
from primesvt_deploy.lowering.native.stores import View
from primesvt_deploy.lowering.native.windows import window_ref
from primesvt_deploy.lowering.traced_graph import initializer_array, layer_name

__all__ = ["lower_weighted"]

_INT16_MAX = 2**15 - 1
_MOST_ROWS = 2**16 - 1
_MOST_TAPS = 2048
_TILE_BYTES, _TILE_SHARE, _LONGEST_TILE = 4096, 32, 32
"""Lists of a tile of positions take so many bytes, or that share of a layer's weights."""


def lower_weighted(builder: ProgramBuilder, node: ir.Node, *, pack_int4: bool) -> bool:
    """Add a convolution or linear layer; False: the node is none."""
    if node.domain != "":
        return False
    if node.op_type == "Conv" and initializer_array(node.inputs[1]) is not None:
        _convolution(builder, node, pack_int4)
        return True
    weights = linear_weights(node)
    if weights is None:
        return False
    _linear(builder, node, weights, pack_int4)
    return True


def _convolution(builder: ProgramBuilder, node: ir.Node, pack_int4: bool) -> None:
    weights, window = initializer_array(node.inputs[1]), window_of(node)
    if weights is None or window is None or weights.shape[2] * weights.shape[3] > _MOST_TAPS:
        raise unsupported(layer_name(node), "a convolution that is no plain 2-d one")
    _layer(builder, node, weights, window_ref(window), window.groups, pack_int4)


def _linear(
    builder: ProgramBuilder, node: ir.Node, weights: npt.NDArray[np.float32], pack_int4: bool
) -> None:
    source = builder.view(node.inputs[0])
    positions = int(np.prod(source.shape[1:-1]))
    window = WindowRef(
        channels=source.shape[-1],
        height=1,
        width=positions,
        kernel_height=1,
        kernel_width=1,
        stride_y=1,
        stride_x=1,
        dilation_y=1,
        dilation_x=1,
        out_height=1,
        out_width=positions,
    )
    _layer(builder, node, weights[:, :, None, None], window, 1, pack_int4)


def _layer(
    builder: ProgramBuilder,
    node: ir.Node,
    weights: npt.NDArray[np.float32],
    window: WindowRef,
    groups: int,
    pack_int4: bool,
) -> None:
    """Add a layer of weights `[N, C / groups, kernel height, kernel width]`."""
    name = layer_name(node)
    source = builder.stored_last(builder.view(node.inputs[0]), name)
    counts = builder.counts.get(node.inputs[0])  # type: ignore[arg-type]
    grid, reason = integer_grid(counts, weights)
    rows = window.kernel_height * window.kernel_width * window.channels
    if grid is not None and groups > 1:
        reason = "its convolution is grouped"
    elif grid is not None and (source.spikes is None or rows > _MOST_ROWS):
        reason = "its input is no tensor of spikes" if source.spikes is None else "it is too wide"
    bias = initializer_array(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None:
        bias = np.zeros(len(weights), dtype=np.float32)
    exact = grid is not None
    steps = 1 if source.is_static else source.shape[0]
    sink = sink_of(builder, node, steps=steps, width=window.out_width, exact=exact)
    if grid is not None and not reason:
        builder.integer_layers.append(name)
        builder.append(_sparse(builder, source, window, grid, bias, sink, pack_int4))
    else:
        builder.float_layers[name] = reason
        stored = grid or grid_of(weights)
        builder.append(_dense(builder, source, window, groups, weights, stored, bias, sink))


def _sparse(
    builder: ProgramBuilder,
    source: View,
    window: WindowRef,
    grid: GridWeights,
    bias: npt.NDArray[np.float32],
    sink: Sink,
    pack_int4: bool,
) -> Operator:
    assert source.spikes is not None
    codes = grid.codes.transpose(2, 3, 1, 0).reshape(-1, len(grid.codes))
    fits = source.spikes.largest * _largest_sum(codes) <= _INT16_MAX
    parts = pack(codes) if pack_int4 else None
    if parts is None:
        stored = {"weights": WeightFormat.INT8, "rows": builder.data(codes)}
    else:
        stored = {
            "weights": WeightFormat.INT4,
            "rows": builder.data(_nibble_rows(parts[0], codes.shape)),
            "multipliers": builder.data(parts[1]),
            "group_rows": GROUP,
        }
    layer = SparseOp(
        name=builder.name(sink.name),
        observed=sink.channels if sink.observed else 0,
        input=source.spikes.ref,
        window=window,
        outputs=codes.shape[1],
        **stored,  # type: ignore[arg-type]
        scale=builder.data(grid.scales * np.float32(source.spikes.unit)),
        bias=builder.data(bias),
        block_rows=0 if fits else _block_rows(codes),
        together=_together(codes, source.spikes.ref),
        set_bits=1 if source.spikes.ref.steps * source.spikes.ref.step_bits == 1 else 4,
        tile=1,
        sink=sink.ref,
    )
    return replace(layer, tile=_tile(layer, codes.size))


def _tile(layer: SparseOp, weights: int) -> int:
    """Positions whose lists are kept, for weights to be read from a cache: little memory for it."""
    allowed = max(_TILE_BYTES, weights // _TILE_SHARE)
    fitting = (t for t in range(2, _LONGEST_TILE + 1) if record_bytes(layer, t) <= allowed)
    return min(max(fitting, default=1), layer.window.out_width)


def _block_rows(codes: npt.NDArray[np.int8]) -> int:
    """Rows of codes `[K, N]` of which any so many have sums of 16 bits."""
    if _largest_sum(codes) <= _INT16_MAX:
        return len(codes)
    largest = -np.sort(-np.abs(codes.astype(np.int64)), axis=0)
    return int((largest.cumsum(axis=0) <= _INT16_MAX).all(axis=1).sum())


def _together(codes: npt.NDArray[np.int8], spikes: SpikesRef) -> int:
    """Planes of counts whose sums fit 16 bits together, the last ones or any."""
    most = _INT16_MAX // max(_largest_sum(codes), 1)
    return max(min((most + 1).bit_length() - 1 if spikes.binary else most, spikes.planes), 1)


def _largest_sum(codes: npt.NDArray[np.int8]) -> int:
    """Largest absolute sum of any rows of codes `[K, N]`."""
    wide = codes.astype(np.int64)
    positive, negative = wide.clip(min=0).sum(axis=0), wide.clip(max=0).sum(axis=0)
    return int(max(positive.max(initial=0), -negative.min(initial=0)))


def _nibble_rows(nibbles: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Rows of nibbles `[K, ceil(N / 2)]` from groups of columns `[G, N, GROUP / 2]`.

    Of every `COLUMNS` columns the low nibbles are the first half, the high ones the second.
    """
    rows, columns = shape
    both = np.concatenate([nibbles & 15, nibbles >> 4], axis=2)
    whole = both.transpose(0, 2, 1).reshape(-1, columns)[:rows]
    if columns % 2:
        whole = np.concatenate([whole, np.full((rows, 1), 8, dtype=np.uint8)], axis=1)
    parts = [whole[:, at : at + COLUMNS] for at in range(0, columns, COLUMNS)]
    halves = [np.split(part, 2, axis=1) for part in parts]
    return np.concatenate([low | (high << 4) for low, high in halves], axis=1)


def _dense(
    builder: ProgramBuilder,
    source: View,
    window: WindowRef,
    groups: int,
    weights: npt.NDArray[np.float32],
    grid: GridWeights | None,
    bias: npt.NDArray[np.float32],
    sink: Sink,
) -> Operator:
    rows: npt.NDArray[Any] = weights if grid is None else grid.codes
    if source.spikes is not None:
        given = {"input_is_spikes": 1, "spikes": source.spikes.ref, "unit": source.spikes.unit}
    else:
        assert source.values is not None
        given = {"input_is_spikes": 0, "values": source.values.ref}
    return DenseOp(
        name=builder.name(sink.name),
        observed=sink.channels if sink.observed else 0,
        **given,  # type: ignore[arg-type]
        window=window,
        outputs=len(weights),
        groups=groups,
        weights=WeightFormat.FLOAT if grid is None else WeightFormat.INT8,
        rows=builder.data(rows.transpose(2, 3, 1, 0).reshape(-1, len(weights))),
        scale=NO_DATA if grid is None else builder.data(grid.scales),
        bias=builder.data(bias),
        sink=sink.ref,
    )
