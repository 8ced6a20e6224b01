from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.measure.memory import measure_memory
from primesvt_deploy.pipeline.report_content import memory
from primesvt_deploy.pipeline.report_content.memory import memory_stages
from primesvt_deploy.pipeline.staged import StagedArtifact
from primesvt_deploy.report.content import MemoryStage

pytestmark = pytest.mark.slow

PEAK = 4_000_000


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were measured, in truth; the native program alone is not compiled."""
    files: list[Path] = []

    def listed(path: Path, **options: int) -> object:
        files.append(path)
        return measure_memory(path, **options)

    monkeypatch.setattr(memory, "measure_memory", listed)
    monkeypatch.setattr(memory, "native_peak_bytes", lambda path: PEAK)
    return files


def staged(artifact: Artifact | None, whole: Artifact, **parts: object) -> StagedArtifact:
    given = {"native": None, "is_dense": False, **parts}
    return StagedArtifact(
        directory=whole.path.parent, artifact=artifact, whole=whole, ort_file=None, **given
    )  # type: ignore[arg-type]


def test_memory_grows_from_stage_to_stage(
    tiny_artifact: Artifact, tmp_path: Path, measured: list[Path]
) -> None:
    shipped = replace(tiny_artifact, path=tmp_path / "model.onnx")
    shutil.copy(tiny_artifact.path, shipped.path)
    found = memory_stages(tiny_artifact, staged(shipped, shipped), 1)
    assert measured == [tiny_artifact.path, shipped.path]
    assert [stage.stage for stage in found] == ["import", "load", "first run", "peak"]
    for name in ("dense", "shipped"):
        figures = [getattr(stage, name) for stage in found]
        assert 20_000_000 < figures[0] < figures[1] <= figures[2] <= figures[3]


def test_a_dense_model_that_ships_is_measured_once(
    tiny_artifact: Artifact, measured: list[Path]
) -> None:
    found = memory_stages(tiny_artifact, staged(tiny_artifact, tiny_artifact, is_dense=True), 1)
    assert measured == [tiny_artifact.path]
    assert all(stage.dense == stage.shipped for stage in found)


def test_the_native_runtime_alone_has_a_peak(tiny_artifact: Artifact) -> None:
    found = memory_stages(tiny_artifact, staged(None, tiny_artifact, native=tiny_artifact), 1)
    assert [stage.shipped for stage in found] == [None, None, None, PEAK]
    assert isinstance(found[-1], MemoryStage) and found[-1].dense is not None
