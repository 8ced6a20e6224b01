"""Opening a model: profiles reach ONNX Runtime, and what it refuses is said in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from PIL import Image
from sealed_bundles import unchecked
from small_models import make_model, write_arrays

from primesvt_deploy import BuildSettings, Classifier, build, open_data
from primesvt_deploy.edge.runtime.check import check_outputs
from primesvt_deploy.edge.runtime.errors import BundleError
from primesvt_deploy.edge.runtime.main import main
from primesvt_deploy.edge.runtime.profiles import make_profile, session_json
from primesvt_deploy.edge.runtime.session import OnnxModel, check_version

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((12, 3, 16, 16)).astype(np.float32)


def of_one(
    path: Path,
    operator: str,
    domain: str = "",
    *,
    opset: int = 18,
    ir_version: int = 8,
    kind: int = TensorProto.FLOAT,
    inputs: int = 1,
) -> Path:
    """A model file of a single operator."""
    shape = ["batch", 3, 4, 4]
    graph = helper.make_graph(
        [helper.make_node(operator, ["images"] * inputs, ["logits"], domain=domain, name="n0")],
        "one",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info("logits", kind, None)],
    )
    opsets = [helper.make_opsetid("", opset)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=ir_version), path)
    return path


@pytest.fixture
def directory(tiny_files: Path) -> Path:
    """A model in both formats and its `session.json`."""
    content = session_json(requires={"opset": "1.14"}, low_memory_file="model.ort")
    (tiny_files / "session.json").write_text(json.dumps(content))
    return tiny_files


@pytest.mark.parametrize("name", ["latency", "low-memory", "defaults"])
@pytest.mark.parametrize("file", ["model.onnx", "model.ort"])
def test_every_profile_loads_either_format(directory: Path, name: str, file: str) -> None:
    expected = OnnxModel(directory / "model.onnx").logits(IMAGES)
    model = OnnxModel(directory / file, threads=1, profile=make_profile(name, file))
    assert model.sample_shape == (3, 16, 16)
    # A flipped spike may move single images.
    agreeing = np.abs(model.logits(IMAGES) - expected).max(axis=1) <= 1e-5
    assert agreeing.mean() >= 0.9


def test_a_profile_reaches_the_session(directory: Path) -> None:
    path = directory / "model.onnx"
    plain = OnnxModel(path, threads=2).session.get_session_options()
    assert not plain.enable_mem_pattern
    assert plain.enable_mem_reuse and plain.enable_cpu_mem_arena
    assert plain.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert plain.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert plain.intra_op_num_threads == 2
    profile = make_profile("low-memory")
    low = OnnxModel(path, profile=profile).session.get_session_options()
    assert low.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    assert low.get_session_config_entry("session.disable_prepacking") == "1"
    usual = OnnxModel(path, profile=make_profile("defaults")).session.get_session_options()
    assert usual.enable_mem_pattern


def test_a_bundle_names_the_profiles_file(directory: Path) -> None:
    assert OnnxModel.of_bundle(unchecked(directory)).session._model_path.endswith("model.onnx")
    low = OnnxModel.of_bundle(unchecked(directory), threads=1, profile="low-memory")
    assert low.session._model_path.endswith("model.ort")
    (directory / "model.ort").unlink()
    with pytest.raises(BundleError, match=r"has no model\.ort: copy or build the bundle again"):
        OnnxModel.of_bundle(unchecked(directory), profile="low-memory")


def test_event_frames_have_time_in_their_shape(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node(
                "ReduceMean", ["frames"], ["logits"], keepdims=0, noop_with_empty_axes=1
            )
        ],
        "frames",
        [helper.make_tensor_value_info("frames", TensorProto.FLOAT, [4, "batch", 2, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    model = OnnxModel(tmp_path / "m.onnx")
    assert model.sample_shape == (4, 2, 8, 8)
    assert model.fixed_batch is None


@pytest.mark.parametrize(
    ("version", "needed", "enough"),
    [
        ("1.16.3", "1.20", False),
        ("1.20.0", "1.20", True),
        ("1.20", "1.20.0", True),
        ("1.19.2", "1.20", False),
        ("1.20.1", "1.20.2", False),
        ("1.100.0", "1.20", True),
        ("2.0.0", "1.20", True),
        ("1.21.0.dev20250101", "1.20", True),
        ("1.20.0rc1", "1.20", True),
    ],
)
def test_versions_are_compared_as_numbers(
    monkeypatch: pytest.MonkeyPatch, version: str, needed: str, enough: bool
) -> None:
    monkeypatch.setattr(ort, "__version__", version)
    if enough:
        check_version({"opset": needed})
    else:
        with pytest.raises(BundleError, match="too old"):
            check_version({"opset": needed})


def test_too_old_an_onnxruntime_is_refused_by_name(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requires = {"com.microsoft::MatMulIntegerToFloat": "1.20", "opset": "1.14"}
    (directory / "session.json").write_text(json.dumps(session_json(requires=requires)))
    monkeypatch.setattr(ort, "__version__", "1.16.3")
    with pytest.raises(BundleError) as caught:
        OnnxModel.of_bundle(unchecked(directory))
    assert str(caught.value) == (
        "onnxruntime 1.16.3 is too old for com.microsoft::MatMulIntegerToFloat (needs 1.20 or "
        "newer): pip install -U onnxruntime"
    )
    monkeypatch.undo()
    OnnxModel.of_bundle(unchecked(directory))


@pytest.mark.parametrize(
    ("model", "unknown"),
    [
        ({"operator": "Newest", "domain": "com.microsoft"}, "the operator com.microsoft::Newest"),
        ({"operator": "Newest", "domain": "my.own"}, "the operator my.own::Newest"),
        ({"operator": "Gelu"}, "the operator Gelu of opset 18"),
        ({"operator": "Relu", "opset": 99}, "opset 99 of ai.onnx, only up to"),
        ({"operator": "Relu", "ir_version": 99}, "ONNX file format (IR) 99, only up to"),
        (
            {"operator": "Conv", "kind": TensorProto.DOUBLE, "inputs": 2},
            "the operator Conv (version 11) for the types it has",
        ),
    ],
    ids=str,
)
def test_what_onnxruntime_does_not_know_is_named(
    tmp_path: Path, model: dict[str, object], unknown: str
) -> None:
    path = of_one(tmp_path / "new.onnx", **model)  # type: ignore[arg-type]
    with pytest.raises(BundleError) as caught:
        OnnxModel(path)
    text = str(caught.value)
    assert text.startswith(f"onnxruntime {ort.__version__} does not know {unknown}")
    assert text.endswith("which new.onnx uses: pip install -U onnxruntime")
    assert text.isprintable()


@pytest.mark.parametrize("name", ["bad.onnx", "bad.ort"])
@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_a_damaged_file_is_one_line(directory: Path, name: str, kept: int) -> None:
    whole = (directory / name.replace("bad", "model")).read_bytes()
    (directory / name).write_bytes(whole[:kept])
    for profile in ("latency", "low-memory"):
        with pytest.raises(BundleError, match=f"cannot load {name}") as caught:
            OnnxModel(directory / name, profile=make_profile(profile, name))
        assert str(caught.value).isprintable()


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    for name in ("none.onnx", "none.ort"):
        with pytest.raises(BundleError, match=f"there is no model file at .*{name}"):
            OnnxModel(tmp_path / name)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle")
    model = make_model()
    data = open_data(model, write_arrays(directory / "d.npz", model))
    settings = BuildSettings(budget_mb=20.0, verify_images=20)
    return build(model, directory / "bundle", settings, data=data).path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_bundle_runs_and_checks_under_each_profile(bundle: Path, photo: Path) -> None:
    logits = [
        next(Classifier(bundle, threads=1, profile=name).classify([photo])).logits
        for name in (None, "latency", "low-memory")
    ]
    assert logits[0] == logits[1]
    np.testing.assert_allclose(logits[2], logits[1], atol=0.5)
    for name in (None, "low-memory"):
        outcome = check_outputs(bundle, threads=1, profile=name)
        assert outcome.agreeing >= 0.95 * outcome.n


def test_run_py_takes_a_profile(
    bundle: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(bundle, [str(photo), "--profile", "low-memory", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["image"] == str(photo)
    assert main(bundle, [str(photo), "--profile", "fast"]) == 2
    assert capsys.readouterr().err == (
        "error: there is no session profile 'fast': pass latency or low-memory\n"
    )


@pytest.mark.parametrize("command", ["run", "verify"])
def test_the_command_line_takes_a_profile(bundle: Path, photo: Path, command: str) -> None:
    arguments = [str(photo)] if command == "run" else ["--quick"]
    call = [sys.executable, "-m", "primesvt_deploy.cli", command, str(bundle), *arguments]
    good, wrong = (
        subprocess.run([*call, "--profile", name], capture_output=True, text=True)
        for name in ("low-memory", "fast")
    )
    assert good.returncode == 0, good.stderr
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1 and "pass latency or low-memory" in wrong.stderr
