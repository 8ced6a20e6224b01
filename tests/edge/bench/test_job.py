"""Whole benchmarks of a tiny model, and what goes wrong in them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hostile_json import mutations
from sealed_bundles import seal

from primesvt_deploy.edge.bench import job, process
from primesvt_deploy.edge.bench.configurations import configurations_of, labels_of, open_subject
from primesvt_deploy.edge.bench.job import main, run_bench
from primesvt_deploy.edge.bench.machine import usable_cores
from primesvt_deploy.edge.bench.power import measure_power
from primesvt_deploy.edge.bench.process import Worker
from primesvt_deploy.edge.bench.result_schema import SCHEMA, check_measured
from primesvt_deploy.edge.bench.results import read_results
from primesvt_deploy.edge.bench.settings import BenchSettings
from primesvt_deploy.edge.bench.statistics import summary
from primesvt_deploy.errors import BundleError, MeasurementError

QUICK = BenchSettings(
    batches=(1,), threads=(1,), seconds=0.1, rounds=5, warmup_seconds=0.2, power_seconds=0.2
)


def silent(_: str) -> None:
    """Nothing."""


@pytest.fixture
def two(tiny_files: Path) -> list[Path]:
    """The same model twice, in both formats."""
    return [tiny_files / "model.onnx", tiny_files / "model.ort"]


@pytest.mark.slow
def test_a_result_has_all_that_was_measured(two: list[Path], tmp_path: Path) -> None:
    told: list[str] = []
    found = run_bench(two, QUICK, tell=told.append)
    assert found["schema"] == SCHEMA
    assert [v["bundle"] for v in found["variants"]] == ["model.onnx", "model.ort"]
    for variant in found["variants"]:
        memory = variant["memory"]
        assert list(memory) == ["start", "imported", "session", "first run", "steady"]
        peaks = [memory[stage]["VmHWM"] for stage in memory]
        assert peaks == sorted(peaks) and peaks[0] > 0
        assert all(variant["seconds"][stage] > 0 for stage in ("import", "load", "first_run"))
        assert variant["latency_ms"] == summary(variant["rounds_ms"])
        assert len(variant["rounds_ms"]) == QUICK.rounds
        assert variant["initializer_bytes"] is None  # no manifest says it
        assert variant["arena"]["extended_bytes"] > 0
    (comparison,) = found["comparisons"]
    low, high = comparison["interval95"]
    assert low <= comparison["time_ratio"] <= high
    assert comparison["against"] == found["variants"][0]["name"]
    assert any("median" in line for line in told)
    (tmp_path / "r.json").write_text(json.dumps(found))
    assert read_results(tmp_path / "r.json") == found
    check_measured(found)


@pytest.mark.slow
def test_bytes_of_weights_are_those_of_the_manifest(two: list[Path]) -> None:
    seal(two[0].parent, size={"shipped": {"weight_bytes": 12345}})
    cores = usable_cores()
    found = run_bench([two[0].parent], replace(QUICK, threads=(cores + 1,)), tell=silent)
    assert found["variants"][0]["initializer_bytes"] == 12345
    (note,) = [note for note in found["notes"] if " threads: this machine has" in note]
    assert note.startswith(f"{cores + 1} threads: this machine has {cores} core")


def test_batches_and_threads_are_measured_each(two: list[Path]) -> None:
    subject = open_subject(two[0], "m")
    settings = BenchSettings(batches=(1, 4))
    found = [(v.threads, v.batch) for v in configurations_of([subject], settings, cores=2)]
    assert found == [(1, 1), (1, 4), (2, 1), (2, 4)]


PLAIN_LOOP = """
import statistics, sys, time
import numpy as np
from primesvt_deploy.edge.runtime.session import OnnxModel
session = OnnxModel(sys.argv[1], threads=1).session
feed = {session.get_inputs()[0].name: np.zeros((1, 3, 16, 16), np.float32)}
for line in sys.stdin:
    times = []
    for _ in range(int(line) + 1):
        begun = time.perf_counter()
        session.run(None, feed)
        times.append(1e3 * (time.perf_counter() - begun))
    print(statistics.median(times[1:]), flush=True)
