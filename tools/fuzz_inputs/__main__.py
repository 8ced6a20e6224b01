"""Fuzz everything that reads a file of others, for a while; see README.md.

    python tools/fuzz_inputs --minutes 60 [--engine seeded|hypothesis|atheris] [--target NAME]

Exit code 1: something was found.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

INSTRUMENTED = ["primesvt_deploy.edge", "primesvt_deploy.data", "primesvt_deploy.model"]


def main() -> int:
    """Fuzz until the time is up; the exit code."""
    options = _options()
    instrumented = contextlib.nullcontext()
    if options.engine == "atheris":
        import atheris

        instrumented = atheris.instrument_imports(include=INSTRUMENTED)
    import torch

    torch.set_num_threads(1)
    with instrumented:
        from fuzz_inputs.engines import ENGINES
        from fuzz_inputs.outcomes import Found
        from fuzz_inputs.targets import make_targets

    cases: dict[str, int] = {}
    unclean: dict[str, int] = {}
    begun = told = time.monotonic()

    def tell(name: str, count: int, found: Sequence[Found]) -> None:
        nonlocal told
        cases[name] = cases.get(name, 0) + count
        for case in found:
            unclean[name] = unclean.get(name, 0) + 1
            said = case.said.encode(errors="replace").decode()
            print(f"{name}: {case.kind}: {_kept(options.found, case)}\n{said}", flush=True)
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"{told - begun:.0f} s: {sum(cases.values())} cases", flush=True)

    with tempfile.TemporaryDirectory(prefix="fuzz-inputs-") as folder:
        targets = make_targets(Path(folder))
        chosen = [target for target in targets if options.target in (None, target.name)]
        if not chosen or (options.engine == "atheris" and len(chosen) > 1):
            names = "\n  ".join(target.name for target in targets)
            print(f"expected --target with one of\n  {names}", file=sys.stderr)
            return 2
        ENGINES[options.engine](chosen, 60 * options.minutes, options.seed, tell)
    for name, count in cases.items():
        print(f"{name}: {count} cases, {unclean.get(name, 0)} not clean")
    return 1 if unclean else 0


def _kept(folder: Path, case: object) -> Path:
    """Write a file that was found, and what happened; its path."""
    content: bytes = case.content  # type: ignore[attr-defined]
    name = re.sub(r"\W+", "-", case.target)  # type: ignore[attr-defined]
    path = folder / name / hashlib.sha256(content).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.with_suffix(".txt").write_bytes(case.said.encode(errors="replace"))  # type: ignore[attr-defined]
    return path


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--engine", choices=("seeded", "hypothesis", "atheris"), default="seeded")
    parser.add_argument("--target", help="name of a kind of file (default: all in turns)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--found", type=Path, default=Path("found"), help="folder for findings")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
