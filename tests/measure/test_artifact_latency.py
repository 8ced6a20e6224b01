from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from recorded_progress import Recorded

from primesvt_deploy.edge.bench.errors import MeasurementError
from primesvt_deploy.edge.bench.settings import BenchSettings
from primesvt_deploy.measure import artifact_latency
from primesvt_deploy.measure.artifact_latency import (
    TimedFile,
    Timings,
    before_and_after,
    time_files,
)

SAMPLES = np.zeros((3, 3, 16, 16), np.float32)
ROUNDS = {"slow": [[4.0, 4.2], [4.1, 3.9], [4.0, 4.0]], "fast": [[2.0], [2.1], [1.9]]}


@pytest.mark.slow
def test_files_take_turns_in_processes_of_their_own(tiny_files: Path) -> None:
    shutil.copy(tiny_files / "model.onnx", tiny_files / "same.onnx")
    files = {
        name: TimedFile(path=tiny_files / f"{file}.onnx", threads=1, samples=SAMPLES)
        for name, file in (("one", "model"), ("other", "same"))
    }
    recorded = Recorded()
    settings = BenchSettings(seconds=0.02, rounds=6, warmup_seconds=0.0)
    found = time_files(files, settings=settings, progress=recorded)
    assert {name: len(blocks) for name, blocks in found.rounds.items()} == {"one": 6, "other": 6}
    assert all(ms > 0.0 for blocks in found.rounds.values() for block in blocks for ms in block)
    assert recorded["latency"].total == 2 + 6 and recorded["latency"].is_done
    # A third of the time or three times as much would be shown even on a busy machine.
    assert 1 / 3 < found.ratio("one", "other").time < 3
    assert not any(note.startswith("load") for note in found.notes), "the build is the load"


def test_a_file_that_cannot_be_run_is_named(tiny_files: Path) -> None:
    file = TimedFile(path=tiny_files / "gone.onnx", threads=1, samples=SAMPLES)
    with pytest.raises(MeasurementError, match=r"^shipped, latency, batch 1, 1 thread: "):
        time_files({"shipped": file})


def test_a_ratio_rests_on_rounds_and_says_what_it_shows() -> None:
    timings = Timings(rounds=ROUNDS, threads={"slow": 1, "fast": 1})
    ratio = timings.ratio("fast", "slow")
    assert ratio.time == pytest.approx(0.5, abs=0.02) and ratio.shows_difference
    assert str(ratio).startswith("2.0") and "no difference" not in str(ratio)
    same = timings.ratio("slow", "slow")
    assert not same.shows_difference and "no difference shown" in str(same)
    assert timings.latency("slow").median == 4.0
    assert len(timings.latency("fast").milliseconds) == 3


def test_a_manifest_has_what_the_rounds_show() -> None:
    rounds = {"dense": ROUNDS["slow"], "shipped": ROUNDS["fast"], "native": ROUNDS["slow"]}
    threads = dict.fromkeys(rounds, 2)
    entry = before_and_after(Timings(rounds=rounds, threads=threads, notes=("busy",)))
    assert (entry["threads"], entry["native_threads"], entry["runs"]) == (2, 2, 3)
    assert entry["ratio_median"] == pytest.approx(2.0, abs=0.05) and entry["difference_shown"]
    low, high = entry["ratio_interval95"]
    assert 1.8 < low <= entry["ratio_median"] <= high < 2.2
    assert entry["native_ratio_median"] == pytest.approx(0.5, abs=0.02), "slower than ONNX Runtime"
    assert entry["notes"] == ["busy"]
    twice = Timings(rounds={"dense": rounds["dense"], "shipped": rounds["dense"]}, threads=threads)
    assert before_and_after(twice)["difference_shown"] is False


def test_of_one_model_no_ratio_is_claimed() -> None:
    entry = before_and_after(Timings(rounds={"dense": ROUNDS["slow"]}, threads={"dense": 1}))
    assert entry["shipped"] == entry["dense"]
    assert not [name for name in entry if "ratio" in name or "difference" in name]


def test_what_disturbs_the_machine_is_noted(
    tiny_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter((0, 5000))

    def busier() -> dict[str, object]:
        busy = next(states)
        ticks = {"busy": busy, "steal": 0, "total": busy, "per_second": 100}
        return {"cpu_ticks": ticks, "load": [9.0, 9.0, 9.0]}

    monkeypatch.setattr(artifact_latency.machine, "state", busier)
    file = TimedFile(path=tiny_files / "model.onnx", threads=1, samples=SAMPLES)
    notes = time_files({"dense": file}).notes
    assert [note for note in notes if note.startswith("machine busy: other programs took")]
    assert not [note for note in notes if note.startswith("load")]
