"""Latency of other graphs that a lowering could emit: small graphs, interleaved, one thread.

    python benchmarks/alternatives.py

Layers are those of the reference model's stem and MLP at T = 4. Times are medians in ms; all graphs
of a layer compute the same numbers unless their name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from common import write
from onnx import TensorProto, helper, numpy_helper

from primesvt_deploy.measure.latency import measure_latency

RUNS, WARMUP = 150, 15
STEPS = 4
CONVOLUTIONS = {
    "3x3, 24 to 48 channels, 32x32": (24, 48, 32, 3),
    "3x3, 96 to 192 channels, 16x16": (96, 192, 16, 3),
    "1x1, 192 to 768 channels, 8x8": (192, 768, 8, 1),
}
NEURONS = {"48 channels, 32x32": (1024, 48), "768 channels, 8x8": (64, 768)}
_Node = Any


class Graph:
    """Nodes and constants of a small model."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, op: str, inputs: Sequence[str], *, domain: str = "", **attributes: Any) -> str:
        """Add a node; the name of its output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], domain=domain, **attributes))
        return name

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        """Add an initializer; its name."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype=kind)
        return name

    def call(self, x: np.ndarray, output: str) -> Callable[[], np.ndarray]:
        """A call of the model on `x`."""
        kind = helper.np_dtype_to_tensor_dtype(x.dtype)
        graph = helper.make_graph(
            self.nodes,
            "alternative",
            [helper.make_tensor_value_info("x", kind, x.shape)],
            [helper.make_empty_tensor_value_info(output)],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        session = ort.InferenceSession(model.SerializeToString(), options)
        return lambda: session.run(None, {"x": x})[0]


def convolution(inputs: int, outputs: int, size: int, kernel: int) -> dict[str, Any]:
    """Times of graphs for a convolution of spikes with 8-bit weights."""
    generator = np.random.default_rng(0)
    spikes = (generator.random((STEPS, size, size, inputs)) < 0.15).astype(np.uint8)
    codes = generator.integers(-127, 128, (outputs, inputs, kernel, kernel)).astype(np.int8)
    scale = np.full(outputs, 2.0**-8, np.float32)
    first = np.ascontiguousarray(spikes.transpose(0, 3, 1, 2))
    calls = {
        "Conv, float32": _float_convolution(first, codes, scale),
        "ConvInteger, u8 weights": _conv_integer(first, codes),
        "Gather + MatMulIntegerToFloat (chosen)": _product(spikes, codes, scale, gather=True),
        "Gather + MatMulInteger, Cast, Mul (standard)": _product(
            spikes, codes, scale, gather=True, standard=True
        ),
    }
    if kernel > 1:
        calls["Slices, Concat + MatMulIntegerToFloat"] = _product(
            spikes, codes, scale, gather=False
        )
    else:
        calls["MatMulNBits, 4 bits, float32 spikes (approximate)"] = _nbits(spikes, outputs)
    return timed(calls, "Conv, float32")


def _float_convolution(x: np.ndarray, codes: np.ndarray, scale: np.ndarray) -> Any:
    graph = Graph()
    weight = graph.constant(codes * scale[:, None, None, None])
    pad = codes.shape[2] // 2
    y = graph.add("Conv", ["x", weight], pads=[pad] * 4)
    return graph.call(x.astype(np.float32), y)


def _conv_integer(x: np.ndarray, codes: np.ndarray) -> Any:
    graph = Graph()
    shifted = graph.constant(codes.astype(int) + 128, np.uint8)
    pad = codes.shape[2] // 2
    zero = graph.constant(128, np.uint8)
    y = graph.add("ConvInteger", ["x", shifted, "", zero], pads=[pad] * 4)
    return graph.call(x, graph.add("Cast", [y], to=TensorProto.FLOAT))


def _product(
    x: np.ndarray, codes: np.ndarray, scale: np.ndarray, *, gather: bool, standard: bool = False
) -> Any:
    graph = Graph()
    _, size, _, channels = x.shape
    kernel = codes.shape[2]
    rows = "x" if kernel == 1 else _windows(graph, size, channels, gather=gather)
    matrix = graph.constant(codes.transpose(2, 3, 1, 0).reshape(-1, len(codes)), np.int8)
    scales = graph.constant(scale)
    if standard:
        sums = graph.add("MatMulInteger", [rows, matrix])
        y = graph.add("Mul", [graph.add("Cast", [sums], to=TensorProto.FLOAT), scales])
    else:
        one = graph.constant(1.0)
        y = graph.add("MatMulIntegerToFloat", [rows, matrix, one, scales], domain="com.microsoft")
    return graph.call(x, y)


def _windows(graph: Graph, size: int, channels: int, *, gather: bool) -> str:
    pads = graph.constant([0, 1, 1, 0, 0, 1, 1, 0], np.int64)
    padded = graph.add("Pad", ["x", pads])
    if gather:
        places = np.arange((size + 2) ** 2).reshape(size + 2, size + 2)
        parts = [places[a : a + size, b : b + size] for a in range(3) for b in range(3)]
        index = graph.constant(np.stack(parts, -1).reshape(-1, 9), np.int32)
        flat = graph.add("Reshape", [padded, graph.constant([0, -1, channels], np.int64)])
        found = graph.add("Gather", [flat, index], axis=1)
        return graph.add("Reshape", [found, graph.constant([0, -1, 9 * channels], np.int64)])
    axes = graph.constant([1, 2], np.int64)
    slices = [
        graph.add(
            "Slice",
            [
                padded,
                graph.constant([a, b], np.int64),
                graph.constant([a + size, b + size], np.int64),
                axes,
            ],
        )
        for a in range(3)
        for b in range(3)
    ]
    return graph.add("Concat", slices, axis=3)


def _nbits(x: np.ndarray, outputs: int) -> Any:
    graph = Graph()
    channels = x.shape[-1]
    blocks = channels // 32
    generator = np.random.default_rng(1)
    packed = graph.constant(generator.integers(0, 256, (outputs, blocks, 16)), np.uint8)
    scales = graph.constant(np.full(outputs * blocks, 2.0**-8))
    y = graph.add(
        "MatMulNBits",
        ["x", packed, scales],
        domain="com.microsoft",
        K=channels,
        N=outputs,
        bits=4,
        block_size=32,
    )
    return graph.call(x.astype(np.float32), y)


def neurons(places: int, channels: int) -> dict[str, Any]:
    """Times of graphs for a LIF neuron with tau = 2, reset to zero and uint8 spikes."""
    generator = np.random.default_rng(0)
    shape = (STEPS, places, channels)
    x = (0.7 * generator.standard_normal(shape)).astype(np.float32)
    calls = {
        "Where": _neuron(x, "where"),
        "ThresholdedRelu, Sub": _neuron(x, "plain"),
        "negated: ThresholdedRelu (chosen)": _neuron(x, "negated"),
        "negated, raised by 2^t with a Mul": _neuron(x, "raised"),
        "negated, raised for free (chosen where steps are apart)": _neuron(x, "free"),
    }
    return timed(calls, "Where")


def _neuron(x: np.ndarray, form: str) -> Any:
    graph = Graph()
    negated, raised = form in ("negated", "raised", "free"), form in ("raised", "free")
    source = "x"
    if form == "raised":
        powers = graph.constant(2.0 ** np.arange(STEPS).reshape(-1, 1, 1))
        source = graph.add("Mul", ["x", powers])
    names = [f"x{t}" for t in range(STEPS)]
    graph.nodes.append(helper.make_node("Split", [source], names, axis=0, num_outputs=STEPS))
    half, zero = graph.constant(0.5), graph.constant(0.0)
    membrane, spikes = "", []
    for t, charge in enumerate(names):
        threshold = (-1.0 if negated else 1.0) * (2.0**t if raised else 1.0)
        if membrane:
            decayed = membrane if raised else graph.add("Mul", [membrane, half])
            charge = graph.add("Add", [decayed, charge])
        compare = "LessOrEqual" if negated else "GreaterOrEqual"
        fired = graph.add(compare, [charge, graph.constant(threshold)])
        spikes.append(graph.add("Cast", [fired], to=TensorProto.UINT8))
        if form == "where":
            membrane = graph.add("Where", [fired, zero, charge])
        elif negated:
            membrane = graph.add("ThresholdedRelu", [charge], alpha=threshold)
        else:
            below = float(np.nextafter(np.float32(threshold), np.float32(0)))
            spent = graph.add("ThresholdedRelu", [charge], alpha=below)
            membrane = graph.add("Sub", [charge, spent])
    return graph.call(x, graph.add("Concat", spikes, axis=0))


def timed(calls: dict[str, Callable[[], np.ndarray]], base: str) -> dict[str, Any]:
    """Median of each call, ms, and its speed as a multiple of `base`'s."""
    found = measure_latency(calls, runs=RUNS, warmup=WARMUP)
    return {
        name: {
            "median_ms": round(latency.median, 4),
            "times_faster": round(found[base].median / latency.median, 3),
        }
        for name, latency in found.items()
    }


def main() -> None:
    """Measure and write `results/alternatives.json`."""
    write(
        "alternatives",
        {
            "threads": 1,
            "runs": RUNS,
            "timesteps": STEPS,
            "convolutions": {name: convolution(*sizes) for name, sizes in CONVOLUTIONS.items()},
            "neurons": {name: neurons(*sizes) for name, sizes in NEURONS.items()},
        },
    )


if __name__ == "__main__":
    main()
