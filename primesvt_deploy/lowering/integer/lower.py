"""Lower a traced graph to integer arithmetic wherever tensors hold counts of spikes.

Counts are uint8 and exact. A layer whose weights lie on a grid (`lowering.grid`) and whose input
holds counts becomes a product of bytes, u8 times s8 (`lowering.products`), on tensors with
channels last. Everything else stays float32 and gets its input as it was traced; what only moves
values about moves bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from primesvt_deploy.errors import ExportError
from primesvt_deploy.lowering.integer.int4_packing import UNPACK, stored_codes, unpack_function
from primesvt_deploy.lowering.integer.matmul import CONTRIB, Products, window_of
from primesvt_deploy.lowering.integer.spike_counts import constant, find_counts
from primesvt_deploy.lowering.integer.tensor_layout import Form, Forms
from primesvt_deploy.lowering.integer.weight_grid import GridWeights, grid_of
from primesvt_deploy.lowering.lif import LIF_DOMAIN, ChargeFireReset
from primesvt_deploy.lowering.lif_operators import (
    Constants,
    Currents,
    can_be_negated,
    can_be_raised,
    fire,
)
from primesvt_deploy.lowering.unroll import (
    FLOAT_LAYERS_KEY,
    UnrolledLayer,
    constants_of,
    layer_name,
    neuron_nodes,
    record,
)

__all__ = ["Lowered", "lower_to_integers"]

_NO_OVERFLOW = 2**15 - 1
"""x86 without VNNI adds pairs of products in 16 bits, saturating."""


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A lowered graph.

    Args:
        model: it.
        layers: its neuron layers, in order.
        integer: names of the weighted layers that run on integers.
        real: of those that run on float32, and why.
        bits: of a stored weight, by layer, where they are fewer than 32.
    """

    model: ir.Model
    layers: tuple[UnrolledLayer, ...]
    integer: tuple[str, ...]
    real: dict[str, str]
    bits: dict[str, int]


def lower_to_integers(
    model: ir.Model, *, standard: bool = False, pack: bool = False, stepped: bool = True
) -> Lowered:
    """The integer form of a traced graph.

    Args:
        model: from `lowering.trace`, weights on grids where they are meant to be integers; it is
            not used again.
        standard: standard ONNX operators only.
        pack: store weights of 4 bits two in a byte.
        stepped: compute layers with more activations than weights step by step.

    Raises:
        ExportError: the graph has no neuron, or neurons of several timesteps.
    """
    return _Lowering(model, standard=standard, pack=pack, stepped=stepped).run()


