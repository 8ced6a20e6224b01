"""Bundles are measured in each runtime that they are built for, in the same rounds."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge.bench.test_comparison import result, variant
from edge.bench.test_job import QUICK, silent
from native_bundles import pixels, pretended_bundle, small_bundle
from sealed_bundles import seal

from primesvt_deploy.edge.bench.comparison import compare_results
from primesvt_deploy.edge.bench.configurations import configurations_of, open_subject
from primesvt_deploy.edge.bench.job import run_bench
from primesvt_deploy.edge.bench.native_program import READY_PROGRAM
from primesvt_deploy.edge.bench.process import Worker
from primesvt_deploy.edge.bench.result_schema import check_measured
from primesvt_deploy.edge.bench.results import read_results, write_results
from primesvt_deploy.edge.bench.samples import write_samples
from primesvt_deploy.edge.bench.settings import BenchSettings
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.errors import BundleError, MeasurementError


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("both") / "bundle")


def names(path: Path, **settings: Any) -> list[str]:
    """Names of the configurations of a bundle or model file, without their ends."""
    chosen = BenchSettings(batches=(1,), threads=(1,), **settings)
    found = configurations_of([open_subject(path, "b")], chosen, cores=1)
    return [one.name.removesuffix(", batch 1, 1 thread") for one in found]


def test_each_runtime_of_a_bundle_is_measured(tmp_path: Path) -> None:
    bundle = pretended_bundle(tmp_path / "bundle")
    assert names(bundle) == ["b, latency", "b, native"]
    assert names(bundle, runtimes=("native",)) == ["b, native"]
    assert names(bundle, runtimes=("onnx",)) == ["b, latency"]
    assert names(bundle, profiles=("all",)) == ["b, latency", "b, low-memory", "b, native"]
    found = configurations_of([open_subject(bundle, "b")], BenchSettings(), cores=2)
    assert [(one.runtime, one.batch, one.threads) for one in found[:4]] == [
        ("onnx", 1, 1),
        ("native", 1, 1),
        ("onnx", 4, 1),
        ("native", 4, 1),
    ]
    assert [one.file.name for one in found[:2]] == ["model.onnx", "model.svit"]


def test_a_bundle_or_file_of_the_native_runtime_alone_can_be_measured(tmp_path: Path) -> None:
    bundle = pretended_bundle(tmp_path / "bundle", ("native",))
    assert names(bundle) == names(bundle, runtimes=("native",)) == ["b, native"]
    assert names(bundle / "model.svit") == ["b, native"]


@pytest.mark.parametrize(
    ("there", "settings", "said"),
    [
        (("native",), {"runtimes": ("onnx",)},
         "is built for the runtime native, expected onnx: pass another --runtime, or build the"),
        (("onnx",), {"runtimes": ("onnx", "native")}, "is built for the runtime onnx, exp"),
        (("newer",), {}, "is built for the runtime newer, expected onnx or native"),
        (("native",), {"profiles": ("latency",)},
         "found the session profile 'latency' and the native runtime alone, which has none: leave"),
        (("native",), {"profiles": ("all",), "runtimes": ("native",)}, "leave --profile out"),
    ],
)  # fmt: skip
def test_what_a_bundle_is_not_built_for_is_one_line(
    there: tuple[str, ...], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    known = tuple(name for name in there if name != "newer")
    bundle = pretended_bundle(tmp_path / "bundle", known)
    if known != there:
        seal(bundle, runtimes=list(there))
    with pytest.raises((BundleError, MeasurementError)) as caught:
        names(bundle, **settings)
    assert said in str(caught.value) and str(caught.value).isprintable()


def test_a_model_file_is_of_one_runtime(tmp_path: Path) -> None:
    (tmp_path / "model.svit").write_bytes(b"")
    with pytest.raises(
        BundleError, match="is built for the runtime native, expected onnx: pass an"
    ):
        names(tmp_path / "model.svit", runtimes=("onnx",))


def test_profiles_are_of_those_that_have_some(tmp_path: Path) -> None:
    """A native bundle beside an ONNX one is measured once, whatever the profiles."""
    paths = [
        pretended_bundle(tmp_path / "a", ("onnx",)),
        pretended_bundle(tmp_path / "b", ("native",)),
    ]
    subjects = [open_subject(path, path.name) for path in paths]
    settings = BenchSettings(batches=(1,), threads=(1,), profiles=("low-memory", "latency"))
    found = [
        one.name.partition(", batch")[0] for one in configurations_of(subjects, settings, cores=1)
    ]
    assert found == ["a, low-memory", "a, latency", "b, native"]


def test_samples_are_the_images_of_the_bundle(tmp_path: Path) -> None:
    bundle = pretended_bundle(tmp_path / "bundle")
    path = write_samples(open_subject(bundle, "b"), tmp_path / "samples.npy")
    assert path is not None
    steps = json.loads((bundle / "manifest.json").read_text())["model"]["preprocessing"]
    expected = Preprocessing.from_dict(steps).normalise(pixels(6))
    np.testing.assert_array_equal(np.load(path), expected)
    (tmp_path / "model.svit").touch()
    assert write_samples(open_subject(tmp_path / "model.svit", "m"), tmp_path / "no.npy") is None


def native(bundle: str, ms: float) -> dict[str, Any]:
    """A row of the native runtime in a result."""
    row = variant(bundle, ms)
    return {**row, "name": f"{bundle}, native, batch 1, 1 thread", "runtime": "native",
            "profile": None}  # fmt: skip


def test_results_from_before_there_was_another_runtime_are_compared(tmp_path: Path) -> None:
    """A row without a runtime is one of ONNX Runtime; rows of unlike runtimes are no pair."""
    new = {**variant("new", 12), "runtime": "onnx"}
    write_results(result(new, native("new", 3)), tmp_path / "new.json")
    write_results(result(variant("old", 10)), tmp_path / "old.json")
    one, other = (read_results(tmp_path / name) for name in ("new.json", "old.json"))
    (found,) = compare_results(one, other)
    assert found.one["runtime"] == "onnx"
    (found,) = compare_results(result(native("a", 3)), one)
    assert found.ratio.time == pytest.approx(1.0, rel=1e-3)
    with pytest.raises(MeasurementError, match="measure the same runtimes, profiles"):
        compare_results(result(native("a", 3)), other)


@pytest.mark.parametrize(
    "change", [{"runtime": "fast"}, {"runtime": ["onnx"]}, {"profile": "latency"}]
)
def test_damage_of_a_native_row_is_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    write_results(result({**native("a", 3), **change}), tmp_path / "r.json")
    with pytest.raises(MeasurementError, match=r"r\.json is damaged: variants\[0\]\.(run|prof)"):
        read_results(tmp_path / "r.json")


@pytest.mark.slow
def test_both_runtimes_take_turns_and_say_what_they_need(both: Path, tmp_path: Path) -> None:
    told: list[str] = []
    found = run_bench([both], replace(QUICK, batches=(1, 3)), tell=told.append)
    assert [(row["runtime"], row["profile"], row["batch"]) for row in found["variants"]] == [
        ("onnx", "latency", 1),
        ("native", None, 1),
        ("onnx", "latency", 3),
        ("native", None, 3),
    ]
    onnx, native_row = found["variants"][:2]
    assert len(native_row["rounds_ms"]) == len(onnx["rounds_ms"]) == QUICK.rounds
    peaks = [row["memory"]["steady"]["VmHWM"] for row in (onnx, native_row)]
    assert peaks[1] < peaks[0]  # no onnxruntime in its process
    assert native_row["file"] == "model.svit"
    assert native_row["file_bytes"] == (both / "model.svit").stat().st_size
    assert onnx["native"] is None and native_row["arena"] is None
    own = native_row["native"]
    assert own["kernels"] and 1000 < own["arena_bytes"] < 1e6
    assert 5e5 < own["program_peak_bytes"] < peaks[1] / 3
    assert [one["against"] for one in found["comparisons"]] == [
        "bundle, latency, batch 1, 1 thread",
        "bundle, latency, batch 3, 1 thread",
    ]
    notes = [note for note in found["notes"] if "one by one" in note]
    assert notes == ["the native runtime runs the samples of a batch one by one"]
    write_results(found, tmp_path / "r.json")
    assert read_results(tmp_path / "r.json") == found
    check_measured(found)


@pytest.mark.slow
def test_models_that_take_pixels_are_measured(tmp_path: Path) -> None:
    """By images of the bundle, and by noise where there are none."""
    bundle = small_bundle(tmp_path / "bundle", takes_pixels=True)
    paths = [bundle, bundle / "model.onnx", bundle / "model.svit"]
    found = run_bench(paths, QUICK, tell=silent)
    assert [row["runtime"] for row in found["variants"]] == ["onnx", "native", "onnx", "native"]


@pytest.mark.slow
def test_a_worker_runs_the_samples_in_turn(both: Path, tmp_path: Path) -> None:
    """One that ran noise would not be stopped by samples of another shape."""
    np.save(tmp_path / "small.npy", np.zeros((2, 3, 8, 8), np.float32))
    for one in configurations_of([open_subject(both, "b")], QUICK, cores=1):
        with pytest.raises(MeasurementError, match=r"b, (latency|native), batch 1, 1 thread: "):
            Worker(one, tmp_path / "small.npy")


@pytest.mark.slow
def test_without_the_c_program_the_rest_is_measured(
    both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(READY_PROGRAM, "/no/such/classify")
    found = run_bench([both / "model.svit"], replace(QUICK, operators=True), tell=silent)
    (row,) = found["variants"]
    assert row["native"]["program_peak_bytes"] is None and row["operators"] is None
    assert found["notes"][0].startswith("operators are those of ONNX Runtime")
    assert found["notes"][1].startswith(
        "memory of the native C program: not measured: /no/such/classify cannot be run (No such"
    )


@pytest.mark.slow
def test_a_damaged_file_and_no_compiler_are_one_line(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bytearray((both / "model.svit").read_bytes())
    whole[-300] ^= 1
    (tmp_path / "model.svit").write_bytes(whole)
    with pytest.raises(BundleError, match=r"was altered \(its SHA-256 differs\)"):
        run_bench([tmp_path / "model.svit"], QUICK, tell=silent)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(BundleError, match="found no C compiler, expected cc"):
        run_bench([both / "model.svit"], QUICK, tell=silent)
