"""Memory of a fresh process."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from primesvt_deploy.artifact.ort_export import write_ort_file
from primesvt_deploy.edge.runtime.memory import FIGURES, STAGES
from primesvt_deploy.edge.runtime.profiles import SessionProfile
from primesvt_deploy.edge.runtime.versions import version_numbers
from primesvt_deploy.errors import BundleError, DeployError
from primesvt_deploy.measure import memory
from primesvt_deploy.measure.memory import MemoryUse, measure_memory

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="memory is measured on Linux"
)
MB = 1_000_000
WEIGHTS = 6 * 1024 * 1024 * 4


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 25 MB of weights and few activations."""
    generator = np.random.default_rng(0)
    nodes = [helper.make_node("Flatten", ["images"], ["x0"])]
    weights = []
    for i in range(6):
        matrix = generator.standard_normal((1024, 1024)).astype(np.float32) / 32
        weights.append(numpy_helper.from_array(matrix, f"w{i}"))
        last = "logits" if i == 5 else f"x{i + 1}"
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [last]))
    graph = helper.make_graph(
        nodes,
        "heavy",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1024])],
        weights,
    )
    path = tmp_path_factory.mktemp("heavy") / "heavy.onnx"
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.fixture
def light(tmp_path: Path) -> Path:
    """A model that keeps several tensors as large as its input and computes little."""
    opsets, sizes = [helper.make_opsetid("", 18)], ["batch", 1, 32, 32]
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["images"], ["x"]),
            helper.make_node("Abs", ["x"], ["positive"]),
            helper.make_node("Mul", ["positive", "x"], ["logits"]),
        ],
        "light",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1024])],
    )
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "light.onnx")
    return tmp_path / "light.onnx"


@pytest.mark.slow
def test_figures_are_plausible(heavy: Path) -> None:
    # The parent's memory is not the child's: neither fork nor exec hands the peak on.
    ballast = np.ones(300 * MB, dtype=np.uint8)
    use = measure_memory(heavy, threads=1)
    assert ballast.any()
    assert tuple(use.stages) == STAGES
    for figures in use.stages.values():
        assert tuple(figures) == FIGURES
        assert 0 < figures["RssAnon"] < figures["VmRSS"] <= figures["VmHWM"]
    peaks = [figures["VmHWM"] for figures in use.stages.values()]
    assert peaks == sorted(peaks)
    assert peaks[0] < 30 * MB < use.imported < 150 * MB
    assert use.imported + WEIGHTS < use.peak < use.imported + 5 * WEIGHTS
    assert use.stages["session"]["RssAnon"] - use.stages["imported"]["RssAnon"] > 0.9 * WEIGHTS
    assert use.to_dict() == {
        "profile": "latency",
        "peak_bytes": use.peak,
        "imported_bytes": use.imported,
        "anonymous_bytes": use.anonymous,
        "stages": use.stages,
    }


@pytest.mark.skipif(
    version_numbers(ort.__version__) < (1, 26), reason="onnxruntime maps weights from 1.26 on"
)
def test_mapped_weights_stay_in_their_file(heavy: Path, tmp_path: Path) -> None:
    own = write_ort_file(heavy, tmp_path / "heavy.ort")
    mapped = measure_memory(own, profile="low-memory", threads=1)
    usual = measure_memory(heavy, profile="defaults", threads=1)
    assert mapped.profile == "low-memory" and usual.profile == "defaults"
    assert mapped.anonymous < usual.anonymous - 0.9 * WEIGHTS
    assert mapped.peak < usual.peak


def test_a_profile_of_ones_own_and_a_batch(light: Path) -> None:
    profile = SessionProfile(name="mine", enable_cpu_mem_arena=False)
    use = measure_memory(light, profile=profile, threads=1, batch=2048)
    assert use.profile == "mine"
    one = measure_memory(light, threads=1)
    assert use.peak > one.peak + 2048 * 1024 * 4


def test_it_works_from_any_directory(heavy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(heavy.parent)
    assert isinstance(measure_memory(heavy.name, threads=1), MemoryUse)


def test_a_model_that_does_not_load_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(BundleError) as caught:
        measure_memory(tmp_path / "bad.onnx")
    text = str(caught.value)
    assert text.startswith("measuring the memory of bad.onnx failed: onnxruntime ")
    assert "cannot load bad.onnx" in text and text.isprintable()
    with pytest.raises(BundleError, match="no session profile 'fast'"):
        measure_memory(tmp_path / "bad.onnx", profile="fast")


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        (f"kill -{int(signal.SIGKILL)} $$", "was ended by SIGKILL: is there enough memory"),
        ("echo 'Traceback' >&2; echo 'MemoryError' >&2; exit 1", "failed: MemoryError"),
        ("exit 3", "failed: ended with 3"),
    ],
)
def test_a_process_that_dies_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ending: str, said: str
) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\n{ending}\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(memory.sys, "executable", str(stand_in))
    with pytest.raises(BundleError, match=f"measuring the memory of m.onnx {said}"):
        measure_memory(tmp_path / "m.onnx")


def test_a_system_that_does_not_tell_is_said_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = "{" + ", ".join(f'"{stage}": {{"VmHWM": null}}' for stage in STAGES) + "}"
    ended = subprocess.CompletedProcess([], 0, stdout=stages, stderr="")
    monkeypatch.setattr(memory.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(DeployError, match="no /proc/self/status: measure memory on Linux"):
        measure_memory(os.devnull)