@dataclass
class _Lowering:
    traced: ir.Model
    standard: bool
    pack: bool
    stepped: bool
    layers: list[UnrolledLayer] = field(default_factory=list)
    integer: list[str] = field(default_factory=list)
    real: dict[str, str] = field(default_factory=dict)
    bits: dict[str, int] = field(default_factory=dict)
    _inexact: list[str] = field(default_factory=list)
    _calls: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.traced.graph
        told = {constants_of(node).timesteps for node in neuron_nodes(graph)}
        if len(told) > 1:
            raise ExportError(f"neurons have {sorted(told)} timesteps: expected one number for all")
        (self._timesteps,) = told
        inputs = [ir.Value(name=v.name, shape=v.shape, type=v.type) for v in graph.inputs]
        self._graph = ir.Graph(
            inputs, [], nodes=[], opset_imports=graph.opset_imports.copy(), name=graph.name
        )
        self._constants = Constants(self._graph)
        self._forms = Forms(find_counts(graph), self._timesteps, self._constants)
        self._products = Products(self._constants, standard=self.standard)
        for old, new in zip(graph.inputs, inputs, strict=True):
            self._forms.put(old, Form(), (new,))
        self._charges: dict[ir.Value, Currents] = {}
        self._shared: dict[ir.Value, ir.Value] = {}
        moving = ("Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Flatten", "MaxPool")
        self._rules: dict[str, Callable[[ir.Node], bool]] = {
            "Conv": self._convolution,
            "MatMul": self._matmul,
            "Gemm": self._gemm,
            "ReduceMean": self._mean,
            **dict.fromkeys(("Add", "Mul", "Sub", "Div"), self._elementwise),
            **dict.fromkeys(moving, self._moving),
        }

    def run(self) -> Lowered:
        for node in self.traced.graph:
            if node.domain == LIF_DOMAIN:
                self._neuron(node)
                continue
            rule = self._rules.get(node.op_type) if node.domain == "" else None
            if rule is None or not rule(node):
                self._as_traced(node)
        for old in self.traced.graph.outputs:
            output = self._forms.one(old)
            output.name, output.shape, output.type = old.name, old.shape, old.type
            self._graph.outputs.append(output)
        self._graph.extend(self._forms.nodes)
        self._graph.opset_imports.pop(LIF_DOMAIN, None)
        if not self.standard:
            self._graph.opset_imports[CONTRIB] = 1
        model = ir.Model(self._graph, ir_version=self.traced.ir_version)
        packed = any(node.op_type == UNPACK for node in self._forms.nodes)
        record(model, self.layers)
        model.metadata_props[FLOAT_LAYERS_KEY] = json.dumps(self._inexact)
        if packed:
            function = unpack_function(self._graph.opset_imports[""])
            model.functions[function.identifier()] = function
            self._graph.opset_imports[LIF_DOMAIN] = 1
        return Lowered(
            model=model,
            layers=tuple(self.layers),
            integer=tuple(self.integer),
            real=self.real,
            bits=self.bits,
        )

    # Neurons

    def _neuron(self, node: ir.Node) -> None:
        lif, layer = constants_of(node), layer_name(node).removesuffix(".neuron")
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        last = self._forms.prefers_last(source)
        currents = self._charges.get(source)
        if currents is None:
            once = lif.static_input or lif.timesteps == 1
            parts = self._forms.get(source, Form(last=last, stepped=not once))
            currents = Currents(parts * lif.timesteps if once else parts)
        tape = self._forms.tape(layer)
        as_counts = self._forms.counts[output].fit_a_byte
        dtype = ir.DataType.UINT8 if as_counts else ir.DataType.FLOAT
        spikes = tuple(fire(tape, currents, lif, self._constants, dtype=dtype))
        output.name = f"{layer}.spikes"
        self._forms.put(
            output, Form(counts=as_counts, last=last, stepped=lif.timesteps > 1), spikes
        )
        names = tuple(str(value.name) for value in spikes)
        self.layers.append(UnrolledLayer(layer, lif, names, "NHWC" if last else "NCHW"))

    def _only_neuron(self, value: ir.Value) -> ChargeFireReset | None:
        """The neuron that alone receives a tensor and takes it negated, or None."""
        uses = list(value.uses())
        if len(uses) != 1 or uses[0].node.domain != LIF_DOMAIN:
            return None
        lif = constants_of(uses[0].node)
        return lif if can_be_negated(lif) and not lif.static_input else None

    # Layers with weights

    def _convolution(self, node: ir.Node) -> bool:
        source, weight, output = node.inputs[0], node.inputs[1], node.outputs[0]
        assert source is not None and weight is not None
        layer, array = layer_name(node), constant(weight)
        if array is None:
            return False
        window = window_of(node)
        grid, reason = self._grid(source, array)
        if grid is not None and (window is None or window.groups > 1):
            reason = "its convolution is grouped" if window else "it is no plain 2-d convolution"
            window = None
        if grid is None or window is None:
            self.real[layer] = reason
            # Sums of whole multiples are exact in float32, too.
            if grid is None:
                self._inexact.append(layer)
            return self._stored_convolution(node, array)
        self.integer.append(layer)
        codes = grid.codes.transpose(2, 3, 1, 0).reshape(-1, len(grid.codes))
        stepped = self._steps_pay(codes, output)
        parts = self._forms.get(source, Form(counts=True, last=True, stepped=stepped))
        tape = self._forms.tape(self._unique(f"{layer}.input"))
        windows = [self._products.windows(tape, part, window, t) for t, part in enumerate(parts)]
        self._weighted(node, windows, grid, codes, stepped=stepped, last=True)
        return True

    def _matmul(self, node: ir.Node) -> bool:
        """A product with a matrix of weights, `[K, N]`."""
        array = constant(node.inputs[1])
        if array is None or array.ndim != 2 or constant(node.inputs[0]) is not None:
            return False
        return self._linear(node, np.ascontiguousarray(array.T))

    def _gemm(self, node: ir.Node) -> bool:
        """The same with a bias, of a matrix of inputs."""
        given = {name: a.value for name, a in node.attributes.items()}
        array = constant(node.inputs[1])
        plain = (given.get("alpha", 1.0), given.get("beta", 1.0)) == (1.0, 1.0)
        if array is None or not plain or given.get("transA", 0):
            return False
        return self._linear(node, array if given.get("transB", 0) else array.T)

    def _linear(self, node: ir.Node, weights: np.ndarray) -> bool:
        """A layer of weights `[N, K]`."""
        source = node.inputs[0]
        assert source is not None
        layer = layer_name(node)
        grid, reason = self._grid(source, weights)
        if grid is None:
            self.real[layer] = reason
            self._inexact.append(layer)
            return self._stored_linear(node, weights)
        self.integer.append(layer)
        parts = self._forms.get(source, Form(counts=True))
        codes = np.ascontiguousarray(grid.codes.T)
        self._weighted(node, list(parts), grid, codes, stepped=False, last=False)
        return True

    def _stored_linear(self, node: ir.Node, weights: np.ndarray) -> bool:
        """A float product whose weights, if on a grid, are stored as bytes."""
        grid = grid_of(weights)
        if grid is None or weights.size < _WORTH_BYTES:
            return False
        restored = self._restored(node, np.ascontiguousarray(grid.codes.T), grid.scales)
        source, bias = self._as_is(node.inputs[0]), node.inputs[2:]
        tape = self._forms.tape(self._unique(layer_name(node)))
        product = tape.one("MatMul", "matmul", source, restored)
        if bias and bias[0] is not None:
            product = tape.one("Add", "add", product, self._as_is(bias[0]))
        self._forms.put(node.outputs[0], Form(), (product,))
        return True

    def _restored(self, node: ir.Node, codes: np.ndarray, scales: np.ndarray) -> ir.Value:
        """Float weights from codes and what they are multiplied by."""
        self.bits[layer_name(node)] = 8
        tape = self._forms.tape(self._unique(layer_name(node)))
        stored = self._constants.array(codes, f"{tape.layer}.codes")
        values = tape.one("Cast", "levels", stored, to=ir.DataType.FLOAT)
        scale = self._constants.array(scales, f"{tape.layer}.scale")
        return tape.one("Mul", "weight", values, scale)

    def _unique(self, layer: str) -> str:
        """A name for the nodes of a layer that may be called more than once."""
        calls = self._calls[layer] = self._calls.get(layer, 0) + 1
        return layer if calls == 1 else f"{layer}.call{calls}"

    def _weighted(
        self,
        node: ir.Node,
        rows: list[ir.Value],
        grid: GridWeights,
        codes: np.ndarray,
        *,
        stepped: bool,
        last: bool,
    ) -> None:
        """The product of a layer, negated and raised where the neuron behind takes it so."""
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        counts = self._forms.counts[source]
        layer = layer_name(node)
        tape = self._forms.tape(self._unique(layer))
        stored = stored_codes(tape, self._constants, codes, packed=self.pack)
        self.bits[layer] = 4 if stored.producer() is not None else 8
        biases = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        scales = grid.scales
        whole = np.zeros_like(scales) if biases is None else biases
        exact = grid.holds(whole / np.float32(counts.unit), counts.most)
        if not exact:
            self._inexact.append(layer)
        lif = self._only_neuron(output)
        raised = stepped and lif is not None and can_be_raised(lif)
        scales = scales * np.float32(counts.unit)
        currents = []
        for t, part in enumerate(rows):
            factor = np.float32(1.0 if lif is None else -1.0)
            if raised and lif is not None:
                factor = np.float32(factor / lif.decay**t)
            added = None if biases is None else biases * factor
            currents.append(
                self._products.product(tape, part, stored, scales * factor, added, t, exact=exact)
            )
        if lif is None:
            self._forms.put(output, Form(last=last, stepped=stepped), tuple(currents))
            return
        self._forms.put(output, Form(last=last, stepped=stepped), tuple(currents))
        charged = self._forms.get(output, Form(last=last, stepped=lif.timesteps > 1))
        self._charges[output] = Currents(charged, negated=True, raised=raised)

    def _grid(self, source: ir.Value, weights: np.ndarray) -> tuple[GridWeights | None, str]:
        """The grid of a layer that can run on integers, or why it cannot."""
        counts = self._forms.counts.get(source)
        if counts is None or not counts.fit_a_byte:
            return None, "its input is real" if counts is None else "its input is beyond 255"
        grid = grid_of(weights)
        if grid is None:
            return None, "its weights are not of 8 bits"
        if np.frexp(counts.unit)[0] != 0.5:
            return None, "its input is no multiple of a power of two"
        if 2 * counts.most * int(np.abs(grid.codes.astype(np.int64)).max(initial=0)) > _NO_OVERFLOW:
            return None, "its input could overflow 16 bits"
        return grid, ""

    def _steps_pay(self, codes: np.ndarray, output: ir.Value) -> bool:
        """Whether a step's product is large beside the weights, which each step packs anew."""
        shape = output.shape
        assert shape is not None
        sizes = [size for size in shape[1:] if isinstance(size, int)]
        return (
            self.stepped
            and self._timesteps > 1
            and len(sizes) == 3
            and 4 * int(np.prod(sizes)) >= _STEP_FACTOR * codes.size
            and self._is_folded(output)
        )

    def _is_folded(self, output: ir.Value) -> bool:
        """Whether a tensor has T timesteps in its batch: its neuron unfolds it."""
        return self._only_neuron(output) is not None

    def _stored_convolution(self, node: ir.Node, weights: np.ndarray) -> bool:
        """A float convolution whose weights, if on a grid, are stored as bytes."""
        grid = grid_of(weights)
        if grid is None or weights.size < _WORTH_BYTES:
            return False
        scales = grid.scales.reshape(-1, *[1] * (weights.ndim - 1))
        restored = self._restored(node, grid.codes, scales)
        inputs = [self._as_is(node.inputs[0]), restored, *map(self._as_is, node.inputs[2:])]
        self._copied(node, inputs, Form())
        return True

    # Everything else

    def _elementwise(self, node: ir.Node) -> bool:
        """Arithmetic of two tensors of one shape, or of one and a scalar, in either layout."""
        a, b = node.inputs
        if a is None or b is None:
            return False
        tensors = [value for value in (a, b) if constant(value) is None]
        scalars = [array for array in map(constant, (a, b)) if array is not None]
        if any(array.size != 1 for array in scalars) or not tensors:
            return False
        if len(tensors) == 2 and a.shape != b.shape:
            return False
        last = all(self._forms.prefers_last(value) for value in tensors)
        inputs = [
            self._forms.one(value, Form(last=last))
            if constant(value) is None
            else self._as_is(value)
            for value in (a, b)
        ]
        self._copied(node, inputs, Form(last=last))
        return True

    def _moving(self, node: ir.Node) -> bool:
        """What moves or picks counts does so on bytes."""
        source = node.inputs[0]
        assert source is not None
        counts = self._forms.counts.get(source)
        if counts is None or not counts.fit_a_byte or not self._as_bytes(source):
            return False
        first = self._forms.one(source, Form(counts=True))
        self._copied(node, [first, *map(self._as_is, node.inputs[1:])], Form(counts=True))
        return True

    def _as_bytes(self, value: ir.Value) -> bool:
        return any(form.counts for form in self._forms.of(value))

    def _mean(self, node: ir.Node) -> bool:
        """Means over height and width, in either layout."""
        source = node.inputs[0]
        axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        assert source is not None
        keeps = "keepdims" not in node.attributes or bool(node.attributes["keepdims"].value)
        if axes is None or sorted(axes.tolist()) != [2, 3] or keeps:
            return False
        if not self._forms.prefers_last(source):
            return False
        new_axes = self._constants.array(np.asarray([1, 2], dtype=np.int64), "axes.height.width")
        self._copied(node, [self._forms.one(source, Form(last=True)), new_axes], Form())
        return True

    def _as_traced(self, node: ir.Node) -> None:
        self._copied(node, [self._as_is(value) for value in node.inputs], Form())

    def _as_is(self, value: ir.Value | None) -> ir.Value | None:
        """A tensor of the traced graph in the form it has there."""
        if value is None:
            return None
        if value.const_value is not None:
            if value not in self._shared:
                copy = ir.Value(
                    name=value.name,
                    shape=value.shape,
                    type=value.type,
                    const_value=value.const_value,
                )
                self._graph.register_initializer(copy)
                self._shared[value] = copy
            return self._shared[value]
        return self._forms.one(value)

    def _copied(self, node: ir.Node, inputs: list[ir.Value | None], form: Form) -> None:
        copy = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=node.name,
            metadata_props=dict(node.metadata_props),
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name = old.name
            self._forms.put(old, form, (new,))
        self._forms.nodes.append(copy)


_STEP_FACTOR = 4
"""Activations over weights, in bytes, from which single steps are computed apart."""
_WORTH_BYTES = 64
"""Weights from which storing them as bytes saves more than its operators weigh."""
