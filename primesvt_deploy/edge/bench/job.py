"""A complete benchmark on this machine: all configurations, notes, the result.

    python -m primesvt_deploy.edge.bench.job REQUEST.json RESULT.json

REQUEST.json is `{"bundles": [paths], "settings": {...}}`; progress goes to standard output.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.bench import machine
from primesvt_deploy.edge.bench.configurations import (
    Configuration,
    configurations_of,
    grouped,
    labels_of,
    open_subject,
)
from primesvt_deploy.edge.bench.errors import BundleError, DeployError, MeasurementError
from primesvt_deploy.edge.bench.inspection import inspect_session
from primesvt_deploy.edge.bench.machine_notes import noise_notes
from primesvt_deploy.edge.bench.native_program import measure_programs
from primesvt_deploy.edge.bench.power import measure_power
from primesvt_deploy.edge.bench.process import Worker
from primesvt_deploy.edge.bench.result_schema import SCHEMA
from primesvt_deploy.edge.bench.results import write_results
from primesvt_deploy.edge.bench.rounds import Warmup, in_turns, warm_up
from primesvt_deploy.edge.bench.samples import write_samples
from primesvt_deploy.edge.bench.settings import BenchSettings
from primesvt_deploy.edge.bench.statistics import histogram, paired_ratio, summary
from primesvt_deploy.edge.runtime.checked_json import fields, list_of, read_json, text
from primesvt_deploy.edge.runtime.files import reason_of
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.runtimes import NATIVE, ONNX
from primesvt_deploy.version import __version__

__all__ = ["cpu_seconds", "main", "run_bench"]

_REQUEST = fields(
    {
        "bundles": list_of(text(most=10_000, expected="a path"), least=1),
        "settings": fields({}),
    }
)


def run_bench(
    bundles: Sequence[Path], settings: BenchSettings, *, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Measure bundles on this machine.

    Args:
        bundles: their directories, or model files; the first is what the others are compared with.
        settings: what is measured.
        tell: receives a line for each step.

    Returns:
        The result, of schema `primesvt-bench/1`.

    Raises:
        BundleError: a bundle is damaged or has no such profile or runtime, or the native runtime
            cannot be compiled here.
        MeasurementError: a model cannot be loaded or run.
    """
    labels = settings.labels or labels_of(bundles)
    if len(labels) != len(bundles):
        raise MeasurementError(f"there are {len(labels)} labels for {len(bundles)} bundles")
    subjects = [open_subject(p, label) for p, label in zip(bundles, labels, strict=True)]
    facts = machine.fingerprint()
    configurations = configurations_of(subjects, settings, cores=facts["physical_cores"] or 1)
    notes, peaks = _prepare_native(configurations, settings, tell)
    notes += _thread_notes(configurations, facts["logical_cores"])
    before, begun, used = machine.state(), time.monotonic(), cpu_seconds()
    rows: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    unmeasured: list[str] = []
    with tempfile.TemporaryDirectory(prefix="primesvt-bench-") as directory:
        samples = {
            subject.path: write_samples(subject, Path(directory, f"{number}.npy"))
            for number, subject in enumerate(subjects)
        }
        for group in grouped(configurations):
            measured = _measure_group(group, settings, samples, tell, unmeasured)
            comparisons += _compared(measured)
            rows += measured
    if not rows:
        raise MeasurementError("; ".join(unmeasured))
    after = machine.state()
    notes += machine.state_notes(
        before, after, own_seconds=cpu_seconds() - used, seconds=time.monotonic() - begun
    )
    return {
        "schema": SCHEMA,
        "primesvt-deploy": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "state": {"before": before, "after": after},
        "notes": [*unmeasured, *notes, *noise_notes(rows)],
        "settings": settings.to_dict(),
        "bundles": [subject.to_dict() for subject in subjects],
        "variants": [_with_peak(row, peaks) for row in rows],
        "comparisons": comparisons,
    }


def _thread_notes(configurations: Sequence[Configuration], cores: int) -> list[str]:
    """A note on configurations with more threads than the machine has cores."""
    found = sorted({one.threads for one in configurations if one.threads > cores})
    if not found:
        return []
    return [
        f"{', '.join(map(str, found))} threads: this machine has {cores} core"
        f"{'s' if cores > 1 else ''} to use; more threads than that wait for one another"
    ]


def _prepare_native(
    configurations: Sequence[Configuration], settings: BenchSettings, tell: Callable[[str], None]
) -> tuple[list[str], dict[str, int]]:
    """Compile the native runtime before its workers load it, and measure its C program's memory.

    Returns:
        Notes, one line each; and the program's peak memory, bytes, by the configuration's name.

    Raises:
        BundleError: it cannot be compiled, or a model file is damaged.
    """
    natives = [one for one in configurations if one.runtime == NATIVE]
    if not natives:
        return [], {}
    tell("preparing the native runtime: it is compiled once")
    files = {one.file for one in natives}
    for path in files:
        NativeModel(path)
    notes = []
    if any(one.batch > 1 for one in natives):
        notes.append("the native runtime runs the samples of a batch one by one")
    if settings.operators:
        notes.append("operators are those of ONNX Runtime: the native runtime is not profiled")
    try:
        peaks = measure_programs(files)
    except BundleError as error:
        return [*notes, f"memory of the native C program: not measured: {error}"], {}
    return notes, {one.name: peaks[one.file] for one in natives}


