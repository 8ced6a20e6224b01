"""Compilers, emulators, belongings and places that `doctor` looks at."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from primesvt_deploy.cli.health import belongings, machine, programs
from primesvt_deploy.cli.health.finding import BROKEN, MISSING, OK, Finding
from primesvt_deploy.errors import ModelError


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without programs: the directory that is searched for them."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path / "bin"


def program(place: Path, name: str, body: str) -> None:
    (place / name).write_text(f"#!/bin/sh\n{body}\n")
    (place / name).chmod(0o755)


def test_compilers_that_are_missing_are_named_with_their_packages(bare: Path) -> None:
    program(bare, "apt-get", "exit 0")
    found = by_name(programs.check_compilers())
    assert {finding.state for finding in found.values()} == {MISSING}
    assert found["cc"].mend == "sudo apt install gcc libc6-dev"
    assert found["aarch64-linux-gnu-gcc"].mend == "sudo apt install gcc-aarch64-linux-gnu"
    assert "libnewlib-arm-none-eabi" in found["arm-none-eabi-gcc"].mend
    assert not any(finding.is_failure for finding in found.values())


def test_without_apt_no_command_of_apt_is_advised(bare: Path) -> None:
    assert by_name(programs.check_compilers())["make"].mend == "install what Debian calls make"


def test_a_compiler_is_tried(bare: Path) -> None:
    program(bare, "gcc", 'echo "gcc 12"')
    program(bare, "arm-none-eabi-gcc", "echo 'fatal error: stdio.h: no such file' >&2; exit 1")
    found = by_name(programs.check_compilers())
    assert (found["cc"].state, found["cc"].found) == (OK, "gcc 12")
    newlib = found["arm-none-eabi-gcc"]
    assert (newlib.state, newlib.found) == (BROKEN, "fatal error: stdio.h: no such file")


def test_the_reason_of_a_compiler_is_its_first_error(bare: Path) -> None:
    said = "cc: note: x\\ncc: fatal error: cannot execute 'cc1'\\ncompilation terminated."
    program(bare, "cc", f'printf "{said}\\n" >&2; exit 1')
    assert (
        by_name(programs.check_compilers())["cc"].found == "cc: fatal error: cannot execute 'cc1'"
    )


def test_without_a_path_the_mend_is_a_path(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert by_name(programs.check_compilers())["cc"].mend.startswith("export PATH=")


def test_a_compiler_that_cc_names_is_the_one(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare, "gcc", 'echo "gcc 12"')
    monkeypatch.setenv("CC", "mycc -m32")
    found = by_name(programs.check_compilers())["cc"]
    assert (found.state, found.found) == (MISSING, "CC names mycc")


def test_the_sandbox_is_missing_begun_damaged_or_ready(bare: Path, tmp_path: Path) -> None:
    sandbox = tmp_path / "cache" / "primesvt-deploy" / "arm-sandbox"
    found = by_name(programs.check_emulators())
    assert found["sandbox"].state == MISSING and str(sandbox) in found["sandbox"].found
    assert found["qemu-aarch64"].state == found["qemu-system-arm"].state == MISSING
    program(bare, "apt-get", "exit 0")
    assert by_name(programs.check_emulators())["sandbox"].mend.startswith("primesvt-deploy verify")
    (sandbox / "qemu").mkdir(parents=True)
    (sandbox / "qemu" / "qemu-aarch64-static").write_bytes(bytes(3_000_000))
    found = by_name(programs.check_emulators())
    assert found["qemu-aarch64"].state == OK
    assert found["sandbox"].found == f"begun, not finished: {sandbox}, 3 MB"
    (sandbox / "sandbox.json").write_text("{}")
    found = by_name(programs.check_emulators())
    assert found["sandbox"].state == BROKEN and "is damaged" in found["sandbox"].found
    (sandbox / "sandbox.json").write_text('{"python": "python3.11", "wheels": "wheels-1.22.0"}')
    found = by_name(programs.check_emulators())
    assert found["sandbox"].state == OK
    assert found["sandbox"].found.startswith(f"python3.11, onnxruntime 1.22.0: {sandbox}, 3 MB")


def test_ssh_is_what_the_user_has(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = by_name(belongings.check_ssh())
    assert [found[n].state for n in ("keys", "agent", "ssh client")] == [MISSING] * 3
    assert found["ssh_config"].state == OK, "none is needed"
    (tmp_path / ".ssh").mkdir()
    for name in ("id_ed25519.pub", "config", "agent-that-ended"):
        (tmp_path / ".ssh" / name).touch()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / ".ssh" / "agent-that-ended"))
    found = by_name(belongings.check_ssh())
    assert (found["keys"].found, found["agent"].state) == ("id_ed25519", MISSING)
    assert found["ssh_config"].found == str(tmp_path / ".ssh" / "config")
    with socket.socket(socket.AF_UNIX) as agent:
        monkeypatch.chdir(tmp_path)
        agent.bind("agent")
        monkeypatch.setenv("SSH_AUTH_SOCK", "agent")
        assert by_name(belongings.check_ssh())["agent"].state == OK


def test_models_that_are_missing_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = by_name(belongings.check_models())
    assert found["models"].state == found["data"].state == OK
    assert "cifar10" in found["data"].found

    def absent() -> tuple[str, ...]:
        raise ModelError("this installation has no reference models: pass --checkpoint FILE")

    monkeypatch.setattr(belongings, "model_names", absent)
    (finding,) = belongings.check_models()
    assert (finding.state, finding.is_failure) == (MISSING, False)
    assert "--checkpoint" in finding.found


def test_directories_are_looked_at_for_rights_and_room(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = by_name(machine.check_places())
    assert {finding.state for finding in found.values()} == {OK}
    assert not (tmp_path / "cache").exists(), "nothing is made"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    found = by_name(machine.check_places())
    assert found["current directory"].found == f"{tmp_path} cannot be written to"
    assert found["cache"].state == MISSING
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1))
    assert by_name(machine.check_places())["temporary directory"].mend == (
        "free some space on its disk"
    )


def test_the_machine_is_described() -> None:
    found = by_name(machine.check_machine())
    assert "cores" in found["processor"].found
    assert "GB available" in found["memory"].found
    assert found["vector instructions"].state in (OK, MISSING)
