"""What `build --dry-run` foretells, beside what the same build then takes, on a quiet machine.

python benchmarks/estimates.py [--threads N] [-- MORE OPTIONS OF BUILD]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import write

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
CASES = {
    "greedy": ("--budget-mb", "4.2", "--policy", "greedy"),
    "prioritized": ("--saving", "26.68"),
    "greedy, another model": (
        *("--model", "spikformer-2-192-cifar10", "--policy", "greedy"),
        *("--saving", "45", "--seed", "3"),
    ),
    "prioritized, another model": (
        *("--model", "spikformer-2-192-cifar10", "--saving", "40", "--seed", "3"),
        *("--max-drop", "5"),
    ),
}
"""Builds of the default model, on which constants of `pruning.policies.expected` were adjusted, and
of another one, on which they were not."""


def started(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """The command line of this tree, which says nothing while it works."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "primesvt_deploy.cli", "build", *arguments, "--quiet"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def foretold(options: Sequence[str]) -> dict[str, Any]:
    """The content of `build --dry-run --json`."""
    process = started([*options, "--dry-run", "--json"])
    content, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the dry run failed with {process.returncode}")
    found: dict[str, Any] = json.loads(content)
    return found


def happened(options: Sequence[str], place: Path) -> dict[str, Any]:
    """Seconds of each stage, candidates, images and peak memory of the build."""
    process = started([*options, "--output", str(place), "--force", "--json"])
    assert process.stdout is not None
    manifest = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the build failed with {os.waitstatus_to_exitcode(status)}")
    lines = (place / "ledger.jsonl").read_text().splitlines()
    candidates = [json.loads(line) for line in lines]
    # A candidate that was gone on with stands there again.
    latest = {(each["plan"], each["limit"]): each for each in candidates}.values()
    return {
        "stage_seconds": manifest["seconds"],
        "candidates": sum(each["step"] != "dense" for each in latest),
        "images": sum(each["n"] for each in latest),
        "peak_bytes": 1024 * usage.ru_maxrss,
    }


def compared(expected: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Expected and actual seconds of each stage, in order, and of all together."""
    stages: dict[str, dict[str, float]] = {}
    for stage in expected["stages"]:
        row = stages.setdefault(stage["stage"], {"expected_s": 0.0, "actual_s": 0.0})
        row["expected_s"] += stage["seconds"]["likely"]
    for name, seconds in found["stage_seconds"].items():
        place = next((each for each in stages if name.startswith(each)), name)
        row = stages.setdefault(place, {"expected_s": 0.0, "actual_s": 0.0})
        row["actual_s"] += seconds
    for row in stages.values():
        row.update({name: round(seconds, 1) for name, seconds in row.items()})
    return {
        "stages": stages,
        "seconds": {
            "expected": expected["seconds"],
            "actual": round(sum(found["stage_seconds"].values()), 1),
        },
        "candidates": {"expected": expected["candidates"], "actual": found["candidates"]},
        "images": {"expected": expected["images"], "actual": found["images"]},
        "peak_bytes": {
            "expected": expected["memory"]["peak_bytes"],
            "actual": found["peak_bytes"],
        },
        "measured_seconds": expected["measured_seconds"],
    }


def main() -> None:
    """Foretell and run each build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("more", nargs="*", help="further options of every build, behind --")
    given = parser.parse_args()
    more = ["--threads", str(given.threads), *given.more]
    builds = {}
    for name, options in CASES.items():
        with tempfile.TemporaryDirectory() as directory:
            expected = foretold([*options, *more])
            found = happened([*options, *more], Path(directory) / "bundle")
        builds[name] = {
            "command": " ".join(["build", *options, *more]),
            **compared(expected, found),
        }
        seconds = builds[name]["seconds"]
        print(name, seconds["expected"]["likely"], "s expected,", seconds["actual"], "s taken")
    write("estimates", {"builds": builds})


if __name__ == "__main__":
    main()
