"""One tensor in several forms: float or byte, channels first or last, whole or step by step.

A tensor of the traced graph is float32 with channels first and timesteps folded into the batch.
An operator of the lowered graph takes whichever form suits it, and what it leaves is turned into
other forms only where another operator asks: bytes stay bytes from neuron to neuron, and layouts
change where they must, on bytes if possible.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from primesvt_deploy.lowering.integer.spike_counts import Counts
from primesvt_deploy.lowering.lif_operators import Constants, Tape

__all__ = ["FOLDED", "Form", "Forms"]

_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True)
class Form:
    """How a tensor is held.

    Args:
        counts: uint8 counts; otherwise float32 values.
        last: channels last, `[T*N, H, W, C]`; only tensors of rank 4 have such a form.
        stepped: T tensors, one a timestep.
    """

    counts: bool = False
    last: bool = False
    stepped: bool = False


FOLDED = Form()
"""As the traced graph has it."""


class Forms:
    """Forms of every tensor so far, and the nodes that make them.

    Args:
        counts: which traced tensors hold counts, and of what unit.
        timesteps: T.
        constants: initializers of the graph.
    """

    def __init__(
        self, counts: dict[ir.Value, Counts], timesteps: int, constants: Constants
    ) -> None:
        self.counts = counts
        self.constants = constants
        self.nodes: list[ir.Node] = []
        self._timesteps = timesteps
        self._known: dict[ir.Value, dict[Form, tuple[ir.Value, ...]]] = {}

    def tape(self, name: str) -> Tape:
        """Where nodes of a layer go."""
        return Tape(name, self.nodes)

    def put(self, value: ir.Value, form: Form, parts: tuple[ir.Value, ...]) -> None:
        """Tell a form of a traced tensor."""
        self._known.setdefault(value, {})[form] = parts

    def of(self, value: ir.Value) -> set[Form]:
        """The forms a traced tensor has so far; none: it is as it was traced."""
        return set(self._known.get(value, {}))

    def prefers_last(self, value: ir.Value) -> bool:
        """Whether no form with channels first is there."""
        forms = self.of(value)
        return bool(forms) and all(form.last for form in forms)

    def one(self, value: ir.Value, form: Form = FOLDED) -> ir.Value:
        """A tensor in a form that is not stepped."""
        (part,) = self.get(value, form)
        return part

    def get(self, value: ir.Value, form: Form) -> tuple[ir.Value, ...]:
        """A tensor in a form, made from the nearest one there is."""
        known = self._known.setdefault(value, {})
        if not known:
            known[FOLDED] = (value,)
        if form not in known:
            source = min(known, key=lambda other: _distance(other, form))
            step = _next(source, form)
            known[step] = self._turned(value, source, step, known[source])
            return self.get(value, form)
        return known[form]

    def _turned(
        self, value: ir.Value, source: Form, target: Form, parts: tuple[ir.Value, ...]
    ) -> tuple[ir.Value, ...]:
        """One step from a form to another."""
        tape = self.tape(str(value.name))
        if source.stepped != target.stepped:
            if target.stepped:
                names = [f"t{t}{_tail(target)}" for t in range(self._timesteps)]
                split = tape.add(
                    "Split", "unfold", parts, names, axis=0, num_outputs=self._timesteps
                )
                return tuple(split)
            return (tape.one("Concat", f"folded{_tail(target)}", *parts, axis=0),)
        return tuple(self._converted(tape, value, source, target, part) for part in parts)

    def _converted(
        self, tape: Tape, value: ir.Value, source: Form, target: Form, part: ir.Value
    ) -> ir.Value:
        name = f"{_number(part)}{_tail(target)}"
        if source.last != target.last:
            return tape.one("Transpose", name, part, perm=_LAST if target.last else _FIRST)
        unit = np.float32(self.counts[value].unit)
        if target.counts:
            if unit != 1.0:
                part = tape.one("Div", f"{name}.n", part, self.constants.scalar(float(unit)))
            return tape.one("Cast", name, part, to=ir.DataType.UINT8)
        part = tape.one("Cast", name, part, to=ir.DataType.FLOAT)
        if unit != 1.0:
            part = tape.one("Mul", f"{name}.values", part, self.constants.scalar(float(unit)))
        return part


def _distance(source: Form, target: Form) -> tuple[int, bool]:
    """How far a form is; among equals counts are nearer, as they are a quarter of the bytes."""
    steps = (
        (source.counts != target.counts)
        + (source.last != target.last)
        + (source.stepped != target.stepped)
    )
    return steps, not source.counts


def _next(source: Form, target: Form) -> Form:
    """The first step on the way: to bytes first, from bytes last."""
    if target.counts and not source.counts:
        return replace(source, counts=True)
    if source.last != target.last:
        return replace(source, last=target.last)
    if source.stepped != target.stepped:
        return replace(source, stepped=target.stepped)
    return replace(source, counts=target.counts)


def _tail(form: Form) -> str:
    return f".{'u8' if form.counts else 'f32'}.{'nhwc' if form.last else 'nchw'}"


def _number(part: ir.Value) -> str:
    """Tells the parts of a stepped tensor apart."""
    tail = str(part.name).rpartition(".t")[2]
    return f"t{tail.partition('.')[0]}" if tail[:1].isdigit() else "whole"
