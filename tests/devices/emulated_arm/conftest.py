"""A sandbox that is real, and one whose qemu is a script of the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from primesvt_deploy.devices.emulated_arm.sandbox import Sandbox
from primesvt_deploy.errors import EmulationError


@pytest.fixture(scope="session")
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """One that works, in pytest's cache: set up once on a machine, not once a run."""
    cache: pytest.Cache = request.config.cache
    made = Sandbox(cache.mkdir("arm-sandbox"))
    try:
        made.set_up()
    except EmulationError as error:
        pytest.skip(f"the emulator cannot be installed: {error}")
    return made


@pytest.fixture
def faked(tmp_path: Path) -> Callable[[str], Sandbox]:
    """Makes a sandbox whose qemu is a shell script."""

    def make(script: str) -> Sandbox:
        directory = tmp_path / "faked"
        qemu = directory / "qemu/qemu-aarch64-static"
        qemu.parent.mkdir(parents=True)
        qemu.write_text(f"#!/bin/sh\n{script}\n")
        qemu.chmod(0o755)
        parts = {"python": "python3.11", "wheels": "wheels-1.2.3", "uncounted": "no plugins"}
        (directory / "sandbox.json").write_text(json.dumps(parts))
        return Sandbox(directory)

    return make
