"""Seconds that a newcomer waits, with this tree and with an earlier one, in turns.

    python benchmarks/first_minutes.py [--before REVISION] [--rounds 5]

Measured are: the first command that people type, `build --budget-mb 20` on the reference model,
which fits as it is (until it says so, and until the bundle is there); one's own JPEG classified
with that bundle; and mistakes, until their one line is shown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import write
from PIL import Image

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
BEFORE = "7598354"
"""The last commit before documentation, report and command line were made anew."""
FITS = ("Nothing has to be pruned", "already fits")
"""How the trees say that the model fits as it is."""
MISTAKES = {
    "data that are not there": "build --budget-mb 4 --data photos",
    "an output that is taken": "build --budget-mb 4 --output taken",
    "labels that are not there": "build --budget-mb 4 --labels names.txt",
    "a checkpoint that does not tell T, heads or image size": (
        "build --budget-mb 4 --checkpoint bare.pth"
    ),
    "a frontier that is none": "build --budget-mb 4 --frontier taken",
    "a result into a folder that is not there": "bench bundle --output results/here.json",
}


@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    Args:
        code: exit code.
        seconds: until its end.
        lines: each line of both outputs, and the seconds until it came.
    """

    code: int
    seconds: float
    lines: Sequence[tuple[float, str]]

    def until(self, *words: str) -> float | None:
        """Seconds until a line with one of the words; None: there was none."""
        return next((s for s, line in self.lines if any(word in line for word in words)), None)


def run(tree: Path, place: Path, arguments: str) -> Ended:
    """Run the command line of a tree in a directory."""
    command = [sys.executable, "-m", "primesvt_deploy.cli", *arguments.split()]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = [(round(time.monotonic() - begun, 3), line.rstrip()) for line in process.stdout]
    code = process.wait()
    return Ended(code, round(time.monotonic() - begun, 3), lines)


def prepare(place: Path) -> None:
    """Files that the commands name."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(ROOT / "models" / "spikformer-2-192-cifar10" / "weights.safetensors")
    torch.save(weights, place / "bare.pth")
    (place / "taken").mkdir()
    (place / "taken" / "notes.txt").write_text("mine\n")
    Image.effect_noise((640, 480), 60).convert("RGB").save(place / "photo.jpg")


def first_command(tree: Path, place: Path) -> dict[str, Any]:
    """The first build, and a photo classified with its bundle."""
    built = run(tree, place, "build --budget-mb 20 --output bundle --force")
    if built.code:
        raise SystemExit(f"the build failed: {built.lines[-1:]}")
    classified = run(tree, place, "run bundle photo.jpg")
    return {
        "says_that_it_fits_s": built.until(*FITS),
        "bundle_s": built.seconds,
        "photo_classified_s": classified.seconds,
    }


def mistakes(trees: Mapping[str, Path], places: Mapping[str, Path], rounds: int) -> dict[str, Any]:
    """Seconds of each mistake, by tree; rounds alternate between the trees."""
    found: dict[str, Any] = {}
    for name, arguments in MISTAKES.items():
        seconds: dict[str, list[float]] = {tree: [] for tree in trees}
        said: dict[str, list[str]] = {}
        for _ in range(rounds):
            for tree, path in trees.items():
                ended = run(path, places[tree], arguments)
                seconds[tree].append(ended.seconds)
                said[tree] = [line for _, line in ended.lines]
        found[name] = {
            "command": arguments,
            **{
                tree: {
                    "median_s": round(statistics.median(taken), 3),
                    "seconds": taken,
                    "lines": len(said[tree]),
                    "says": said[tree][0] if said[tree] else "",
                }
                for tree, taken in seconds.items()
            },
        }
    return found


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A revision's files, in a worktree for the time being."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "tree"
        git = ("git", "-C", str(ROOT), "worktree")
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def main() -> None:
    """Measure both trees and write `results/first_minutes.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default=BEFORE, help="git revision to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with checked_out(chosen.before) as earlier, tempfile.TemporaryDirectory() as scratch:
        trees = {"before": earlier, "after": ROOT}
        places = {tree: Path(scratch) / tree for tree in trees}
        first: dict[str, Any] = {}
        for tree, path in trees.items():
            places[tree].mkdir()
            prepare(places[tree])
            first[tree] = first_command(path, places[tree])
        found = mistakes(trees, places, chosen.rounds)
    write(
        "first_minutes",
        {"revision": chosen.before, "rounds": chosen.rounds, "first": first, "mistakes": found},
    )


if __name__ == "__main__":
    main()
