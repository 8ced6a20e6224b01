"""Bundles for the native runtime: what they carry, what is verified, what the budget counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families.zoo import model_of
from small_models import SHALLOW, make_model, primesvt, write_arrays

from primesvt_deploy import BuildSettings, SearchSettings, build
from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.edge.runtime.bundle import open_bundle
from primesvt_deploy.edge.runtime.check import check_outputs
from primesvt_deploy.edge.runtime.predict import Classifier
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import BundleError, SettingsError, VerificationError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import BudgetOn, Precision, Runtime
from primesvt_deploy.verification.bundle import verify_bundle, verify_bundle_stages
from primesvt_deploy.verification.native import verify_native

SEARCH = SearchSettings(search_images=60, robustness_images=50, rates=(0.3,), max_drop=None)


@pytest.fixture(scope="module")
def model() -> SViT:
    return make_model(SHALLOW)


@pytest.fixture(scope="module")
def source(model: SViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_arrays(tmp_path_factory.mktemp("data") / "data.npz", model)


@pytest.fixture(scope="module")
def data(model: SViT, source: Path) -> DataSet:
    return open_data(model, source)


def settings(runtime: Runtime, **changes: object) -> BuildSettings:
    given = {"saving": 10.0, "precision": Precision.INT8, "search": SEARCH, "verify_images": 8}
    return BuildSettings(**{**given, **changes}, runtime=runtime)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_bundle_of_both_runtimes(
    model: SViT, source: Path, data: DataSet, tmp_path: Path
) -> None:
    result = build(model, tmp_path / "b", settings(Runtime.BOTH), data=data)
    manifest = result.manifest
    assert manifest["runtimes"] == ["onnx", "native"]
    native = manifest["native"]
    assert native["verification"]["passed"]
    assert native["verification"]["flips_behind_real"] == 0
    assert manifest["files"]["model.svit"]["bytes"] == native["file_bytes"]
    assert {"model.onnx", "native/svit.c", "native/svit.h", "native/Makefile", "labels.txt"} <= set(
        manifest["files"]
    )
    sizes = [manifest["files"][name]["bytes"] for name in ("model.onnx", "model.svit")]
    assert manifest["constraints"]["used_bytes"] == max(sizes)
    latency = manifest["latency"]
    assert {"dense", "shipped", "native"} <= latency.keys()
    assert latency["native_threads"] == latency["threads"], "both use as many"
    low, high = latency["native_ratio_interval95"]
    assert low <= latency["native_ratio_median"] <= high
    for runtime in ("onnx", "native"):
        assert check_outputs(result.path, runtime=runtime).agreeing > 0
        outcome = verify_bundle(result.path, data=source, images=8, runtime=runtime)
        assert outcome.flips_behind_float_layers == 0
    logits = [
        np.asarray(
            [p.logits for p in Classifier(result.path, runtime=r).classify(_images(tmp_path))]
        )
        for r in ("onnx", "native")
    ]
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-4)


def _images(folder: Path) -> list[Path]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    return [folder / "image.png"]


@pytest.mark.slow
def test_a_bundle_that_stops_early(
    model: SViT, source: Path, data: DataSet, tmp_path: Path
) -> None:
    wanted = settings(Runtime.BOTH, precision=Precision.INT4, anytime=20.0, ort_format=True)
    result = build(model, tmp_path / "b", wanted, data=data)
    found = result.manifest["anytime"]
    *early, last = found["stages"]
    assert early and last["timesteps"] == model.timesteps
    assert found["search"]["drop_points"] <= 20.0
    assert [stage["passed"] for stage in found["verification"]["native"]] == [True] * len(early)
    held_out = found["held_out"]
    assert held_out["mean_timesteps"] < model.timesteps
    assert held_out["accuracy"] == result.manifest["accuracy"]["shipped"]
    assert result.manifest["native"]["file_bytes"] == (result.path / "model.svit").stat().st_size
    shown = primesvt("verify", "b", "--data", source, "--images", "8", cwd=tmp_path)
    for runtime in ("onnx", "native"):
        for stage in found["stages"]:
            line = f"{runtime}, T = {stage['timesteps']}, against the torch model: top-1 equal on"
            assert line in shown.stdout
    assert check_outputs(result.path, runtime="native").agreeing > 0
    _check_onnx(result.path, found, source)
    allowed = {stage["timesteps"] for stage in found["stages"]}
    took = set()
    for runtime, profile in (("native", None), ("onnx", "latency"), ("onnx", "low-memory")):
        classifier = Classifier(result.path, runtime=runtime, profile=profile)
        (prediction,) = classifier.classify(_images(tmp_path))
        took.add(prediction.to_dict()["timesteps"])
    assert len(took) == 1 and took <= allowed


@pytest.mark.slow
def test_an_onnx_file_that_stops_early(
    model: SViT, source: Path, data: DataSet, tmp_path: Path
) -> None:
    wanted = settings(Runtime.ONNX, anytime=20.0, batch=3, standard_ops=True)
    result = build(model, tmp_path / "b", wanted, data=data)
    manifest, found = result.manifest, result.manifest["anytime"]
    assert found["held_out"]["accuracy"] == manifest["accuracy"]["shipped"]
    assert manifest["constraints"]["used_bytes"] == manifest["files"]["model.onnx"]["bytes"]
    _check_onnx(result.path, found, source)
    (prediction,) = Classifier(result.path).classify(_images(tmp_path))
    assert prediction.timesteps in {stage["timesteps"] for stage in found["stages"]}


def _check_onnx(bundle: Path, anytime: dict[str, Any], source: Path) -> None:
    """The ONNX file stops early as its manifest says, and is verified stage by stage."""
    stages = OnnxModel.of_bundle(open_bundle(bundle)).stages
    assert [(s.timesteps, s.margin) for s in stages] == [
        (entry["timesteps"], entry["margin"]) for entry in anytime["stages"]
    ]
    passed = [stage["passed"] for stage in anytime["verification"]["onnx"]]
    assert passed and passed == [True] * (len(stages) - 1)
    outcomes = verify_bundle_stages(bundle, data=source, images=8, runtime="onnx")
    assert list(outcomes) == [stage.timesteps for stage in stages]
    assert all(outcome.flips_behind_float_layers == 0 for outcome in outcomes.values())
    assert check_outputs(bundle, runtime="onnx").agreeing > 0


@pytest.mark.slow
def test_a_native_bundle_needs_no_onnxruntime(model: SViT, data: DataSet, tmp_path: Path) -> None:
    result = build(
        model,
        tmp_path / "b",
        settings(Runtime.NATIVE, precision=Precision.INT4, mcu=True),
        data=data,
    )
    files = result.manifest["files"]
    assert "model.onnx" not in files and "session.json" not in files
    assert result.manifest["constraints"]["used_bytes"] == files["model.svit"]["bytes"]
    assert {"native/model.c", "native/model.h", "native/mcu/main.c", "native/mcu/mps.ld"} <= set(
        files
    )
    arena = result.manifest["native"]["arena_bytes"]
    assert (
        f"#define SVIT_MODEL_ARENA_BYTES {arena}\n" in (result.path / "native/model.h").read_text()
    )
    (image,) = _images(tmp_path)
    hidden = "import runpy, sys; sys.modules['onnxruntime'] = None; "
    program = f"{hidden}sys.path[0] = {str(result.path)!r}; "
    program += f"sys.argv = ['run.py', {str(image)!r}, '--json']; "
    program += f"runpy.run_path({str(result.path / 'run.py')!r}, run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert len(json.loads(ended.stdout)["logits"]) == len(model.labels)
    with pytest.raises(BundleError, match="expected onnx"):
        Classifier(result.path, runtime="onnx")


@pytest.mark.slow
def test_resident_memory_of_the_native_runtime_can_be_the_budget(
    model: SViT, data: DataSet, tmp_path: Path
) -> None:
    """Python with onnxruntime alone has ten times as much."""
    wanted = settings(Runtime.NATIVE, saving=None, budget_mb=8.0, budget_on=BudgetOn.RSS)
    result = build(model, tmp_path / "b", wanted, data=data)
    assert result.met
    assert 500_000 < result.manifest["constraints"]["used_bytes"] < 8_000_000


@pytest.mark.slow
def test_a_file_of_another_model_is_caught(model: SViT, data: DataSet, tmp_path: Path) -> None:
    quantized, other = quantize(model, 8), quantize(make_model(SHALLOW, seed=5), 8)
    export_native(other, tmp_path / "m.svit", precision=Precision.INT8)
    with pytest.raises(VerificationError, match="gives other logits"):
        verify_native(
            quantized, tmp_path / "m.svit", data.search.first(4), precision=Precision.INT8
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"anytime": 1.0, "runtime": Runtime.ONNX, "precision": Precision.FP32}, "integer weights"),
        ({"anytime": -1.0}, "anytime is -1.0 points: expected 0 to 100"),
        ({"anytime": 1.0, "ship_timesteps": 1}, "nothing can stop earlier"),
        ({"mcu": True, "runtime": Runtime.ONNX}, "pass --runtime native or both"),
        ({"precision": Precision.FP32}, "the native runtime adds integer weights"),
        ({"ort_format": True}, "--ort-format is about the ONNX file"),
        ({"standard_ops": True}, "--standard-ops is about the ONNX file"),
    ],
)
def test_what_the_native_runtime_does_not_go_with(changes: dict[str, object], said: str) -> None:
    runtime = changes.pop("runtime", Runtime.NATIVE)
    with pytest.raises(SettingsError, match=said):
        settings(runtime, **changes)  # type: ignore[arg-type]


def test_auto_tries_integers_alone() -> None:
    for wanted in (
        settings(Runtime.BOTH, precision=None),
        settings(Runtime.ONNX, precision=None, anytime=1.0),
    ):
        assert wanted.precisions == (Precision.INT8, Precision.INT4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("spikformer, frames", "of its frames: "),
        ("statten", "^1 timesteps are no multiple of the 2 in which this model attends"),
        ("sglformer", "runs for the 2 timesteps of its weights: "),
    ],
)
def test_a_model_whose_timesteps_are_its_own_is_told_so_before_data_are_read(
    name: str, said: str, tmp_path: Path
) -> None:
    def no_data(*_: object, **__: object) -> DataSet:
        raise AssertionError("data are read")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("primesvt_deploy.pipeline.build.open_data", no_data)
        with pytest.raises(SettingsError, match=f"{said}.*; leave --anytime out$"):
            build(model_of(name), tmp_path / "bundle", settings(Runtime.ONNX, anytime=1.0))
