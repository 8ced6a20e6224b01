"""The unrolled ONNX neuron gives the spikes of the torch neuron, on real ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primesvt_deploy.errors import ExportError
from primesvt_deploy.lowering.lif import (
    LIF_DOMAIN,
    LIF_OP,
    ChargeFireReset,
    integrate_and_fire,
)
from primesvt_deploy.lowering.unroll import Unroll


def graph_of(constants: ChargeFireReset) -> ir.Model:
    """One LIF node between input and output."""
    attributes = {k: v for k, v in vars(constants).items() if v is not None}
    for flag in ("static_input", "half_up"):
        attributes[flag] = int(attributes[flag])
    float32 = ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", type=float32, shape=ir.Shape(["n", 3]))
    node = ir.node(LIF_OP, [x], attributes=attributes, domain=LIF_DOMAIN, name="lif")
    node.outputs[0].name, node.outputs[0].type = "y", float32
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'layer.neuron', '_symbolic']"
    graph = ir.Graph([x], [node.outputs[0]], nodes=[node], opset_imports={"": 18, LIF_DOMAIN: 1})
    return ir.Model(graph, ir_version=8)


def run(model: ir.Model, x: np.ndarray, outputs: list[str] | None = None) -> list[np.ndarray]:
    proto = ir.serde.serialize_model(model)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(outputs, {"x": x})


CONSTANTS = st.builds(
    ChargeFireReset,
    timesteps=st.integers(1, 5),
    static_input=st.booleans(),
    decay=st.sampled_from([0.5, 0.75]),
    gain=st.sampled_from([1.0, 0.5]),
    offset=st.sampled_from([0.0, 0.125]),
    v_threshold=st.sampled_from([1.0, 0.5]),
    v_reset=st.sampled_from([0.0, None, 0.25]),
)


COUNTS = st.builds(
    ChargeFireReset,
    timesteps=st.integers(1, 4),
    static_input=st.booleans(),
    decay=st.sampled_from([0.25, 1.0]),
    gain=st.just(1.0),
    offset=st.just(0.0),
    v_threshold=st.sampled_from([1.0, 0.5]),
    v_reset=st.none(),
    levels=st.integers(2, 4),
    spike_value=st.sampled_from([1.0, 0.25]),
    half_up=st.booleans(),
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(constants=CONSTANTS | COUNTS, seed=st.integers(0, 99))
def test_spikes_are_those_of_the_torch_neuron(constants: ChargeFireReset, seed: int) -> None:
    rows = 2 if constants.static_input else 2 * constants.timesteps
    # Multiples of 1/16, exact in float32, of which many hit the threshold exactly.
    drawn = np.random.default_rng(seed).integers(-16, 33 * constants.levels, (rows, 3))
    x = (drawn / 16).astype(np.float32)
    model = graph_of(constants)
    Unroll()(model)
    expected = integrate_and_fire(torch.from_numpy(x), constants).numpy()
    np.testing.assert_array_equal(run(model, x)[0], expected)


def test_a_current_exactly_at_threshold_fires() -> None:
    constants = ChargeFireReset(
        timesteps=2, static_input=False, decay=0.5, gain=1.0, offset=0.0, v_threshold=0.3,
        v_reset=0.0,
    )  # fmt: skip
    model = graph_of(constants)
    Unroll()(model)
    at, below = np.float32(0.3), np.nextafter(np.float32(0.3), np.float32(0))
    x = np.asarray([[at, below, 0], [0, below, at]], dtype=np.float32)
    np.testing.assert_array_equal(run(model, x)[0], [[1, 0, 0], [0, 1, 1]])


def test_no_where_in_a_neuron_that_resets_to_zero() -> None:
    constants = ChargeFireReset(
        timesteps=4, static_input=False, decay=0.5, gain=1.0, offset=0.0, v_threshold=1.0,
        v_reset=0.0,
    )  # fmt: skip
    model = graph_of(constants)
    Unroll()(model)
    operators = [node.op_type for node in model.graph]
    assert "Where" not in operators
    assert "LIF" not in operators
    # Step 0 charges from rest and the last step resets nothing.
    assert operators.count("Add") == 3
    assert operators.count("ThresholdedRelu") == 3


def test_layers_keep_their_names_and_constants() -> None:
    constants = ChargeFireReset(
        timesteps=3, static_input=True, decay=0.5, gain=1.0, offset=0.0, v_threshold=1.0,
        v_reset=0.0,
    )  # fmt: skip
    model = graph_of(constants)
    (layer,) = Unroll()(model).layers
    assert layer.name == "layer"
    assert layer.constants == constants
    assert layer.spikes == ("layer.spikes.t0", "layer.spikes.t1", "layer.spikes.t2")
    produced = {value.name for node in model.graph for value in node.outputs}
    assert set(layer.spikes) <= produced


def test_constants_that_nearly_agree_are_told_apart() -> None:
    """Learnt time constants of two layers may differ in the seventh digit."""
    constants = ChargeFireReset(
        timesteps=2, static_input=False, decay=0.25000002, gain=1.0, offset=0.25,
        v_threshold=1.0, v_reset=0.0,
    )  # fmt: skip
    model = graph_of(constants)
    Unroll()(model)
    x = np.asarray([[0.5, 0.0, 1.0], [0.5, 1.0, 0.0]], dtype=np.float32)
    expected = integrate_and_fire(torch.from_numpy(x), constants).numpy()
    np.testing.assert_array_equal(run(model, x)[0], expected)


def test_a_graph_without_neurons_is_refused() -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n"]))
    node = ir.node("Relu", [x])
    graph = ir.Graph([x], [node.outputs[0]], nodes=[node], opset_imports={"": 18})
    with pytest.raises(ExportError, match="no spiking neuron"):
        Unroll()(ir.Model(graph, ir_version=8))
