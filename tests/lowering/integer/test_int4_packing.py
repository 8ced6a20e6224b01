"""Weights of four bits come out of the file as the exact codes that went in."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primesvt_deploy.lowering.graph_builder import LayerTape, SharedInitializers
from primesvt_deploy.lowering.integer.int4_packing import GROUP, pack, stored_codes, unpack_function
from primesvt_deploy.lowering.lif import LIF_DOMAIN


def codes_of(rows: int, columns: int, seed: int) -> np.ndarray:
    """Random codes that fit: a multiplier for each group and column, times -7..7."""
    generator = np.random.default_rng(seed)
    groups = -(-rows // GROUP)
    multipliers = generator.integers(1, 19, (groups, 1, columns))
    small = generator.integers(-7, 8, (groups, GROUP, columns))
    return (multipliers * small).reshape(-1, columns)[:rows].astype(np.int8)


def unpacked(codes: np.ndarray) -> np.ndarray:
    """What a session makes of the stored form."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18, LIF_DOMAIN: 1}, name="g")
    tape = LayerTape("layer")
    value = stored_codes(tape, SharedInitializers(graph), codes, packed=True)
    graph.extend(tape.nodes)
    value.type, value.shape = ir.TensorType(ir.DataType.INT8), ir.Shape([None, None])
    graph.outputs.append(value)
    model = ir.Model(graph, ir_version=8)
    function = unpack_function(18)
    model.functions[function.identifier()] = function
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {})[0]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(rows=st.integers(1, 3 * GROUP + 1), columns=st.integers(1, 5), seed=st.integers(0, 9))
def test_codes_come_back(rows: int, columns: int, seed: int) -> None:
    codes = codes_of(rows, columns, seed)
    found = unpacked(codes)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, codes)


def test_they_take_half_a_byte_each() -> None:
    packed = pack(codes_of(4 * GROUP, 32, 0))
    assert packed is not None
    nibbles, multipliers = packed
    assert nibbles.nbytes == 4 * GROUP * 32 // 2
    assert multipliers.nbytes == 4 * 32


@pytest.mark.parametrize("codes", [[[8], [1]], [[127], [126]]])
def test_codes_beyond_four_bits_are_not_packed(codes: list[list[int]]) -> None:
    assert pack(np.asarray(codes, dtype=np.int8)) is None
