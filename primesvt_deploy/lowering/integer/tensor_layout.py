"""Hold one tensor in several layouts: float32 or uint8, channels first or last, whole or by step.

A tensor of the traced graph is float32 with channels first and timesteps folded into the batch.
An operator of the integer graph takes whichever layout suits it, and its output is converted only
where another operator needs it otherwise: bytes stay bytes from neuron to neuron, and channels
move where they must, on bytes if possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from primesvt_deploy.lowering.graph_builder import LayerTape, SharedInitializers
from primesvt_deploy.lowering.integer.spike_counts import SpikeCounts

__all__ = ["AS_TRACED", "Layout", "TensorLayouts"]

_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True)
class Layout:
    """How a tensor is held.

    Args:
        uint8: spike counts as bytes; otherwise float32 values.
        channels_last: `[T*N, H, W, C]`; only tensors of rank 4 are ever so.
        per_timestep: T tensors, one a timestep.
    """

    uint8: bool = False
    channels_last: bool = False
    per_timestep: bool = False


AS_TRACED = Layout()
"""Layout of every tensor in the traced graph."""


class TensorLayouts:
    """Layouts in which the integer graph holds each traced tensor so far; converts between them.

    Args:
        graph: which conversions are appended to.
        initializers: of that graph.
        counts: the traced tensors that hold spike counts.
        timesteps: T.
    """

    def __init__(
        self,
        graph: ir.Graph,
        initializers: SharedInitializers,
        counts: Mapping[ir.Value, SpikeCounts],
        timesteps: int,
    ) -> None:
        self.counts = counts
        self._graph = graph
        self._initializers = initializers
        self._timesteps = timesteps
        self._held: dict[ir.Value, dict[Layout, tuple[ir.Value, ...]]] = {}
        self._names: dict[ir.Value, str] = {}

    def put(
        self,
        value: ir.Value,
        layout: Layout,
        parts: tuple[ir.Value, ...],
        *,
        name: str | None = None,
    ) -> None:
        """Add a layout of a traced tensor.

        Args:
            value: the traced tensor.
            layout: of `parts`.
            parts: the tensor in the integer graph; T of them if the layout is `per_timestep`.
            name: what conversions are named after; None: the traced name.
        """
        self._held.setdefault(value, {})[layout] = parts
        if name is not None:
            self._names[value] = name

    def has_bytes(self, value: ir.Value) -> bool:
        """Whether a traced tensor is held as bytes."""
        return any(layout.uint8 for layout in self._held.get(value, ()))

    def prefers_last(self, value: ir.Value) -> bool:
        """Whether a traced tensor is held with channels last alone."""
        layouts = self._held.get(value, {})
        return bool(layouts) and all(layout.channels_last for layout in layouts)

    def one(self, value: ir.Value, layout: Layout = AS_TRACED) -> ir.Value:
        """A traced tensor in a layout that is not `per_timestep`."""
        (part,) = self.get(value, layout)
        return part

    def get(self, value: ir.Value, layout: Layout) -> tuple[ir.Value, ...]:
        """A traced tensor in a layout, converted from the nearest one there is."""
        held = self._held.setdefault(value, {})
        if not held:
            held[AS_TRACED] = (value,)
        while layout not in held:
            source = min(held, key=lambda other: _distance(other, layout))
            step = _next_step(source, layout)
            held[step] = self._converted(value, source, step, held[source])
        return held[layout]

    def _converted(
        self, value: ir.Value, source: Layout, target: Layout, parts: tuple[ir.Value, ...]
    ) -> tuple[ir.Value, ...]:
        """Convert a tensor to a layout that differs in one respect."""
        tape = LayerTape(self._names.get(value, str(value.name)), self._graph)
        if source.per_timestep == target.per_timestep:
            return tuple(self._converted_part(tape, value, source, target, part) for part in parts)
        tail = _tail(target)
        if target.per_timestep:
            names = [f"t{t}{tail}" for t in range(self._timesteps)]
            return tuple(tape.split("unfold", parts[0], names))
        return (tape.node("Concat", f"folded{tail}", *parts, axis=0),)

    def _converted_part(
        self, tape: LayerTape, value: ir.Value, source: Layout, target: Layout, part: ir.Value
    ) -> ir.Value:
        name = f"{_step_name(part)}{_tail(target)}"
        if source.channels_last != target.channels_last:
            permutation = _TO_LAST if target.channels_last else _TO_FIRST
            return tape.node("Transpose", name, part, perm=permutation)
        unit = np.float32(self.counts[value].unit)
        if target.uint8:
            if unit != 1.0:
                part = tape.node("Div", f"{name}.n", part, self._initializers.scalar(float(unit)))
            return tape.node("Cast", name, part, to=ir.DataType.UINT8)
        part = tape.node("Cast", name, part, to=ir.DataType.FLOAT)
        if unit != 1.0:
            part = tape.node("Mul", f"{name}.values", part, self._initializers.scalar(float(unit)))
        return part


def _distance(source: Layout, target: Layout) -> tuple[int, bool]:
    """Distance of two layouts; among equals bytes are nearer, as they are a quarter of the size."""
    steps = (
        (source.uint8 != target.uint8)
        + (source.channels_last != target.channels_last)
        + (source.per_timestep != target.per_timestep)
    )
    return steps, not source.uint8


def _next_step(source: Layout, target: Layout) -> Layout:
    """First step on the way from a layout to another: to bytes first, from bytes last."""
    if target.uint8 and not source.uint8:
        return replace(source, uint8=True)
    if source.channels_last != target.channels_last:
        return replace(source, channels_last=target.channels_last)
    if source.per_timestep != target.per_timestep:
        return replace(source, per_timestep=target.per_timestep)
    return replace(source, uint8=target.uint8)


def _tail(layout: Layout) -> str:
    dtype = "u8" if layout.uint8 else "f32"
    return f".{dtype}.{'nhwc' if layout.channels_last else 'nchw'}"


def _step_name(part: ir.Value) -> str:
    """Timestep that a part is of, by its name: `t0`, `t1`, ..., or `whole`."""
    tail = str(part.name).rpartition(".t")[2]
    return f"t{tail.partition('.')[0]}" if tail[:1].isdigit() else "whole"
