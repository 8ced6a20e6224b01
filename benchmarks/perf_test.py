"""Median latency of an ONNX file by onnxruntime_perf_test's method, ms.

    python benchmarks/perf_test.py model.onnx 1 --runs 300

The loop is that of its source (onnxruntime/test/perftest, performance_runner): a session, inputs
loaded before, one run to warm up, then the timed runs, each timed around the session's run, and the
median of all.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import onnxruntime as ort

from primesvt_deploy.edge.bench.worker import feed_of
from primesvt_deploy.edge.runtime.profiles import LATENCY, make_profile
from primesvt_deploy.edge.runtime.session import session_options


def main() -> None:
    """Read the arguments and print one number."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("threads", type=int)
    parser.add_argument("--runs", type=int, default=300)
    arguments = parser.parse_args()
    options = session_options(make_profile(LATENCY), arguments.threads)
    session = ort.InferenceSession(arguments.file, options, providers=["CPUExecutionProvider"])
    feed = {k: ort.OrtValue.ortvalue_from_numpy(v) for k, v in feed_of(session, 1).items()}
    session.run_with_ort_values(None, feed)
    times = []
    for _ in range(arguments.runs):
        begun = time.perf_counter()
        session.run_with_ort_values(None, feed)
        times.append(1e3 * (time.perf_counter() - begun))
    print(median(times))


if __name__ == "__main__":
    main()
