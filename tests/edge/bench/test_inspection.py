from __future__ import annotations

import onnx

from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.edge.bench.configurations import configurations_of, open_subject
from primesvt_deploy.edge.bench.inspection import (
    arena_of_log,
    inspect_session,
    operators_of_profile,
)
from primesvt_deploy.edge.bench.settings import BenchSettings

LOG = """\
2026 [I:onnxruntime:Default, bfc_arena.cc:281 Reserve] Reserving memory in BFCArena for Cpu size: 40
2026 [I:onnxruntime:Default, bfc_arena.cc:205 Extend] Extended allocation by 1048576 bytes.
2026 [I:onnxruntime:Default, bfc_arena.cc:208 Extend] Total allocated bytes: 1048616
2026 [I:onnxruntime:Default, bfc_arena.cc:205 Extend] Extended allocation by 2097152 bytes.
"""


def test_the_arena_is_read_from_the_log() -> None:
    assert arena_of_log(LOG) == {"extended_bytes": 3145728, "reserved_bytes": 40}
    assert arena_of_log("another onnxruntime, other words") is None


def test_operators_add_up() -> None:
    events = [
        {"cat": "Node", "name": "a_kernel_time", "dur": 3000, "args": {"op_name": "Conv"}},
        {"cat": "Node", "name": "a_kernel_time", "dur": 1000, "args": {"op_name": "Conv"}},
        {"cat": "Node", "name": "b_kernel_time", "dur": 2000, "args": {"op_name": "Conv"}},
        {"cat": "Node", "name": "c_kernel_time", "dur": 2000, "args": {"op_name": "Add"}},
        {"cat": "Node", "name": "c_fence_before", "dur": 9000, "args": {"op_name": "Add"}},
        {"cat": "Session", "name": "model_run", "dur": 9000, "ts": 0},
    ]
    found = operators_of_profile(events, 2)
    assert found["by_type"] == [
        {"operator": "Conv", "nodes": 2, "ms": 3.0, "share": 0.75},
        {"operator": "Add", "nodes": 1, "ms": 1.0, "share": 0.25},
    ]
    assert found["slowest"][0] == {"node": "a", "operator": "Conv", "ms": 2.0}


def test_a_real_session_tells_both(tiny_artifact: Artifact) -> None:
    subject = open_subject(tiny_artifact.path, "tiny")
    (configuration,) = configurations_of(
        [subject], BenchSettings(batches=(1,), threads=(1,)), cores=1
    )
    found = inspect_session(configuration, operators=True)
    assert found["arena"]["extended_bytes"] > 0
    types = {row["operator"] for row in found["operators"]["by_type"]}
    known = {node.op_type for node in onnx.load(tiny_artifact.path).graph.node}
    assert types & known
    assert sum(row["share"] for row in found["operators"]["by_type"]) > 0.99
