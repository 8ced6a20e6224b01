"""Make a virtual environment on the device: `python3 environment.py DIRECTORY PACKAGE...`.

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
    """Make an environment with packages, unless it exists already.

    It is made under a temporary name and renamed when it is complete: one that was interrupted is
    made anew.

    Args:
        directory: where it shall stand.
        packages: names for pip and for import.

    Returns:
        None, or one line on why it failed.
    """
    python = directory / "bin" / "python"
    wanted = ["-c", f"import {', '.join(packages)}"]
    if python.exists() and not subprocess.run([python, *wanted], capture_output=True).returncode:
        return None
    temporary = directory.with_name(directory.name + ".new")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    print(f"making a virtual environment in {directory}")
    failure = _run([sys.executable, "-m", "venv", "--clear", str(temporary)])
    if failure is not None:
        if "ensurepip" in failure or "No module named venv" in failure:
            return "no venv there: sudo apt install python3-venv"
        return failure.splitlines()[-1]
    print(f"installing {' and '.join(packages)}")
    pip = [
        str(temporary / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--no-input",
        "--progress-bar=off",
    ]
    failure = _run([*pip, "--disable-pip-version-check", *packages])
    if failure is not None:
        return f"pip: {failure.splitlines()[-1].removeprefix('ERROR: ')}"
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)
    return None


def _run(command: list[str]) -> str | None:
    """Output of a command that fails, or None where it does not."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return None if done.returncode == 0 else done.stdout.strip() or f"status {done.returncode}"


if __name__ == "__main__":
    problem = make(Path(sys.argv[1]).expanduser(), sys.argv[2:])
    sys.exit(f"error: {problem}" if problem else 0)
