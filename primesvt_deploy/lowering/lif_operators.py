"""Timesteps of a neuron as standard ONNX operators.

With the equations of `lowering.lif` (g absorbed where it is 1) and X[0..T-1] the currents:

    H[0] = g X[0] + c + d v_reset       H[t] = d V[t-1] + g X[t] + c
    S[t] = Cast(H[t] >= v_threshold)

Nothing is added in step 0, nothing reset in step T-1, and a decay of 1 multiplies nothing. No
`Where`, which costs 3.5 to 5.7 times an Add in ONNX Runtime. For the reset to zero

    V[t] = H[t] - ThresholdedRelu(H[t], alpha)     alpha = the float32 next below v_threshold

since `H > alpha` and `H >= v_threshold` are the same in float32; and on *sign-flipped* currents
-X[t], which a layer before can give for nothing, one operator less:

    S[t] = Cast(H[t] <= -v_threshold)   V[t] = ThresholdedRelu(H[t], -v_threshold)

On *decay-prescaled* currents, X[t] / d^t with d a power of two, potentials are prescaled likewise,
thresholds are divided by d^t, and the decay needs no multiplication; both are exact.

Neurons of D > 1 levels fire `Round(Clip(H / v_threshold, 0, D))`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from primesvt_deploy.lowering.graph_builder import LayerTape, SharedInitializers
from primesvt_deploy.lowering.lif import ChargeFireReset

__all__ = ["Currents", "can_flip_sign", "can_prescale_decay", "fire"]

_LARGEST_PRESCALE = 60
"""Powers of two by which currents are prescaled, at most: float32 is far from overflowing."""


@dataclass(frozen=True)
class Currents:
    """Input currents of a neuron layer.

    Args:
        parts: X[t], one a timestep (the same one T times where the input is static).
        sign_flipped: they are -X[t].
        decay_prescaled: they are X[t] / d^t.
    """

    parts: Sequence[ir.Value]
    sign_flipped: bool = False
    decay_prescaled: bool = False


def can_flip_sign(lif: ChargeFireReset) -> bool:
    """Whether sign-flipped currents save a neuron an operator."""
    return lif.levels == 1 and lif.v_reset == 0.0


def can_prescale_decay(lif: ChargeFireReset) -> bool:
    """Whether the decay is a power of two below 1, and its powers are far from overflowing."""
    if not 0.0 < lif.decay < 1.0 or lif.gain != 1.0:
        return False
    significand, exponent = math.frexp(lif.decay)
    return significand == 0.5 and lif.timesteps * (1 - exponent) <= _LARGEST_PRESCALE


def fire(
    tape: LayerTape,
    currents: Currents,
    lif: ChargeFireReset,
    initializers: SharedInitializers,
    *,
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> list[ir.Value]:
    """Add the operators of a neuron's timesteps.

    Args:
        tape: which nodes are recorded on.
        currents: `sign_flipped` only if `can_flip_sign`, `decay_prescaled` only if
            `can_prescale_decay`.
        lif: what the neuron computes.
        initializers: of the graph.
        dtype: of the outputs: FLOAT: values; UINT8: spike counts, without `spike_value`.

    Returns:
        Outputs `spikes.t<t>`, one a timestep.
    """
    return _Timesteps(tape, currents, lif, initializers, dtype).spikes()


class _Timesteps:
    def __init__(
        self,
        tape: LayerTape,
        currents: Currents,
        lif: ChargeFireReset,
        initializers: SharedInitializers,
        dtype: ir.DataType,
    ) -> None:
        self.tape, self.currents, self.lif = tape, currents, lif
        self.initializers, self.dtype = initializers, dtype

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
                decay = 1.0 if self.currents.decay_prescaled else lif.decay
                decayed = self._scaled(f"decay.t{t}", membrane, decay)
                charge = self.tape.node("Add", f"charge.t{t}", decayed, charge)
            shift = self._at(t, lif.first_offset if membrane is None else lif.offset)
            if shift:
                charge = self.tape.node("Add", f"offset.t{t}", charge, self._constant(shift))
            last = t + 1 == lif.timesteps
            if lif.levels == 1:
                spikes, membrane = self._spike(t, charge, last)
            else:
                spikes, membrane = self._count(t, charge, last)
            fired.append(spikes)
        return fired

    def _spike(self, t: int, charge: ir.Value, last: bool) -> tuple[ir.Value, ir.Value | None]:
        """Fire a timestep; its spikes, and the potential after the reset."""
        lif, tape = self.lif, self.tape
        threshold = self._at(t, lif.v_threshold)
        compare = "LessOrEqual" if self.currents.sign_flipped else "GreaterOrEqual"
        condition = tape.node(compare, f"fired.t{t}", charge, self._constant(threshold))
        spikes = self._output(t, condition)
        if last:
            return spikes, None
        if self.currents.sign_flipped:
            return spikes, tape.node("ThresholdedRelu", f"membrane.t{t}", charge, alpha=threshold)
        if lif.v_reset is None:
            count = tape.node("Cast", f"spent.t{t}", condition, to=ir.DataType.FLOAT)
            spent = self._scaled(f"cost.t{t}", count, threshold)
        elif lif.v_reset == 0.0:
            below = float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))
            spent = tape.node("ThresholdedRelu", f"spent.t{t}", charge, alpha=below)
        else:
            rest = self._constant(self._at(t, lif.v_reset))
            return spikes, tape.node("Where", f"membrane.t{t}", condition, rest, charge)
        return spikes, tape.node("Sub", f"membrane.t{t}", charge, spent)

    def _count(self, t: int, charge: ir.Value, last: bool) -> tuple[ir.Value, ir.Value | None]:
        """Fire a timestep of a neuron of several levels; its counts, and the potential after."""
        lif, tape = self.lif, self.tape
        threshold = self._at(t, lif.v_threshold)
        level = charge
        if threshold != 1.0:
            level = tape.node("Div", f"unit.t{t}", charge, self._constant(threshold))
        bounds = self._constant(0.0), self._constant(float(lif.levels))
        level = tape.node("Clip", f"clipped.t{t}", level, *bounds)
        if lif.half_up:
            level = tape.node("Add", f"raised.t{t}", level, self._constant(0.5))
        plain = self.dtype == ir.DataType.FLOAT and lif.spike_value == 1.0
        name = f"spikes.t{t}" if plain else f"count.t{t}"
        count = tape.node("Floor" if lif.half_up else "Round", name, level)
        spikes = count if plain else self._output(t, count)
        if last:
            return spikes, None
        spent = self._scaled(f"spent.t{t}", count, threshold)
        return spikes, tape.node("Sub", f"membrane.t{t}", charge, spent)

    def _output(self, t: int, fired: ir.Value) -> ir.Value:
        """Output of a timestep, from the condition that it fired or a float count."""
        name, value = f"spikes.t{t}", self.lif.spike_value
        if self.dtype != ir.DataType.FLOAT:
            return self.tape.node("Cast", name, fired, to=self.dtype)
        if self.lif.levels > 1:
            return self._scaled(name, fired, value)
        if value == 1.0:
            return self.tape.node("Cast", name, fired, to=self.dtype)
        count = self.tape.node("Cast", f"count.t{t}", fired, to=self.dtype)
        return self._scaled(name, count, value)

    def _at(self, t: int, potential: float) -> float:
        """A potential of step t in the sign and scale of the currents."""
        signed = -potential if self.currents.sign_flipped else potential
        return signed / self.lif.decay**t if self.currents.decay_prescaled else signed

    def _scaled(self, name: str, value: ir.Value, factor: float) -> ir.Value:
        return (
            value if factor == 1.0 else self.tape.node("Mul", name, value, self._constant(factor))
        )

    def _constant(self, value: float) -> ir.Value:
        return self.initializers.scalar(value)
