"""Products of bytes equal torch's convolutions, whatever the window."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primesvt_deploy.lowering.graph_builder import LayerTape, SharedInitializers
from primesvt_deploy.lowering.integer.matmul import CONTRIB, IntegerMatMul, Window

GEOMETRY = st.fixed_dictionaries(
    {
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "strides": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "dilations": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "pads": st.tuples(st.integers(0, 2), st.integers(0, 2)),
    }
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(geometry=GEOMETRY, standard=st.booleans(), with_bias=st.booleans(), seed=st.integers(0, 99))
def test_a_product_is_the_convolution(
    geometry: dict[str, tuple[int, int]], standard: bool, with_bias: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 4, (2, 7, 6, 5)).astype(np.uint8)
    codes = generator.integers(-127, 128, (4, 5, *geometry["kernel"])).astype(np.int8)
    scales = np.ldexp(np.float32(1), generator.integers(-9, -3, 4)).astype(np.float32)
    biases = generator.integers(-64, 64, 4).astype(np.float32) / 64 if with_bias else None
    found = run(counts, codes, scales, biases, geometry, standard)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(counts.transpose(0, 3, 1, 2).astype(np.float32)),
        torch.from_numpy(codes.astype(np.float32) * scales[:, None, None, None]),
        None if biases is None else torch.from_numpy(biases),
        stride=geometry["strides"],
        padding=geometry["pads"],
        dilation=geometry["dilations"],
    )
    np.testing.assert_array_equal(found.transpose(0, 3, 1, 2), expected.numpy())


def run(
    counts: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    biases: np.ndarray | None,
    geometry: dict[str, tuple[int, int]],
    standard: bool,
) -> np.ndarray:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(["n", 7, 6, 5]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 18, CONTRIB: 1}, name="g")
    initializers, tape = SharedInitializers(graph), LayerTape("layer")
    products = IntegerMatMul(initializers, standard=standard)
    pad = geometry["pads"]
    window = Window(
        size=(7, 6),
        channels=5,
        kernel=geometry["kernel"],
        strides=geometry["strides"],
        dilations=geometry["dilations"],
        pads=(*pad, *pad),
        groups=1,
    )
    rows = products.windows(tape, x, window, 0)
    stored = initializers.array(codes.transpose(2, 3, 1, 0).reshape(-1, 4), "codes")
    y = products.product(tape, rows, stored, scales, biases, 0, exact=True)
    graph.extend(tape.nodes)
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(y)
    if standard:
        assert all(node.domain == "" for node in graph)
    proto = ir.serde.serialize_model(ir.Model(graph, ir_version=8))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": counts})[0]
