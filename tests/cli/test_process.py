"""The process of a command: how its threads wait, and how it ends when it is interrupted."""

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


INTERRUPTED = """
import atexit, os, sys, types
from primesvt_deploy import cli

class Crashes:
    def __del__(self):
        os._exit(11)

sys.modules["ray"] = types.ModuleType("ray")
sys.modules["ray"].thread = Crashes()
sys.argv = ["primesvt-deploy", *sys.argv[1:]]
atexit.register(print, "cleaned up")

def interrupt(**named):
    raise {ending}

cli.cli.main = interrupt
cli.main()
"""


@pytest.mark.parametrize(
    ("ending", "arguments", "code", "told"),
    [
        (
            "KeyboardInterrupt", ["build"], 130,
            "interrupted; it goes on where it was when run again\n",
        ),
        ("KeyboardInterrupt", ["build", "--dry-run"], 130, "interrupted\n"),
        ("SystemExit(143)", ["build"], 143, ""),
    ],
)  # fmt: skip
def test_a_command_that_a_signal_ends_does_so_before_ray_is_unloaded(
    ending: str, arguments: list[str], code: int, told: str
) -> None:
    program = INTERRUPTED.replace("{ending}", ending)
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "cleaned up\n", told)


@pytest.mark.parametrize(
    ("ending", "code", "told"),
    [
        ("SystemExit", 0, ""),
        ("SystemExit(3)", 3, ""),
        ("SystemExit('no more disks')", 1, "no more disks\n"),
    ],
)
def test_code_that_ends_the_process_has_its_say(ending: str, code: int, told: str) -> None:
    program = INTERRUPTED.replace("{ending}", ending).replace("os._exit(11)", "pass")
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "cleaned up\n", told)