def _measure_group(
    group: Sequence[Configuration],
    settings: BenchSettings,
    samples: Mapping[Path, Path | None],
    tell: Callable[[str], None],
    unmeasured: list[str],
) -> list[dict[str, Any]]:
    """Measure configurations in turns, each in its process; one row of the result each.

    Why a configuration cannot be measured is appended to `unmeasured`.

    Args:
        group: configurations of one batch size and thread count.
        settings: how they are measured.
        samples: files of samples to run, by the bundle's path; None: noise.
        tell: receives a line for each step.
        unmeasured: lines of what is left out.
    """
    with ExitStack() as stack:
        workers: list[Worker] = []
        warmups: list[Warmup] = []
        for configuration in group:
            worker = stack.enter_context(Worker(configuration, samples[configuration.subject.path]))
            if worker.loading["batch"] != configuration.batch:
                only = f"its file takes batches of {worker.loading['batch']} alone"
                unmeasured.append(f"not measured: {configuration.name}: {only}")
                tell(unmeasured[-1])
                continue
            workers.append(worker)
            warmups.append(warm_up(workers[-1].time, most_seconds=settings.warmup_seconds))
            stable = "stable" if warmups[-1].stable else "not stable"
            tell(f"{configuration.name}: {stable} after {warmups[-1].seconds:.1f} s of warming up")
        blocks = in_turns(workers, warmups, settings)
        rows = []
        for worker, warmup, rounds in zip(workers, warmups, blocks, strict=True):
            energy = _energy(worker, warmup, settings)
            rows.append(_row(worker, warmup, rounds, energy))
            found = rows[-1]["latency_ms"]
            tell(
                f"{worker.configuration.name}: median {found['median']:.2f} ms of {found['n']} runs"
            )
    for worker, row in zip(workers, rows, strict=True):
        inspected: dict[str, Any] = {"arena": None, "operators": None}
        if worker.configuration.runtime == ONNX:
            inspected = inspect_session(worker.configuration, operators=settings.operators)
        row |= {"arena": inspected["arena"], "operators": inspected["operators"]}
    return rows


def _row(
    worker: Worker, warmup: Warmup, rounds: list[list[float]], energy: dict[str, Any] | None
) -> dict[str, Any]:
    configuration, loading = worker.configuration, worker.loading
    ended = worker.quit()
    rounds = [[round(value, 4) for value in block] for block in rounds]
    latency = summary(rounds)
    return {
        "name": configuration.name,
        "bundle": configuration.subject.label,
        "runtime": configuration.runtime,
        "profile": None if configuration.profile is None else configuration.profile.name,
        "batch": loading["batch"],
        "threads": configuration.threads,
        "file": configuration.file.name,
        "file_bytes": configuration.file.stat().st_size,
        "initializer_bytes": configuration.subject.weight_bytes,
        "seconds": {stage: round(value, 4) for stage, value in loading["seconds"].items()},
        "memory": {**loading["memory"], "steady": ended["resident"]},
        "warmup": {
            "runs": warmup.runs,
            "seconds": round(warmup.seconds, 2),
            "stable": warmup.stable,
        },
        "latency_ms": latency,
        "samples_per_second": round(1e3 * loading["batch"] / latency["mean"], 3),
        "histogram": histogram(rounds),
        "rounds_ms": rounds,
        "energy": energy,
        "native": None
        if configuration.profile is not None
        else {"kernels": loading["kernels"], "arena_bytes": loading["arena_bytes"]},
    }


def _with_peak(row: dict[str, Any], peaks: Mapping[str, int]) -> dict[str, Any]:
    """A row; in one of the native runtime stands what its C program takes."""
    if row["native"] is None:
        return row
    return {**row, "native": {**row["native"], "program_peak_bytes": peaks.get(row["name"])}}


def _energy(worker: Worker, warmup: Warmup, settings: BenchSettings) -> dict[str, Any] | None:
    """Measured power of this configuration alone; None where the board does not report it."""
    if not settings.power_seconds:
        return None
    count = max(1, round(1e3 * settings.power_seconds / warmup.run_ms))
    batch = worker.loading["batch"]
    use = measure_power(lambda: (len(worker.time(count)) + 1) * batch)
    return None if use is None else use.to_dict()


def _compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare each row of a group with its first."""
    return [
        {
            "variant": row["name"],
            "against": rows[0]["name"],
            "rounds": len(row["rounds_ms"]),
            **paired_ratio(row["rounds_ms"], rows[0]["rounds_ms"]).to_dict(),
        }
        for row in rows[1:]
    ]


def cpu_seconds() -> float:
    """Processor time of this process and of its ended children, seconds."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, kinds))


def _read_request(path: str) -> tuple[list[Path], BenchSettings]:
    try:
        content = read_json(path)
        _REQUEST(content, "")
    except (OSError, ValueError) as error:
        raise MeasurementError(
            f"{path} is no request of a benchmark: {reason_of(error)}"
        ) from error
    paths = [Path(path) for path in content["bundles"]]
    return paths, BenchSettings.from_dict(content["settings"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a request; the exit code: 0, or 2 with one line."""
    request, result = sys.argv[1:] if arguments is None else arguments
    try:
        paths, settings = _read_request(request)
        found = run_bench(paths, settings, tell=lambda line: print(line, flush=True))
        write_results(found, result)
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
