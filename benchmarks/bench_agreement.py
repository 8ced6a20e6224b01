"""Medians of `primesvt-deploy bench` against those of onnxruntime_perf_test's method.

    python benchmarks/bench_agreement.py          # with nothing else running

onnxruntime's wheels do not contain onnxruntime_perf_test, so its loop is in `perf_test.py`. Each
repetition runs both in fresh processes, in alternating order.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from common import MEASURED, write

from primesvt_deploy.edge.bench.job import run_bench
from primesvt_deploy.edge.bench.settings import BenchSettings

REPETITIONS, RUNS = 5, 300
SETTINGS = BenchSettings(batches=(1,), seconds=3.0, power_seconds=0.0)


def main() -> None:
    """Measure and write `results/bench_agreement.json`."""
    from primesvt_deploy import export, load

    model = load(MEASURED)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for precision in ("fp32", "int8"):
            file = Path(directory) / f"{precision}.onnx"
            export(model, file, precision=precision)
            for threads in (1, 2):
                rows.append({"artifact": precision, "threads": threads, **both(file, threads)})
                print(json.dumps(rows[-1]), flush=True)
    write("bench_agreement", {"model": model.name, "batch": 1, "runs": RUNS, "rows": rows})


def both(file: Path, threads: int) -> dict[str, Any]:
    """Medians of both methods, ms, and of their ratios, over the repetitions."""
    ours, theirs = [], []
    methods = [(ours, bench), (theirs, perf_test)]
    for repetition in range(REPETITIONS):
        for found, method in methods if repetition % 2 else reversed(methods):
            found.append(method(file, threads))
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return {
        "repetitions": REPETITIONS,
        "bench_ms": round(median(ours), 4),
        "perf_test_ms": round(median(theirs), 4),
        "ratio": round(median(ratios), 4),
        "ratio_least": round(ratios[0], 4),
        "ratio_most": round(ratios[-1], 4),
    }


def bench(file: Path, threads: int) -> float:
    """Median of `primesvt-deploy bench`, ms."""
    settings = replace(SETTINGS, threads=(threads,))
    found = run_bench([file], settings, tell=lambda line: None)
    return float(found["variants"][0]["latency_ms"]["median"])


def perf_test(file: Path, threads: int) -> float:
    """Median of onnxruntime_perf_test's method in a fresh process, ms."""
    script = str(Path(__file__).with_name("perf_test.py"))
    command = [sys.executable, script, str(file), str(threads), "--runs", str(RUNS)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
