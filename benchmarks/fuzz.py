"""Count what altered files and kills do: clean, wrong or a crash, by kind; see docs/security.md.

    python benchmarks/fuzz.py [--cases 5000] [--seed 0]

Exit code 1: something was not clean.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from common import write

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

from fuzz_inputs.outcomes import MOST_SECONDS, judge_many  # noqa: E402
from fuzz_inputs.targets import make_targets  # noqa: E402

_COSTLY = 20
"""Cases of a target that takes a process are so many times fewer."""


def main() -> int:
    """Count, and write the result; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=5000, help="of each kind of file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds = [*_altered_files(options.cases, options.seed), _killed_builds()]
    write(
        "fuzz",
        {
            "seed": options.seed,
            "most_seconds_a_case": MOST_SECONDS,
            "cases": sum(kind["cases"] for kind in kinds),
            "kinds": kinds,
        },
    )
    return 1 if any(kind["wrong"] or kind["crash"] for kind in kinds) else 0


def _altered_files(cases: int, seed: int) -> list[dict[str, Any]]:
    """Outcomes of each kind of file, altered at random."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for target in make_targets(Path(folder)):
            count = -(-cases // _COSTLY) if target.costly else cases
            begun = time.monotonic()
            found = judge_many(target, Random(seed), count)
            for case in found[:5]:
                print(f"{target.name}: {case.kind}: {case.said}", file=sys.stderr)
            wrong = sum(case.kind == "wrong" for case in found)
            rows.append(
                {
                    "kind": target.name,
                    "cases": count,
                    "clean": count - len(found),
                    "wrong": wrong,
                    "crash": len(found) - wrong,
                    "seconds": round(time.monotonic() - begun, 1),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def _killed_builds() -> dict[str, Any]:
    """Outcomes of a small build that is killed at each change of a file, and built again."""
    command = [sys.executable, str(ROOT / "tools" / "kill_everywhere.py")]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
