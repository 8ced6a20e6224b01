"""How threads of a command wait: they neither spin for long nor sleep at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMMAND = """
import os, sys
from primesvt_deploy.cli import main
sys.argv = ["primesvt-deploy", "--version"]
try:
    main()
finally:
    print([os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")])
"""


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, ["PASSIVE", "1000"]),
        ({"GOMP_SPINCOUNT": "7"}, ["PASSIVE", "7"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", None]),
    ],
)
def test_threads_wait_as_the_user_says_or_shortly(
    given: dict[str, str], found: list[str | None]
) -> None:
    others = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    ended = subprocess.run(
        [sys.executable, "-c", COMMAND],
        env={**others, **given}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ended.stdout.splitlines()[-1] == str(found)
