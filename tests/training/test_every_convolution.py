"""Training and evaluation touch no memory of others and are right, whatever kernels the CPU has.

oneDNN's AVX2 kernels run on every x86 CPU; a fault of theirs is found on machines with AVX-512 too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from families.zoo import FORMS, ZOO

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("every_convolution.py")
ROOT = Path(__file__).parents[2]
HANGS_SECONDS = 600.0


@pytest.mark.parametrize(
    ("instructions", "cases", "last"),
    [
        ("AVX2", (), next(name for name in reversed(ZOO) if name in FORMS)),
        ("DEFAULT", ("shortcut", "reference"), "reference"),
    ],
)
def test_every_convolution_is_right_and_stays_in_its_memory(
    instructions: str, cases: tuple[str, ...], last: str
) -> None:
    found = subprocess.run(
        [sys.executable, str(PROGRAM), *cases],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS_SECONDS,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [
                    str(ROOT),
                    str(ROOT / "tests"),
                    str(ROOT / "tools"),
                    os.environ.get("PYTHONPATH", ""),
                ]
            ),
            "ONEDNN_MAX_CPU_ISA": instructions,
            # glibc aborts at a freed block that was written past; from 2.34 on in a library apart.
            "LD_PRELOAD": "libc_malloc_debug.so.0",
            "MALLOC_CHECK_": "3",
            # Threads that wait for one another sleep: the tests beside need the cores.
            "GOMP_SPINCOUNT": "0",
        },
    )
    assert found.returncode == 0, f"{found.stdout}{found.stderr[-3000:]}"
    *_, ran, checked = found.stdout.splitlines()
    assert ran == last
    assert int(checked.split()[0]) > 20
