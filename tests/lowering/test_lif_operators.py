"""Sign-flipped and decay-prescaled currents give the spikes of the plain ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primesvt_deploy.lowering.graph_builder import LayerTape, SharedInitializers
from primesvt_deploy.lowering.lif import ChargeFireReset, integrate_and_fire
from primesvt_deploy.lowering.lif_operators import (
    Currents,
    can_flip_sign,
    can_prescale_decay,
    fire,
)

NEURONS = st.builds(
    ChargeFireReset,
    timesteps=st.integers(1, 5),
    static_input=st.just(False),
    decay=st.sampled_from([0.5, 0.25, 0.75, 1.0]),
    gain=st.just(1.0),
    offset=st.just(0.0),
    v_threshold=st.sampled_from([1.0, 0.5, 0.3]),
    v_reset=st.sampled_from([0.0, None]),
    levels=st.just(1),
) | st.builds(
    ChargeFireReset,
    timesteps=st.integers(1, 4),
    static_input=st.just(False),
    decay=st.sampled_from([0.5, 0.25]),
    gain=st.just(1.0),
    offset=st.just(0.0),
    v_threshold=st.sampled_from([1.0, 0.5]),
    v_reset=st.none(),
    levels=st.integers(2, 6),
    half_up=st.booleans(),
)


def spikes(
    lif: ChargeFireReset, x: np.ndarray, *, sign_flipped: bool, decay_prescaled: bool
) -> np.ndarray:
    """Counts `[T*N, ...]` of currents given in that form."""
    inputs = [
        ir.Value(name=f"x{t}", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", 3]))
        for t in range(lif.timesteps)
    ]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": 18}, name="g")
    tape = LayerTape("layer")
    currents = Currents(inputs, sign_flipped=sign_flipped, decay_prescaled=decay_prescaled)
    fired = fire(tape, currents, lif, SharedInitializers(graph), dtype=ir.DataType.UINT8)
    graph.extend(tape.nodes)
    for value in fired:
        value.type = ir.TensorType(ir.DataType.UINT8)
        graph.outputs.append(value)
    operators = [node.op_type for node in graph]
    if sign_flipped:
        assert "Sub" not in operators
    if decay_prescaled:
        assert not [n for n in graph if n.op_type == "Mul" and ".decay." in str(n.name)]
    proto = ir.serde.serialize_model(ir.Model(graph, ir_version=8))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    steps = x.reshape(lif.timesteps, -1, 3) * (-1 if sign_flipped else 1)
    if decay_prescaled:
        steps = steps / lif.decay ** np.arange(lif.timesteps)[:, None, None]
    feed = {f"x{t}": step.astype(np.float32) for t, step in enumerate(steps)}
    return np.concatenate(session.run(None, feed))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(lif=NEURONS, flip=st.booleans(), prescale=st.booleans(), seed=st.integers(0, 99))
def test_spikes_do_not_depend_on_the_form(
    lif: ChargeFireReset, flip: bool, prescale: bool, seed: int
) -> None:
    drawn = np.random.default_rng(seed).integers(-16, 33 * lif.levels, (2 * lif.timesteps, 3))
    # Multiples of 1/16, exact in float32, of which many hit the threshold exactly.
    x = (drawn / 16).astype(np.float32)
    found = spikes(
        lif,
        x,
        sign_flipped=flip and can_flip_sign(lif),
        decay_prescaled=prescale and can_prescale_decay(lif),
    )
    expected = integrate_and_fire(torch.from_numpy(x), lif).numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("decay", "gain", "can"), [(0.5, 1.0, True), (0.25, 1.0, True),
    (0.75, 1.0, False), (1.0, 1.0, False), (0.5, 0.5, False)])  # fmt: skip
def test_only_decays_of_a_power_of_two_are_prescaled(decay: float, gain: float, can: bool) -> None:
    lif = ChargeFireReset(
        timesteps=2, static_input=False, decay=decay, gain=gain, offset=0.0, v_threshold=1.0,
        v_reset=0.0,
    )  # fmt: skip
    assert can_prescale_decay(lif) is can
