"""Kill a real build at each of its changes to files, and see that the same call makes it whole.

    python tools/kill_everywhere.py [--sample N] [--json FILE]

A tiny model is built, once with nothing at the output and once over an older bundle, in forked
children that die before their 1st, 2nd, ... change below the output's directory. After each kill
the older bundle must stand whole, and the same call must end with the plan and the files of a build
that nothing disturbed, and leave no working directory. One line a kill, then a summary as JSON;
exit code 1 where a bundle was wrong or a call crashed. All kills take a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from killed_children import changes, ended  # noqa: E402
from small_models import SHALLOW, make_prunable, write_arrays  # noqa: E402
from trace_cache import cached_traces  # noqa: E402

from primesvt_deploy import BuildSettings, SearchSettings, build  # noqa: E402
from primesvt_deploy.data import open_data  # noqa: E402
from primesvt_deploy.edge.runtime.bundle import file_digest, open_bundle  # noqa: E402
from primesvt_deploy.errors import DeployError, OutputError  # noqa: E402

TIMED = {"manifest.json", "report.html", "report.json", "ledger.jsonl"}
"""Files that hold times or memory, so that no two builds write the same."""


@dataclass(frozen=True)
class Case:
    """A build that is killed.

    Args:
        name: of the case.
        output: its bundle.
        make: the call; that a finished bundle stands there already does not make it raise.
        restore: puts the output back to what it was before.
        old: digests of the older bundle; None: there is none.
    """

    name: str
    output: Path
    make: Callable[[], None]
    restore: Callable[[], None]
    old: dict[str, str] | None


def main() -> int:
    """Run both cases; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, help="so many kills a case, evenly spread, not all")
    parser.add_argument("--json", type=Path, help="write the summary to this file as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a forked child has no other threads
    logging.disable(logging.WARNING)
    started = time.monotonic()
    counts = {"cases": 0, "clean": 0, "wrong": 0, "crash": 0}
    with tempfile.TemporaryDirectory() as name, cached_traces(Path(name) / "traces"):
        directory = Path(name)
        whole, cases = _cases(directory)
        for case in cases:
            for number in _numbers(case, arguments.sample):
                found = _after_kill(case, number, whole)
                if found is None:
                    break
                counts["cases"] += 1
                counts[found[0]] += 1
                print(f"{case.name}, change {number}: {found[0]}, {found[1]}", flush=True)
                case.restore()
    summary = {"kind": "killed builds", **counts, "seconds": round(time.monotonic() - started, 1)}
    print(json.dumps(summary))
    if arguments.json:
        arguments.json.write_text(json.dumps(summary) + "\n")
    return 1 if counts["wrong"] or counts["crash"] else 0


def _cases(directory: Path) -> tuple[dict[str, str], list[Case]]:
    """Digests of an undisturbed bundle, and the cases; what is compiled once is compiled here."""
    model = make_prunable(SHALLOW)
    data = open_data(model, write_arrays(directory / "d.npz", model, count=120))
    search = SearchSettings(max_drop=5.0, rates=(0.5,), robustness_images=50)
    settings = BuildSettings(saving=10.0, search=search, verify_images=10, threads=1)
    older = BuildSettings(budget_mb=20.0, verify_images=10, threads=1)
    build(model, directory / "whole", settings, data=data)
    build(model, directory / "old", older, data=data)

    def make(output: Path, *, force: bool) -> Callable[[], None]:
        def call() -> None:
            there = output.exists()
            try:
                build(model, output, settings, data=data, force=force)
            except OutputError as error:
                if force or not there or "exists: pass another --output" not in str(error):
                    raise

        return call

    def restore(output: Path) -> None:
        shutil.rmtree(output.parent)
        output.parent.mkdir()
        if output.parent.name == "over":
            shutil.copytree(directory / "old", output)

    cases = []
    for name, there, folder in (
        ("nothing there", False, "new"),
        ("over an older bundle", True, "over"),
    ):
        output = directory / folder / "out"
        output.parent.mkdir()
        restore(output)
        old = digests(output) if there else None
        cases.append(
            Case(name, output, make(output, force=there), lambda o=output: restore(o), old)
        )
    return digests(directory / "whole"), cases


def _numbers(case: Case, sample: int | None) -> Iterator[int]:
    """Changes before which to kill."""
    total = changes(case.output.parent, case.make)
    case.restore()
    print(f"{case.name}: {total} changes, {len(os.listdir('/proc/self/task'))} thread", flush=True)
    if sample is None or sample >= total:
        yield from range(1, total + 1)
    else:
        yield from sorted({1 + i * (total - 1) // max(sample - 1, 1) for i in range(sample)})


def _after_kill(case: Case, number: int, whole: dict[str, str]) -> tuple[str, str] | None:
    """What came of a kill and of the same call after it; None: nothing was killed."""
    ending = ended(case.make, case.output.parent, number)
    if ending == "ended":
        return None
    if ending == "raised":
        return "crash", "the build raised"
    state = "bundle there" if case.output.exists() else "no bundle there"
    if case.old is not None:
        previous = case.output.with_name("out.work") / "previous"
        standing = case.output if case.output.exists() else previous
        if digests(standing) not in (case.old, whole):
            return "wrong", f"{state}: the older bundle is not whole"
    elif case.output.exists() and digests(case.output) != whole:
        return "wrong", f"{state}, and it is not whole"
    if ended(case.make, case.output.parent) != "ended":
        return "crash", f"{state}, and the same call raised"
    if digests(case.output) != whole or os.listdir(case.output.parent) != ["out"]:
        return "wrong", f"{state}, and the same call left {os.listdir(case.output.parent)}"
    return "clean", state


def digests(bundle: Path) -> dict[str, str]:
    """SHA-256 of a bundle's files, but for those with times; empty where it is not whole."""
    try:
        open_bundle(bundle)
    except DeployError:
        return {}
    files = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*")}
    return {
        name: file_digest(path)
        for name, path in files.items()
        if path.is_file() and name not in TIMED
    }


if __name__ == "__main__":
    sys.exit(main())
