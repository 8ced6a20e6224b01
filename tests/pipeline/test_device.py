"""Whole jobs with every network on a second device: results are the same, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from other_device import OTHER, other_device
from small_models import SHALLOW, make_model

from primesvt_deploy import BuildSettings, SearchSettings, analyze, build, frontier, prune
from primesvt_deploy.data import DataSet
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.context import SearchContext
from primesvt_deploy.settings import ComputeSettings, Precision

SEARCH = SearchSettings(max_drop=50.0, rates=(0.3, 0.6), robustness_images=50, search_images=60)
NO_GPU = ComputeSettings(device="cuda:7")


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Within, a search's device is the second one."""
    with other_device():
        monkeypatch.setattr(SearchContext, "device", OTHER)
        yield monkeypatch


def artifacts(manifest: dict[str, Any]) -> dict[str, str]:
    """Digests of the files that hold what was decided and computed."""
    names = ("model.onnx", "plan.json", "weights.safetensors", "quantized.safetensors")
    return {name: manifest["files"][name]["sha256"] for name in names}


@pytest.mark.slow
def test_a_build_there_writes_the_same_artifact(
    data: DataSet, tmp_path: Path, there: pytest.MonkeyPatch
) -> None:
    model = make_model(SHALLOW)
    search = replace(SEARCH, policy="greedy")  # it ranks channels on the device, too
    settings = BuildSettings(saving=20.0, search=search, verify_images=24, precision=Precision.INT4)
    found = build(model, tmp_path / "there", settings, data=data).manifest
    there.undo()
    expected = build(model, tmp_path / "here", settings, data=data).manifest
    assert found["compute"]["device"] == str(OTHER)
    assert expected["compute"]["device"] == "cpu"
    assert artifacts(found) == artifacts(expected)
    assert found["accuracy"]["search"] == expected["accuracy"]["search"]
    assert found["verification"] == expected["verification"]


@pytest.mark.slow
def test_a_frontier_and_an_analysis_there_are_the_same(
    data: DataSet, tmp_path: Path, there: pytest.MonkeyPatch
) -> None:
    model = make_model(SHALLOW)

    def found(name: str) -> tuple[Any, Any]:
        points = frontier(
            model, tmp_path / name, SEARCH, data=data, savings=(20.0,), timesteps=(1,)
        )
        measured = analyze(model, SEARCH, data=data)
        (point,) = points["points"]
        kept = ("channels", "held_out", "drop", "search")
        reported = [
            {key: row[key] for key in ("T", "held_out", "drop")} for row in point["timesteps"]
        ]
        return (
            [reported, *(point[key] for key in kept)],
            [measured.firing, measured.energy, [curve.to_dict() for curve in measured.curves]],
        )

    on_device = found("there")
    there.undo()
    assert found("here") == on_device


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused_before_any_work(
    model: SViT, data: DataSet, tmp_path: Path
) -> None:
    settings = BuildSettings(saving=20.0, search=SEARCH, compute=NO_GPU)
    for job in (
        lambda: build(model, tmp_path / "b", settings, data=data),
        lambda: prune(model, settings, data=data),
        lambda: analyze(model, SEARCH, data=data, compute=NO_GPU),
        lambda: frontier(model, tmp_path / "f", SEARCH, data=data, compute=NO_GPU),
    ):
        with pytest.raises(SettingsError, match=r"^device is cuda:7: there is no CUDA device"):
            job()
    assert not (tmp_path / "b").exists() and not (tmp_path / "f").exists()
