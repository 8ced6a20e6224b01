"""Precision times pruning: which variant is shipped, and what the budget counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from families.zoo import ZOO
from small_models import make_model

from primesvt_deploy import BuildSettings, SearchSettings, build, load
from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.cli import cli
from primesvt_deploy.data import DataSet
from primesvt_deploy.edge.runtime.bundle import open_bundle
from primesvt_deploy.edge.runtime.check import check_outputs
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.measure.intervals import PairedDrop
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.apply_plan import AppliedPlan
from primesvt_deploy.pipeline.budget import Measurement, SizeTarget
from primesvt_deploy.pipeline.prune import fitting
from primesvt_deploy.pipeline.variant import Variant, best
from primesvt_deploy.quantization.serialization import with_quantized_state
from primesvt_deploy.settings import BudgetOn, Precision
from primesvt_deploy.verification.bundle import verify_bundle

pytestmark = pytest.mark.slow

SEARCH = SearchSettings(search_images=60, robustness_images=50, rates=(0.3, 0.6), max_drop=60.0)


def variant(size: int, lost: int, *, budget: int = 100, file_bytes: int = 10) -> Variant:
    model = make_model()
    artifact = Artifact(
        path=Path("x"), bytes=file_bytes, initializer_bytes=0, layers=(), batch=None
    )
    return Variant(
        predicted=fitting(size), applied=AppliedPlan(model), finetuned=None, model=model,
        quantized=model, exported=artifact, native=None, file_bytes=file_bytes,
        measured=Measurement(size, size, PairedDrop(lost, 0, 100)), budget_bytes=budget,
        max_drop=3.0, dense=None,
        size=SizeTarget(
            budget_bytes=budget, dense_bytes=size, weights=ShippedSize(model, ()), groups=()
        ),
    )  # fmt: skip


def test_the_most_accurate_within_the_budget_is_best() -> None:
    accurate, small, huge = variant(90, 1), variant(10, 2), variant(200, 0)
    assert best([small, huge, accurate]) is accurate
    assert best([huge, small]) is small


def test_among_equals_the_smaller_file_is_best() -> None:
    large, small = variant(90, 1, file_bytes=50), variant(90, 1, file_bytes=40)
    assert best([large, small]) is small


def test_where_nothing_is_within_the_constraint_the_budget_comes_first() -> None:
    lossy, huge = variant(90, 9), variant(200, 0)
    assert best([huge, lossy]) is lossy
    assert not best([huge, lossy]).accuracy_met
    larger = variant(300, 0)
    assert best([larger, huge]) is huge


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4])
def test_a_bundle_of_integers_is_whole(
    precision: Precision, tiny: SViT, tiny_data: DataSet, tmp_path: Path
) -> None:
    settings = BuildSettings(
        saving=10.0, search=SEARCH, precision=precision, ort_format=True, verify_images=16
    )
    result = build(tiny, tmp_path / "bundle", settings, data=tiny_data)
    manifest = result.manifest
    assert manifest["precision"]["name"] == precision.value
    assert manifest["precision"]["integer_layers"] == 10
    assert list(manifest["precision"]["real_layers"]) == ["stem.0.conv", "head"]
    assert manifest["verification"]["passed"]
    assert manifest["verification"]["flips_behind_real"] == 0
    size = manifest["size"]
    assert size["shipped"]["weight_bytes"] < 0.6 * size["dense"]["weight_bytes"]
    session = json.loads((result.path / "session.json").read_text())
    assert "com.microsoft::MatMulIntegerToFloat" in session["requires"]
    assert session["profiles"]["low-memory"]["file"] == "model.ort"
    for profile in ("latency", "low-memory"):
        assert check_outputs(result.path, profile=profile).median_difference < 1e-5
    images = tiny_data.held_out.first(8).inputs(0, 8)
    fp32 = load(result.path).logits(torch.from_numpy(images))
    from safetensors.torch import load_file

    twin = with_quantized_state(load(result.path), load_file(result.path / "quantized.safetensors"))
    from primesvt_deploy.edge.runtime.session import OnnxModel

    found = torch.from_numpy(OnnxModel.of_bundle(open_bundle(result.path)).logits(images))
    torch.testing.assert_close(found, twin.logits(torch.from_numpy(images)), rtol=0, atol=1e-5)
    assert (found - fp32).abs().max() > 1e-4, "quantizing changed nothing"


def test_reverify_knows_the_twin(tiny: SViT, tiny_data: DataSet, tmp_path: Path) -> None:
    settings = BuildSettings(saving=10.0, search=SEARCH, precision=Precision.INT8, verify_images=8)
    bundle = build(tiny, tmp_path / "bundle", settings, data=tiny_data).path
    source = tmp_path / "data.npz"
    write_npz(tiny_data, source)
    assert verify_bundle(bundle, data=source, images=8).flips_behind_float_layers == 0


def write_npz(data: DataSet, path: Path) -> None:
    import numpy as np

    images = np.stack([data.held_out.pixels(i % len(data.held_out)) for i in range(120)])
    labels = np.arange(120) % 5
    np.savez(path, images=images, labels=labels)


def test_less_than_the_dense_integers_is_pruned(
    tiny: SViT, tiny_data: DataSet, tmp_path: Path
) -> None:
    free = SearchSettings(max_drop=None, rates=(0.3, 0.6))
    dense = build(
        tiny, tmp_path / "dense", BuildSettings(
            budget_mb=1.0, search=free, precision=Precision.INT8, budget_on=BudgetOn.PARAMS,
            verify_images=8,
        ), data=tiny_data,
    ).manifest  # fmt: skip
    weights = dense["size"]["shipped"]["weight_bytes"]
    assert dense["constraints"]["used_bytes"] == weights
    assert not dense["size"]["saved_percent"]["parameters"]
    settings = BuildSettings(
        budget_mb=0.8 * weights / 1e6, search=free, precision=Precision.INT8,
        budget_on=BudgetOn.PARAMS, verify_images=8,
    )  # fmt: skip
    pruned = build(tiny, tmp_path / "pruned", settings, data=tiny_data).manifest
    assert pruned["constraints"]["met"]
    assert pruned["size"]["shipped"]["weight_bytes"] <= 0.8 * weights
    assert pruned["size"]["saved_percent"]["parameters"] > 0


def test_auto_tries_every_precision(tiny: SViT, tiny_data: DataSet, tmp_path: Path) -> None:
    settings = BuildSettings(
        saving=10.0, search=SEARCH, precision=None, budget_on=BudgetOn.PARAMS, verify_images=8
    )
    manifest = build(tiny, tmp_path / "bundle", settings, data=tiny_data).manifest
    tried = manifest["precision"]["candidates"]
    assert [entry["precision"] for entry in tried] == ["fp32", "int8", "int4"]
    met = [entry for entry in tried if entry["met"]]
    chosen = next(e for e in tried if e["precision"] == manifest["precision"]["name"])
    assert chosen["drop"]["points"] == min(entry["drop"]["points"] for entry in met)
    assert manifest["precision"]["asked"] == "auto"


def test_a_budget_of_resident_memory(tiny: SViT, tiny_data: DataSet, tmp_path: Path) -> None:
    free = SearchSettings(max_drop=None, rates=(0.3,))
    settings = BuildSettings(
        budget_mb=500.0, search=free, budget_on=BudgetOn.RSS, verify_images=8, threads=1
    )
    manifest = build(tiny, tmp_path / "bundle", settings, data=tiny_data).manifest
    assert manifest["constraints"]["budget_on"] == "rss"
    assert 10e6 < manifest["constraints"]["used_bytes"] < 500e6
    with pytest.raises(SettingsError, match="before any model"):
        build(tiny, tmp_path / "none", replace(settings, budget_mb=5.0), data=tiny_data)


def test_a_model_of_real_residuals_says_which_layers_stay_float(tmp_path: Path) -> None:
    from primesvt_deploy import export

    family, config = ZOO["sdt-v2"]
    model = make_model(config, family=family)
    artifact = export(model, tmp_path / "model.onnx", precision="int8")
    assert artifact.integer_layers
    assert {"its input is real"} <= set(artifact.float_layers.values())


def test_an_unknown_precision_is_one_line() -> None:
    result = CliRunner().invoke(cli, ["build", "--precision", "int2", "--saving", "10"])
    assert result.exit_code == 2
    assert "found 'int2', expected one of" in result.output


@pytest.mark.parametrize("batch", [None, 4])
def test_an_own_modules_bundle_of_integers_loads_again(batch: int | None, tmp_path: Path) -> None:
    from own_nets import spikingjellys

    from primesvt_deploy import adopt, open_data

    model = adopt("own_nets:spikingjellys", timesteps=2, image_size=16)
    assert type(model.module) is type(adopt(spikingjellys(), timesteps=2, image_size=16).module)
    source = tmp_path / "data.npz"
    import numpy as np

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (160, 16, 16, 3), dtype=np.uint8)
    np.savez(source, images=images, labels=np.arange(160) % 5)
    settings = BuildSettings(
        saving=0.0, search=SearchSettings(max_drop=None), precision=Precision.INT8, batch=batch,
        verify_images=8,
    )  # fmt: skip
    bundle = build(model, tmp_path / "bundle", settings, data=open_data(model, source)).path
    outcome = verify_bundle(bundle, data=source, images=8, factory="own_nets:spikingjellys")
    assert outcome.n == 8


def test_a_precision_that_costs_too_much_by_itself_says_so(
    tiny: SViT, tiny_data: DataSet, tmp_path: Path
) -> None:
    """Random networks lose many points by quantizing; no search could help."""
    search = replace(SEARCH, max_drop=0.0)
    settings = BuildSettings(saving=60.0, search=search, precision=Precision.INT4, verify_images=8)
    manifest = build(tiny, tmp_path / "bundle", settings, data=tiny_data).manifest
    constraints = manifest["constraints"]
    assert not constraints["met"] and not constraints["accuracy_met"]
    assert "int4 alone, without pruning, loses" in constraints["stopped_by"]


def test_a_budget_is_met_by_what_was_measured(
    tiny: SViT, tiny_data: DataSet, tmp_path: Path
) -> None:
    """The prediction has a margin; a file of the very size asked for is within the budget."""
    free = SearchSettings(max_drop=None, rates=(0.3,))
    first = build(
        tiny, tmp_path / "first", BuildSettings(saving=15.0, search=free, verify_images=8),
        data=tiny_data,
    ).manifest  # fmt: skip
    size = first["size"]["shipped"]["file_bytes"]
    settings = BuildSettings(budget_mb=size / 1e6, search=free, verify_images=8)
    again = build(tiny, tmp_path / "again", settings, data=tiny_data)
    constraints = again.manifest["constraints"]
    plan = json.loads((again.path / "plan.json").read_text())
    assert constraints["met"]
    assert constraints["stopped_by"].startswith("the budget is met")
    assert plan["policy"]["met"]
