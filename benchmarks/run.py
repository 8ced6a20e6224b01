"""Rewrite everything under `benchmarks/results/`, on a machine that does nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "models.py",
    "saving.py",
    "latency.py",
    "bench_agreement.py",
    "robustness.py",
    "alternatives.py",
    "precision.py",
    "exactness.py",
    "families.py",
    "memory_layout.py",
    "frontier.py",
    "frontier_models.py",
    "answers.py",
    "first_minutes.py",
    "estimates.py",
    "scaling.py",
    "sequential.py",
    "headline.py",
    "native.py",
    "anytime.py",
    "native_large.py",
    "native_arm.py",
    "native_density.py",
    "fuzz.py",
    "tables.py",
)


def main() -> None:
    """Run each benchmark in a process of its own."""
    for script in SCRIPTS:
        subprocess.run([sys.executable, str(Path(__file__).with_name(script))], check=True)


if __name__ == "__main__":
    main()