"""


def test_a_worker_times_what_a_plain_loop_times(two: list[Path]) -> None:
    """In turns with a loop as onnxruntime_perf_test has it: runs of one feed, the median."""
    subject = open_subject(two[0], "m")
    (configuration,) = configurations_of([subject], QUICK, cores=1)
    ours, theirs = [], []
    with (
        Worker(configuration) as worker,
        subprocess.Popen(
            [sys.executable, "-c", PLAIN_LOOP, str(two[0])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        ) as loop,
    ):  # fmt: skip
        assert loop.stdin is not None and loop.stdout is not None
        # The quietest rounds of both, in as many as it takes: other tests run beside this one.
        while len(ours) < 15 or (len(ours) < 90 and not 0.85 < min(ours) / min(theirs) < 1.15):
            loop.stdin.write("60\n")
            theirs.append(float(loop.stdout.readline()))
            ours.append(np.median(worker.time(60)))
    assert 0.85 < min(ours) / min(theirs) < 1.15


@pytest.mark.slow
def test_a_file_of_one_batch_size_is_measured_at_that_alone(tiny_files: Path) -> None:
    model = onnx.load(tiny_files / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tiny_files / "one.onnx")
    found = run_bench([tiny_files / "one.onnx"], replace(QUICK, batches=(1, 4)), tell=silent)
    assert [v["batch"] for v in found["variants"]] == [1]
    assert "takes batches of 1 alone" in found["notes"][0]
    with pytest.raises(MeasurementError, match="takes batches of 1 alone"):
        run_bench([tiny_files / "one.onnx"], replace(QUICK, batches=(4,)), tell=silent)


def test_a_damaged_model_is_one_line(tiny_files: Path) -> None:
    (tiny_files / "model.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(MeasurementError, match=r"cannot load model\.onnx") as error:
        run_bench([tiny_files / "model.onnx"], QUICK, tell=silent)
    assert "\n" not in str(error.value)


def test_a_worker_that_is_killed_is_one_line(
    two: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (configuration,) = configurations_of([open_subject(two[0], "m")], QUICK, cores=1)
    with Worker(configuration) as worker:
        worker._process.kill()
        with pytest.raises(MeasurementError, match=r"ended by SIGKILL: is there enough memory\?"):
            worker.time(3)


@pytest.mark.parametrize(
    "said", ["loaded", "[]", "NaN", "{}", '{"seconds": null}', "\x1b[2J", "[" * 5000, "\udcff"]
)
def test_a_worker_that_prints_something_else_is_one_line(
    said: str, two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (configuration,) = configurations_of([open_subject(two[0], "m")], QUICK, cores=1)
    (tmp_path / "said").write_text(f"{said}\n", errors="surrogateescape")
    (tmp_path / "python").write_text(f"#!/bin/sh\nexec cat {tmp_path}/said\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(process.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MeasurementError, match=r"^m, .*: its process printed .* expected") as error:
        Worker(configuration)
    assert str(error.value).isprintable() and len(str(error.value)) < 500


def test_a_worker_that_ends_within_a_line_is_one_line(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (configuration,) = configurations_of([open_subject(two[0], "m")], QUICK, cores=1)
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "{"; kill -KILL $$\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(process.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MeasurementError, match="ended by SIGKILL"):
        Worker(configuration)


def test_no_worker_outlives_a_benchmark(two: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    original = process.subprocess.Popen

    def counted(*args: Any, **options: Any) -> Any:
        started.append(original(*args, **options))
        return started[-1]

    monkeypatch.setattr(process.subprocess, "Popen", counted)
    two[1].write_bytes(b"damaged")
    with pytest.raises(MeasurementError):
        run_bench(two, QUICK, tell=silent)
    workers = [child for child in started if process.worker.__name__ in child.args]
    assert len(workers) == 2
    assert all(child.poll() is not None for child in workers)


def test_nothing_there_and_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is nothing at"):
        run_bench([tmp_path / "none"], QUICK, tell=silent)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(BundleError, match="neither a bundle directory nor"):
        run_bench([tmp_path / "notes.txt"], QUICK, tell=silent)


def test_labels_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    paths = [tmp_path / "old" / "bundle", tmp_path / "new" / "bundle"]
    assert labels_of(paths) == ("old/bundle", "new/bundle")
    assert labels_of(paths[:1]) == ("bundle",)
    assert labels_of([tmp_path / "a\u00a0b\n\udcff"]) == ("a\u00a0b\\n\\udcff",)
    with pytest.raises(MeasurementError, match="named twice"):
        labels_of([paths[0], tmp_path / "new" / ".." / "old" / "bundle"])


def test_a_request_is_run_from_files(
    tiny_files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_files)  # where a device runs it: paths are relative
    request, result = Path("request.json"), Path("result.json")
    asked = {"bundles": ["model.onnx"], "settings": QUICK.to_dict()}
    request.write_text(json.dumps(asked))
    assert main([str(request), str(result)]) == 0
    assert read_results(result)["variants"][0]["file"] == "model.onnx"
    request.write_text(json.dumps({**asked, "bundles": ["none"]}))
    assert main([str(request), str(result)]) == 2
    assert capsys.readouterr().err.startswith("error: there is nothing at none")


def test_an_altered_request_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"bundles": ["none"], "settings": QUICK.to_dict()}
    for described, text in mutations(asked, seed=0, count=400):
        (tmp_path / "request.json").write_bytes(text)
        assert main([str(tmp_path / "request.json"), str(tmp_path / "result.json")]) == 2, described
        said = capsys.readouterr().err.removesuffix("\n")
        assert said.startswith("error: ") and len(said) < 1000, described
        assert said.isprintable(), (described, said[:300])


@pytest.mark.slow
def test_power_is_measured_where_the_board_tells_it(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "vcgencmd"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        "pmic_read_adc) echo ' VDD_CORE_A current(7)=2.00000000A'; "
        "echo ' VDD_CORE_V volt(15)=0.75000000V';;\n"
        "get_throttled) echo throttled=0x50000;;\n"
        "esac\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setattr(job, "measure_power", partial(measure_power, idle_seconds=0.3))
    found = run_bench(two[:1], QUICK, tell=silent)
    energy = found["variants"][0]["energy"]
    assert energy["running"]["mean_watts"] == pytest.approx(1.5)
    assert energy["millijoules_an_inference"] == pytest.approx(
        1500 * energy["seconds"] / energy["inferences"]
    )
    assert any("throttl" in note or "voltage" in note for note in found["notes"])
