"""End to end on the reference model: real weights, real images, few of them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from primesvt_deploy import BuildSettings, Classifier, SearchSettings, build, load, open_data
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.data import DataSet
from primesvt_deploy.edge.runtime.bundle import open_bundle
from primesvt_deploy.measure.accuracy import torch_hits
from primesvt_deploy.model.reference_models import model_names
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.build import BuildResult

pytestmark = pytest.mark.slow

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "models.json"


@pytest.fixture(scope="module")
def model() -> SViT:
    return load()


@pytest.fixture(scope="module")
def data(model: SViT) -> DataSet:
    whole = open_data(model)
    return DataSet(
        name=whole.name,
        digest=whole.digest,
        train=whole.train,
        search=whole.search,
        held_out=whole.held_out.shuffled(0).first(400),
    )


@pytest.fixture(scope="module")
def built(model: SViT, data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    search = SearchSettings(rates=(0.6,), search_images=120, robustness_images=50, max_drop=3.0)
    settings = BuildSettings(saving=20.0, search=search, verify_images=256)
    with pytest.MonkeyPatch.context() as patch:
        # Fewer than users' builds are calibrated on, for the time it takes.
        patch.setattr("primesvt_deploy.pruning.recovery.recovery.CALIBRATION_IMAGES", 32)
        patch.setattr("primesvt_deploy.pruning.recovery.recovery.NORM_IMAGES", 32)
        return build(model, tmp_path_factory.mktemp("ref") / "bundle", settings, data=data)


@pytest.mark.parametrize("name", model_names())
def test_accuracy_is_that_of_the_model_card(name: str, built: BuildResult, data: DataSet) -> None:
    model = load(name)
    card = json.loads(MEASURED.read_text())["models"][name]
    assert card["digest"] == model.digest, "run python benchmarks/models.py"
    expected = card["timesteps"][str(model.timesteps)]["held_out"]["top1_percent"] / 100.0
    if name == built.manifest["model"]["name"]:  # the build has classified these very images
        found = built.manifest["accuracy"]["dense"]["top1_percent"] / 100.0
    else:
        found = float(torch_hits(model, data.held_out).mean())
    # 400 images of the 5000: three standard errors.
    assert abs(found - expected) <= 3.0 * (expected * (1.0 - expected) / 400.0) ** 0.5


def test_build_meets_budget_and_constraint(built: BuildResult) -> None:
    manifest = built.manifest
    assert built.met
    assert manifest["size"]["saved_percent"]["file"] >= 20.0
    assert manifest["accuracy"]["search"]["drop_points"] <= 3.0
    assert manifest["accuracy"]["shipped"]["top1_percent"] >= 65.0
    open_bundle(built.path)


def test_the_file_is_little_more_than_its_parameters(built: BuildResult) -> None:
    shipped = built.manifest["size"]["shipped"]
    assert shipped["file_bytes"] <= 1.03 * 4 * shipped["shipped_parameters"]


def test_the_artifact_is_verified_on_real_images(built: BuildResult) -> None:
    check = built.manifest["verification"]
    assert check["n"] >= 256
    assert check["passed"]
    assert check["max_abs_logit_difference_without_flips"] <= 1e-4
    assert check["flipped_spikes"] <= 1e-3 * check["spikes_compared"]


def test_the_bundle_classifies_real_jpegs(
    built: BuildResult, data: DataSet, tmp_path: Path
) -> None:
    from PIL import Image

    correct = 0
    for i in range(40):
        path = tmp_path / f"{i}.png"
        Image.fromarray(data.held_out.pixels(i)).save(path)
        (prediction,) = Classifier(built.path, threads=1).classify([path])
        correct += prediction.label == built.manifest["model"]["labels"][data.held_out.labels[i]]
    assert correct >= 20


def test_the_pruned_model_is_smaller_where_the_plan_says(built: BuildResult, model: SViT) -> None:
    widths = json.loads((built.path / "plan.json").read_text())["widths"]
    again = load(built.path)
    for i in range(2):
        layer = again.module.get_parameter(f"blocks.{i}.mlp.fc1.conv.weight")
        assert layer.shape[0] == widths[f"blocks.{i}.mlp"]
    dense = sum(p.numel() for p in model.module.parameters())
    assert sum(p.numel() for p in again.module.parameters()) < 0.85 * dense


def test_exporting_takes_under_ten_seconds(model: SViT, tmp_path: Path) -> None:
    export_onnx(model, tmp_path / "warm.onnx")
    started = time.perf_counter()
    artifact = export_onnx(model, tmp_path / "model.onnx")
    assert time.perf_counter() - started < 10.0
    assert np.isclose(artifact.initializer_bytes, 4 * 1_440_826, rtol=1e-3)
