"""A neuron's timesteps as standard ONNX operators.

With the equations of `lowering.neurons` (g absorbed where it is 1) and X[0..T-1] the currents:

    H[0] = g X[0] + c + d v_reset       H[t] = d V[t-1] + g X[t] + c
    S[t] = Cast(H[t] >= v_threshold)

Nothing is added in step 0, nothing reset in step T-1, and a decay of 1 multiplies nothing. No
`Where`, which costs 3.5 to 5.7 times an Add in ONNX Runtime. For the reset to zero

    V[t] = H[t] - ThresholdedRelu(H[t], alpha)     alpha = the float32 next below v_threshold

since `H > alpha` and `H >= v_threshold` are the same in float32; and on *negated* currents, which
a layer before can give for nothing, one operator less:

    S[t] = Cast(H[t] <= -v_threshold)   V[t] = ThresholdedRelu(H[t], -v_threshold)

On *raised* currents, X[t] / d^t with d a power of two, potentials stay raised, thresholds are
raised with them, and the decay needs no multiplication; both are exact.

Neurons of D > 1 levels fire `Round(Clip(H / v_threshold, 0, D))`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from primesvt_deploy.lowering.lif import ChargeFireReset

__all__ = ["Constants", "Currents", "Tape", "can_be_negated", "can_be_raised", "fire"]


_MOST_RAISED = 60
"""Powers of two by which currents are raised, at most."""


class Constants:
    """Initializers shared by value: neurons have theirs in common."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._values: dict[tuple[Any, ...], ir.Value] = {}

    def scalar(self, value: float) -> ir.Value:
        """A float32 scalar."""
        exact = np.float32(value)
        # Nine digits tell any two float32 apart.
        return self.array(np.asarray(exact), f"lif.constant.{float(exact):.9g}")

    def array(self, array: np.ndarray[Any, Any], name: str) -> ir.Value:
        """An initializer of that name and content; asked for again, the same one."""
        key = (name, array.dtype.str, array.shape, array.tobytes())
        if key not in self._values:
            if name in self._graph.initializers:
                name = f"{name}.{len(self._values)}"
            tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
            value = ir.Value(
                name=name,
                shape=ir.Shape(array.shape),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            self._graph.register_initializer(value)
            self._values[key] = value
        return self._values[key]


class Tape:
    """Appends nodes named after a layer."""

    def __init__(self, layer: str, nodes: list[ir.Node] | None = None) -> None:
        self.layer = layer
        self.nodes: list[ir.Node] = [] if nodes is None else nodes

    def add(
        self,
        op: str,
        name: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """A node `<layer>.<name>` with outputs `<layer>.<output>`."""
        node = ir.node(
            op,
            list(inputs),
            attributes=attributes,
            num_outputs=len(outputs),
            domain=domain,
            name=f"{self.layer}.{name}",
        )
        for value, tail in zip(node.outputs, outputs, strict=True):
            value.name = f"{self.layer}.{tail}"
        self.nodes.append(node)
        return node.outputs

    def one(self, op: str, name: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """The output of a node that has one, of the same name."""
        return self.add(op, name, inputs, [name], **attributes)[0]


@dataclass(frozen=True)
class Currents:
    """What a neuron layer receives.

    Args:
        parts: X[t], one a timestep (the same one T times where the input is static).
        negated: they are -X[t].
        raised: they are X[t] / d^t.
    """

    parts: Sequence[ir.Value]
    negated: bool = False
    raised: bool = False


def can_be_negated(lif: ChargeFireReset) -> bool:
    """Whether negated currents save an operator."""
    return lif.levels == 1 and lif.v_reset == 0.0


def can_be_raised(lif: ChargeFireReset) -> bool:
    """Whether the decay is a power of two below 1, and its powers are far from overflowing."""
    if not 0.0 < lif.decay < 1.0 or lif.gain != 1.0:
        return False
    significand, exponent = math.frexp(lif.decay)
    return significand == 0.5 and lif.timesteps * (1 - exponent) <= _MOST_RAISED


def fire(
    tape: Tape,
    currents: Currents,
    lif: ChargeFireReset,
    constants: Constants,
    *,
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> list[ir.Value]:
    """Outputs `spikes.t<t>` of every timestep.

    Args:
        tape: nodes go there.
        currents: `negated` only if `can_be_negated`, `raised` only if `can_be_raised`.
        lif: what the neuron computes.
        constants: initializers of the graph.
        dtype: FLOAT: outputs are values; UINT8: counts, without `spike_value`.
    """
    return _Unrolling(tape, currents, lif, constants, dtype).spikes()


class _Unrolling:
    def __init__(
        self,
        tape: Tape,
        currents: Currents,
        lif: ChargeFireReset,
        constants: Constants,
        dtype: ir.DataType,
    ) -> None:
        self.tape, self.currents, self.lif = tape, currents, lif
        self.constants, self.dtype = constants, dtype

    def spikes(self) -> list[ir.Value]:
        lif = self.lif
        gained: dict[int, ir.Value] = {}
        fired: list[ir.Value] = []
        membrane: ir.Value | None = None
        for t, part in enumerate(self.currents.parts):
            if id(part) not in gained:
                gained[id(part)] = self._scaled(f"gain.t{t}", part, lif.gain)
            charge = gained[id(part)]
            if membrane is not None:
                decay = 1.0 if self.currents.raised else lif.decay
                decayed = self._scaled(f"decay.t{t}", membrane, decay)
                charge = self.tape.one("Add", f"charge.t{t}", decayed, charge)
            shift = self._at(t, lif.first_offset if membrane is None else lif.offset)
            if shift:
                charge = self.tape.one("Add", f"offset.t{t}", charge, self._constant(shift))
            last = t + 1 == lif.timesteps
            if lif.levels == 1:
                spikes, membrane = self._spike(t, charge, last)
            else:
                spikes, membrane = self._count(t, charge, last)
            fired.append(spikes)
        return fired

    def _spike(self, t: int, charge: ir.Value, last: bool) -> tuple[ir.Value, ir.Value | None]:
        """Spikes of a step, and the potential after it."""
        lif, tape = self.lif, self.tape
        threshold = self._at(t, lif.v_threshold)
        compare = "LessOrEqual" if self.currents.negated else "GreaterOrEqual"
        condition = tape.one(compare, f"fired.t{t}", charge, self._constant(threshold))
        spikes = self._output(t, condition)
        if last:
            return spikes, None
        if self.currents.negated:
            return spikes, tape.one("ThresholdedRelu", f"membrane.t{t}", charge, alpha=threshold)
        if lif.v_reset is None:
            count = tape.one("Cast", f"spent.t{t}", condition, to=ir.DataType.FLOAT)
            spent = self._scaled(f"cost.t{t}", count, threshold)
        elif lif.v_reset == 0.0:
            below = float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))
            spent = tape.one("ThresholdedRelu", f"spent.t{t}", charge, alpha=below)
        else:
            rest = self._constant(self._at(t, lif.v_reset))
            return spikes, tape.one("Where", f"membrane.t{t}", condition, rest, charge)
        return spikes, tape.one("Sub", f"membrane.t{t}", charge, spent)

    def _count(self, t: int, charge: ir.Value, last: bool) -> tuple[ir.Value, ir.Value | None]:
        lif, tape = self.lif, self.tape
        threshold = self._at(t, lif.v_threshold)
        level = charge
        if threshold != 1.0:
            level = tape.one("Div", f"unit.t{t}", charge, self._constant(threshold))
        bounds = self._constant(0.0), self._constant(float(lif.levels))
        level = tape.one("Clip", f"clipped.t{t}", level, *bounds)
        if lif.half_up:
            level = tape.one("Add", f"raised.t{t}", level, self._constant(0.5))
        plain = self.dtype == ir.DataType.FLOAT and lif.spike_value == 1.0
        name = f"spikes.t{t}" if plain else f"count.t{t}"
        count = tape.one("Floor" if lif.half_up else "Round", name, level)
        spikes = count if plain else self._output(t, count)
        if last:
            return spikes, None
        spent = self._scaled(f"spent.t{t}", count, threshold)
        return spikes, tape.one("Sub", f"membrane.t{t}", charge, spent)

    def _output(self, t: int, fired: ir.Value) -> ir.Value:
        """Outputs from a condition or a float count."""
        name, value = f"spikes.t{t}", self.lif.spike_value
        if self.dtype != ir.DataType.FLOAT:
            return self.tape.one("Cast", name, fired, to=self.dtype)
        if self.lif.levels > 1:
            return self._scaled(name, fired, value)
        if value == 1.0:
            return self.tape.one("Cast", name, fired, to=self.dtype)
        count = self.tape.one("Cast", f"count.t{t}", fired, to=self.dtype)
        return self._scaled(name, count, value)

    def _at(self, t: int, potential: float) -> float:
        """A potential of step t in the currents' sign and scale."""
        signed = -potential if self.currents.negated else potential
        return signed / self.lif.decay**t if self.currents.raised else signed

    def _scaled(self, name: str, value: ir.Value, factor: float) -> ir.Value:
        return value if factor == 1.0 else self.tape.one("Mul", name, value, self._constant(factor))

    def _constant(self, value: float) -> ir.Value:
        return self.constants.scalar(value)
