"""Memory that the session of one artifact allocates, and the time of each of its operators.

    python -m primesvt_deploy.edge.bench.inspection MODEL PROFILE_JSON THREADS BATCH RUNS

Runs in a process of its own, never a timed one: onnxruntime logs what its arena does, and with
RUNS above 0 it profiles, which takes time itself.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.bench.configurations import Configuration
from primesvt_deploy.edge.bench.errors import MeasurementError
from primesvt_deploy.edge.bench.process import module_environment
from primesvt_deploy.edge.bench.worker import feed_of
from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.edge.runtime.profiles import SessionProfile

__all__ = ["OPERATOR_RUNS", "arena_of_log", "inspect_session", "main", "operators_of_profile"]

OPERATOR_RUNS = 20
_INFO = 1
_EXTENDED = re.compile(r"bfc_arena\.cc:\d+ Extend\] Extended allocation by (\d+) bytes")
_RESERVED = re.compile(
    r"bfc_arena\.cc:\d+ Reserve\] Reserving memory in BFCArena for \S+ size: (\d+)"
)
_SLOWEST = 20


def inspect_session(configuration: Configuration, *, operators: bool) -> dict[str, Any]:
    """Measure allocations of the session and, if requested, times of operators.

    Args:
        configuration: model file of ONNX Runtime and options to load and run, in a fresh process.
        operators: whether to profile them.

    Returns:
        `arena` (`extended_bytes`: for tensors of a run; `reserved_bytes`: for weights as the
        session keeps them) or None where the log does not show it; `operators` (see
        `operators_of_profile`) or None.

    Raises:
        MeasurementError: the process did not end well.
    """
    assert configuration.profile is not None
    profile = json.dumps(configuration.profile.to_dict())
    command = [sys.executable, "-m", __name__, str(configuration.file.resolve()), profile]
    command += [str(configuration.threads), str(configuration.batch)]
    command += [str(OPERATOR_RUNS if operators else 0)]
    with tempfile.TemporaryDirectory() as directory:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=module_environment(),
            cwd=directory,
        )
        if ended.returncode:
            said = ended.stderr.strip().splitlines() or ["it said nothing"]
            raise MeasurementError(
                f"{configuration.name}: inspecting it ended with {ended.returncode}: "
                f"{on_one_line(said[-1])}"
            )
        found = json.loads(ended.stdout.splitlines()[-1])
        events = _events(Path(directory, found["profile"])) if operators else None
    return {
        "arena": arena_of_log(ended.stderr),
        "operators": None if events is None else operators_of_profile(events, OPERATOR_RUNS),
    }


def arena_of_log(log: str) -> dict[str, int] | None:
    """Bytes that onnxruntime's arena took, from its log; None where the log does not show it."""
    extended, reserved = (
        [int(size) for size in pattern.findall(log)] for pattern in (_EXTENDED, _RESERVED)
    )
    if not extended and not reserved:
        return None
    return {"extended_bytes": sum(extended), "reserved_bytes": sum(reserved)}


def operators_of_profile(events: Sequence[Mapping[str, Any]], runs: int) -> dict[str, Any]:
    """Summarise the times of operators in onnxruntime's profile.

    Args:
        events: events of `runs` runs and no others.
        runs: number of runs.

    Returns:
        `runs`; `by_type`: `operator`, `nodes`, `ms` a run and `share` of all nodes' time, the
        slowest first; `slowest`: the slowest nodes by name, `operator` and `ms` a run.
    """
    nodes: dict[tuple[str, str], float] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            key = (name.removesuffix("_kernel_time"), event["args"]["op_name"])
            nodes[key] = nodes.get(key, 0.0) + event["dur"] / 1e3 / runs
    types: dict[str, list[float]] = {}
    for (_, operator), milliseconds in nodes.items():
        types.setdefault(operator, []).append(milliseconds)
    total = sum(nodes.values()) or 1.0
    slowest = sorted(nodes.items(), key=lambda item: -item[1])[:_SLOWEST]
    return {
        "runs": runs,
        "by_type": [
            {
                "operator": operator,
                "nodes": len(times),
                "ms": round(sum(times), 5),
                "share": round(sum(times) / total, 5),
            }
            for operator, times in sorted(types.items(), key=lambda item: -sum(item[1]))
        ],
        "slowest": [
            {"node": node, "operator": operator, "ms": round(milliseconds, 5)}
            for (node, operator), milliseconds in slowest
        ],
    }


def _events(path: Path) -> list[dict[str, Any]]:
    """Events of a profile, without those of the first run."""
    events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    starts = sorted(e["ts"] for e in events if e.get("name") == "model_run")
    second = starts[1] if len(starts) > 1 else 0
    return [event for event in events if event.get("ts", 0) >= second]


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, run, and print the profile's name as JSON."""
    path, profile, threads, batch, runs = sys.argv[1:] if arguments is None else arguments
    import onnxruntime as ort

    from primesvt_deploy.edge.runtime.session import session_options

    ort.set_default_logger_severity(_INFO)
    options = session_options(SessionProfile.from_dict(json.loads(profile)), int(threads))
    profiled = int(runs) > 0
    options.enable_profiling = profiled
    options.profile_file_prefix = os.path.join(os.getcwd(), "profile")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = feed_of(session, int(batch))
    for _ in range(1 + int(runs)):
        session.run(None, feed)
    print(json.dumps({"profile": session.end_profiling() if profiled else None}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
