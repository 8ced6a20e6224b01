"""Makes a virtual environment on the device: `python3 environment.py DIRECTORY PACKAGE...`.

Not called `venv`: it would hide that module there. Imports the standard library alone, and nothing
of this package.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["make"]


def make(directory: Path, packages: list[str]) -> str | None:
    """Make an environment with packages, unless it is there; say why not where it fails.

    It is made beside its place and renamed when it is whole: one that was interrupted is made
    anew.
    """
    python = directory / "bin" / "python"
    wanted = ["-c", f"import {', '.join(packages)}"]
    if python.exists() and not subprocess.run([python, *wanted], capture_output=True).returncode:
        return None
    aside = directory.with_name(directory.name + ".new")
    aside.parent.mkdir(parents=True, exist_ok=True)
    print(f"making a virtual environment in {directory}")
    made = _run([sys.executable, "-m", "venv", "--clear", str(aside)])
    if made is not None:
        if "ensurepip" in made or "No module named venv" in made:
            return "no venv there: sudo apt install python3-venv"
        return made.splitlines()[-1]
    print(f"installing {' and '.join(packages)}")
    pip = [
        str(aside / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--no-input",
        "--progress-bar=off",
    ]
    installed = _run([*pip, "--disable-pip-version-check", *packages])
    if installed is not None:
        return f"pip: {installed.splitlines()[-1].removeprefix('ERROR: ')}"
    shutil.rmtree(directory, ignore_errors=True)
    aside.rename(directory)
    return None


def _run(command: list[str]) -> str | None:
    """What a command that fails says; None: it did not fail."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return None if done.returncode == 0 else done.stdout.strip() or f"status {done.returncode}"


if __name__ == "__main__":
    problem = make(Path(sys.argv[1]).expanduser(), sys.argv[2:])
    sys.exit(f"error: {problem}" if problem else 0)
