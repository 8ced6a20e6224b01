"""Instructions are counted between two marks, by a plugin that is compiled here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from primesvt_deploy.devices.emulated_arm.instruction_count import (
    compile_plugin,
    counting_command,
    plugin_command,
)
from primesvt_deploy.devices.emulated_arm.qemu import Guest
from primesvt_deploy.devices.emulated_arm.sandbox import Sandbox
from primesvt_deploy.errors import EmulationError

Faked = Callable[[str], Sandbox]


def counting_guest(made: Sandbox, folder: Path, script: str) -> Guest:
    """A guest whose counting qemu is a script."""
    parts = {"python": "python3.11", "wheels": "wheels-1.2.3", "uncounted": ""}
    (made.directory / "sandbox.json").write_text(json.dumps(parts))
    loader = made.directory / "counter/ld-linux-x86-64.so.2"
    loader.parent.mkdir()
    loader.write_text(f"#!/bin/sh\n{script}\n")
    loader.chmod(0o755)
    folder.mkdir()
    return Guest(made, "cortex-a72", folder, timeout_s=60.0)


def test_start_up_is_not_counted(tmp_path: Path, faked: Faked) -> None:
    script = 'printf "1000\\n1007\\n" >> "$PRIMESVT_INSTRUCTIONS"'
    guest = counting_guest(faked("true"), tmp_path / "cpu", script)
    assert guest.count([]) == 7
    assert guest.count([]) == 7  # the run before is forgotten


@pytest.mark.parametrize("script", ["true", 'echo 5 > "$PRIMESVT_INSTRUCTIONS"'])
def test_a_plugin_that_says_nothing_is_told(tmp_path: Path, faked: Faked, script: str) -> None:
    guest = counting_guest(faked("true"), tmp_path / "cpu", script)
    with pytest.raises(EmulationError, match="gave no counts"):
        guest.count([])


def test_it_runs_with_its_own_loader_and_libraries(tmp_path: Path) -> None:
    folder = tmp_path / "with,comma"
    folder.mkdir()
    with pytest.raises(EmulationError, match="has no loader"):
        counting_command(folder)
    (folder / "ld-linux-x86-64.so.2").touch()
    command = plugin_command(folder)
    assert command[:3] == [f"{folder}/ld-linux-x86-64.so.2", "--library-path", str(folder)]
    assert command[-2:] == ["-plugin", f"{tmp_path}/with,,comma/instructions.so"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
@pytest.mark.parametrize("interface", [1, 2])
def test_the_plugin_compiles(tmp_path: Path, interface: int) -> None:
    plugin = compile_plugin(tmp_path, interface=interface)
    assert b"qemu_plugin_install" in plugin.read_bytes()
