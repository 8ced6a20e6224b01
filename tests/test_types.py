"""Types hold: mypy runs beside the other tests, as it takes long where it has no cache yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_types() -> None:
    command = [sys.executable, "-m", "mypy"]
    root = Path(__file__).parents[1]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
