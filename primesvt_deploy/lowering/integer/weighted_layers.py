"""Lower convolutions and linear layers: to integer products, or to float32 with stored bytes.

A layer runs on integers where its input holds spike counts and its weights lie on a grid
(`integer.weight_grid`): a product of bytes, u8 times s8 (`integer.matmul`), on channels last. All
others stay float32, each with its reason, and store weights that lie on a grid as bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from primesvt_deploy.lowering.integer.int4_packing import stored_codes
from primesvt_deploy.lowering.integer.integer_graph import IntegerGraph
from primesvt_deploy.lowering.integer.matmul import IntegerMatMul, window_of
from primesvt_deploy.lowering.integer.neurons import only_neuron
from primesvt_deploy.lowering.integer.tensor_layout import AS_TRACED, Layout
from primesvt_deploy.lowering.integer.weight_grid import GridWeights, grid_of
from primesvt_deploy.lowering.integer.weighted_nodes import integer_grid, linear_weights
from primesvt_deploy.lowering.lif_operators import Currents, can_prescale_decay
from primesvt_deploy.lowering.pixel_conv import centred_pixels
from primesvt_deploy.lowering.traced_graph import initializer_array, layer_name

__all__ = ["WeightedLayer", "WeightedLayers"]

_STEP_FACTOR = 4
"""Activations over weights, in bytes, from which single steps are computed apart."""
_OF_PIXELS = "its sums of pixels are whole multiples, exact in float32, which is fastest for them"
_WORTH_BYTES = 64
"""Weights from which storing them as bytes saves more than its operators weigh."""


@dataclass(frozen=True, kw_only=True)
class WeightedLayer:
    """How a call of a weighted layer was lowered.

    Args:
        name: of the layer.
        float_reason: why it runs on float32; "": it runs on integers.
        weight_bits: of a stored weight; None: float32.
        exact: its sums are exact in float32, so they do not depend on the order of adding.
    """

    name: str
    float_reason: str = ""
    weight_bits: int | None = None
    exact: bool = True


class WeightedLayers:
    """Lowers weighted layers into a graph.

    Args:
        target: the graph.
        standard: standard ONNX operators only.
        pack: store weights of 4 bits two in a byte.
        per_timestep: compute layers with more activations than weights step by step.
    """

    def __init__(
        self, target: IntegerGraph, *, standard: bool, pack: bool, per_timestep: bool
    ) -> None:
        self._target = target
        self._matmul = IntegerMatMul(target.initializers, standard=standard)
        self._pack = pack
        self._per_timestep = per_timestep

    def lower(self, node: ir.Node) -> WeightedLayer | None:
        """Append a weighted layer; None: the node is none, and nothing is appended."""
        if node.domain != "":
            return None
        if node.op_type == "Conv":
            return self._convolution(node)
        weights = linear_weights(node)
        return None if weights is None else self._linear(node, weights)

    def _convolution(self, node: ir.Node) -> WeightedLayer | None:
        source, output, layer = node.inputs[0], node.outputs[0], layer_name(node)
        array = initializer_array(node.inputs[1])
        assert source is not None
        if array is None:
            return None
        window = window_of(node)
        grid, reason = self._grid(source, array)
        if grid is not None and (window is None or window.groups > 1):
            reason = "its convolution is grouped" if window else "it is no plain 2-d convolution"
            window = None
        if grid is None or window is None:
            # Sums of whole multiples are exact in float32, too.
            exact, bits = grid is not None, 8
            pixels = centred_pixels(source)
            if pixels is not None and pixels.sums_are_exact(node):
                reason, exact, bits = _OF_PIXELS, True, 16
            stored = self._float_convolution(node, array, bits)
            return WeightedLayer(name=layer, float_reason=reason, weight_bits=stored, exact=exact)
        codes = grid.codes.transpose(2, 3, 1, 0).reshape(-1, len(grid.codes))
        layout = Layout(channels_last=True, per_timestep=self._steps_pay(codes, output))
        parts = self._target.layouts.get(
            source, Layout(uint8=True, channels_last=True, per_timestep=layout.per_timestep)
        )
        tape = self._target.call_tape(f"{layer}.input")
        rows = [self._matmul.windows(tape, part, window, t) for t, part in enumerate(parts)]
        return self._integer_layer(node, rows, grid, codes, layout)

    def _linear(self, node: ir.Node, weights: np.ndarray) -> WeightedLayer:
        """Append a layer of weights `[N, K]`."""
        source, layer = node.inputs[0], layer_name(node)
        assert source is not None
        grid, reason = self._grid(source, weights)
        if grid is None:
            bits = self._float_linear(node, weights)
            return WeightedLayer(name=layer, float_reason=reason, weight_bits=bits, exact=False)
        rows = self._target.layouts.get(source, Layout(uint8=True))
        return self._integer_layer(node, rows, grid, np.ascontiguousarray(grid.codes.T), AS_TRACED)

    def _grid(self, source: ir.Value, weights: np.ndarray) -> tuple[GridWeights | None, str]:
        return integer_grid(self._target.counts.get(source), weights)

    def _steps_pay(self, codes: np.ndarray, output: ir.Value) -> bool:
        """Whether a step's product is large beside the weights, which each step packs anew."""
        shape = output.shape
        assert shape is not None
        sizes = [size for size in shape[1:] if isinstance(size, int)]
        return (
            self._per_timestep
            and self._target.timesteps > 1
            and len(sizes) == 3
            and 4 * int(np.prod(sizes)) >= _STEP_FACTOR * codes.size
            # Only a tensor that a neuron unfolds is known to have T timesteps in its batch.
            and only_neuron(output) is not None
        )

    # On integers

    def _integer_layer(
        self,
        node: ir.Node,
        rows: Sequence[ir.Value],
        grid: GridWeights,
        codes: np.ndarray,
        layout: Layout,
    ) -> WeightedLayer:
        """Append the products of a layer, in the form that the neuron behind takes best."""
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        counts = self._target.counts[source]
        tape = self._target.call_tape(layer_name(node))
        stored = stored_codes(tape, self._target.initializers, codes, packed=self._pack)
        biases = initializer_array(node.inputs[2]) if len(node.inputs) > 2 else None
        whole = np.zeros_like(grid.scales) if biases is None else biases
        exact = grid.sums_are_exact(whole / np.float32(counts.unit), counts.largest)
        lif = only_neuron(output)
        prescaled = layout.per_timestep and lif is not None and can_prescale_decay(lif)
        scales = grid.scales * np.float32(counts.unit)
        currents = []
        for t, part in enumerate(rows):
            factor = np.float32(1.0 if lif is None else -1.0)
            if prescaled and lif is not None:
                factor = np.float32(factor / lif.decay**t)
            bias = None if biases is None else biases * factor
            currents.append(
                self._matmul.product(tape, part, stored, scales * factor, bias, t, exact=exact)
            )
        self._target.layouts.put(output, layout, tuple(currents))
        if lif is not None:
            taken = Layout(channels_last=layout.channels_last, per_timestep=lif.timesteps > 1)
            parts = self._target.layouts.get(output, taken)
            self._target.currents[output] = Currents(
                parts, sign_flipped=True, decay_prescaled=prescaled
            )
        bits = 4 if stored.producer() is not None else 8
        return WeightedLayer(name=layer_name(node), weight_bits=bits, exact=exact)

    # On float32

    def _float_convolution(self, node: ir.Node, weights: np.ndarray, bits: int) -> int | None:
        """Append a float convolution; bits of its weights if they are stored as integers."""
        grid = _grid_worth_bytes(weights, bits)
        if grid is None:
            self._target.copy_node(node)
            return None
        scales = grid.scales.reshape(-1, *[1] * (weights.ndim - 1))
        restored = self._restored_weights(node, grid.codes, scales)
        as_traced = self._target.as_traced
        inputs = [as_traced(node.inputs[0]), restored, *map(as_traced, node.inputs[2:])]
        self._target.copy_node(node, inputs)
        return bits

    def _float_linear(self, node: ir.Node, weights: np.ndarray) -> int | None:
        """Append a float product; bits of its weights if they are stored as bytes."""
        grid = _grid_worth_bytes(weights)
        if grid is None:
            self._target.copy_node(node)
            return None
        restored = self._restored_weights(node, np.ascontiguousarray(grid.codes.T), grid.scales)
        source, bias = self._target.as_traced(node.inputs[0]), node.inputs[2:]
        tape = self._target.call_tape(layer_name(node))
        product = tape.node("MatMul", "matmul", source, restored)
        if bias and bias[0] is not None:
            product = tape.node("Add", "add", product, self._target.as_traced(bias[0]))
        self._target.layouts.put(node.outputs[0], AS_TRACED, (product,))
        return 8

    def _restored_weights(self, node: ir.Node, codes: np.ndarray, scales: np.ndarray) -> ir.Value:
        """Append what restores float weights from stored codes and their scales."""
        tape = self._target.call_tape(layer_name(node))
        stored = self._target.initializers.array(codes, f"{tape.layer}.codes")
        values = tape.node("Cast", "levels", stored, to=ir.DataType.FLOAT)
        scale = self._target.initializers.array(scales, f"{tape.layer}.scale")
        return tape.node("Mul", "weight", values, scale)


def _grid_worth_bytes(weights: np.ndarray, bits: int = 8) -> GridWeights | None:
    """Grid of weights that are worth storing as integers; None: they lie on none, or are few."""
    grid = grid_of(weights, bits)
    return grid if grid is not None and weights.size >= _WORTH_BYTES else None
