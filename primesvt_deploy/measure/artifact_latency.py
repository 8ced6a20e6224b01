"""Latency of model files as `bench` measures it: fresh processes, rounds, intervals."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.edge.bench import machine
from primesvt_deploy.edge.bench.configurations import Configuration, Subject
from primesvt_deploy.edge.bench.job import cpu_seconds
from primesvt_deploy.edge.bench.machine_notes import noise_notes
from primesvt_deploy.edge.bench.process import Worker
from primesvt_deploy.edge.bench.rounds import Warmup, in_turns, warm_up
from primesvt_deploy.edge.bench.settings import BenchSettings
from primesvt_deploy.edge.bench.statistics import Ratio, paired_ratio, summary
from primesvt_deploy.edge.runtime.profiles import LATENCY, make_profile
from primesvt_deploy.edge.runtime.runtimes import NATIVE, ONNX
from primesvt_deploy.measure.latency import Latency
from primesvt_deploy.progress import SILENT, Progress

__all__ = [
    "TIMING",
    "TimedFile",
    "Timings",
    "before_and_after",
    "physical_cores",
    "time_files",
]

TIMING = BenchSettings(seconds=2.0, rounds=20, warmup_seconds=2.0)
"""How long model files are timed, each."""


@dataclass(frozen=True, kw_only=True)
class TimedFile:
    """A model file to time.

    Args:
        path: an ONNX file, or one of the native engine (`.svit`).
        threads: that a run may use.
        samples: preprocessed samples `[n, C, H, W]` or `[n, T, C, H, W]` that runs go through in
            turn, so that a figure is not that of one image.
    """

    path: Path
    threads: int
    samples: npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Wall times of model files that took turns.

    Args:
        rounds: of each file, by name: times in ms, in the blocks they were measured in.
        threads: of each file, by name.
        notes: what disturbed the measurement or may have, one line each.
    """

    rounds: Mapping[str, list[list[float]]]
    threads: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def latency(self, name: str) -> Latency:
        """Times of one file."""
        return Latency(tuple(chain.from_iterable(self.rounds[name])))

    def ratio(self, one: str, other: str) -> Ratio:
        """Time of `one` over that of `other`, with its 95% interval, over rounds."""
        return paired_ratio(self.rounds[one], self.rounds[other])


def time_files(
    files: Mapping[str, TimedFile],
    *,
    batch: int = 1,
    settings: BenchSettings | None = None,
    progress: Progress = SILENT,
) -> Timings:
    """Time model files in alternating rounds, each in a process of its own.

    Args:
        files: the files, by name.
        batch: samples a run.
        settings: seconds, rounds and seconds of warming up; default: `TIMING`.
        progress: gets a stage `latency`, and a step for each file warmed up and each round.

    Raises:
        MeasurementError: a file cannot be loaded or run.
    """
    settings = settings or TIMING
    progress.stage("latency", len(files) + settings.rounds)
    # What ran before a measurement is the build itself: the load says nothing of others.
    before = {**machine.state(), "load": None}
    begun, used = time.monotonic(), cpu_seconds()
    with tempfile.TemporaryDirectory(prefix="primesvt-latency-") as directory, ExitStack() as stack:
        workers: list[Worker] = []
        warmups: list[Warmup] = []
        for number, (name, file) in enumerate(files.items()):
            samples = Path(directory, f"{number}.npy")
            np.save(samples, file.samples)
            workers.append(stack.enter_context(Worker(_configuration(name, file, batch), samples)))
            warmups.append(warm_up(workers[-1].time, most_seconds=settings.warmup_seconds))
            progress.step()
        blocks = in_turns(workers, warmups, settings, told=progress.step)
    notes = machine.state_notes(
        before,
        machine.state(),
        own_seconds=cpu_seconds() - used,
        seconds=time.monotonic() - begun,
    )
    rounds = dict(zip(files, blocks, strict=True))
    return Timings(
        rounds=rounds,
        threads={name: file.threads for name, file in files.items()},
        notes=(*notes, *noise_notes(_rows(rounds, warmups))),
    )


def before_and_after(timings: Timings) -> dict[str, Any]:
    """Latencies and their ratios, plain values for a manifest.

    Args:
        timings: of the `dense` and the `shipped` model, and of the `native` runtime where a bundle
            has both. Without `shipped` it is the dense model as it was: no ratio is claimed.
    """
    found = {name: timings.latency(name) for name in timings.rounds}
    entry = {
        "threads": timings.threads["dense"],
        "runs": min(len(latency.milliseconds) for latency in found.values()),
        **{name: latency.to_dict() for name, latency in found.items()},
        "notes": list(timings.notes),
    }
    if "shipped" not in found:
        return {**entry, "shipped": entry["dense"]}
    entry |= _speed(timings.ratio("shipped", "dense"), "")
    if "native" in found:
        entry["native_threads"] = timings.threads["native"]
        entry |= _speed(timings.ratio("native", "shipped"), "native_")
    return entry


def _speed(ratio: Ratio, prefix: str) -> dict[str, Any]:
    """How many times faster a model is, with its 95% interval, from the ratio of times."""
    low, high = round(1.0 / ratio.high, 3), round(1.0 / ratio.low, 3)
    return {
        f"{prefix}ratio_median": round(1.0 / ratio.time, 3),
        f"{prefix}ratio_interval95": [low, high],
        f"{prefix}difference_shown": not low <= 1.0 <= high,
    }


def physical_cores() -> int:
    """Cores that this process may use, those of hyper-threading counted once."""
    found: int | None = machine.fingerprint()["physical_cores"]
    return found or os.cpu_count() or 1


def _configuration(name: str, file: TimedFile, batch: int) -> Configuration:
    """A file as a worker of `bench` loads it."""
    runtime = NATIVE if file.path.suffix == ".svit" else ONNX
    return Configuration(
        subject=Subject(label=name, path=file.path, runtimes=(runtime,), bundle=None),
        profile=None if runtime == NATIVE else make_profile(LATENCY, file.path.name),
        batch=batch,
        threads=file.threads,
    )


def _rows(rounds: Mapping[str, list[list[float]]], warmups: list[Warmup]) -> list[dict[str, Any]]:
    """Rows of all files, with as much as `noise_notes` reads."""
    return [
        {
            "name": name,
            "rounds_ms": blocks,
            "latency_ms": summary(blocks),
            "warmup": {"stable": warmup.stable},
        }
        for (name, blocks), warmup in zip(rounds.items(), warmups, strict=True)
    ]
