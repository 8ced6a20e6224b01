"""What a sandbox is made of, and the command line that runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from recorded_progress import Recorded

from primesvt_deploy.devices.emulated_arm import sandbox as module
from primesvt_deploy.devices.emulated_arm.sandbox import Parts, Sandbox, default_directory
from primesvt_deploy.errors import EmulationError
from primesvt_deploy.progress import Progress

Faked = Callable[[str], Sandbox]
TOOL = Path(__file__).parents[3] / "tools" / "arm_sandbox.py"


def test_the_command_line_is_that_cpus(faked: Faked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    made = faked("true")
    command, environment = made.command("cortex-a76")
    root = made.directory / "cortex-a76"
    assert command[1:] == ["-cpu", "cortex-a76", "-L", str(root), f"{root}/usr/bin/python3.11"]
    assert command[0] == str(made.directory / "qemu/qemu-aarch64-static")
    assert environment["PYTHONPATH"] == f"{made.directory}/wheels-1.2.3:/mine"
    assert environment["PYTHONHOME"] == f"{root}/usr"
    assert "LD_PRELOAD" not in environment


def test_its_record_names_its_onnxruntime(faked: Faked) -> None:
    made = faked("true")
    assert made.is_ready
    assert made.parts == Parts("python3.11", "wheels-1.2.3", "no plugins")
    assert made.onnxruntime == "1.2.3"


def test_why_it_cannot_count_is_told(faked: Faked) -> None:
    with pytest.raises(EmulationError, match=r"^no plugins$"):
        faked("true").command("cortex-a72", counting=True)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    made = Sandbox(tmp_path / "nothing")
    assert not made.is_ready
    with pytest.raises(EmulationError, match="no finished sandbox"):
        made.command("cortex-a72")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 5000,
        "\xff",
        '{"python": 3, "other": 1}',
        '{"python": "python3.11", "wheels": null}',
        '{"python": "../python3.11", "wheels": "wheels-1.2.3"}',
        '{"python": "python3.11", "wheels": "wheels-1\\n2"}',
        '{"python": "python3.11", "wheels": "wheels-1", "uncounted": "a\\u001b[2J"}',
    ],
)
def test_a_damaged_record_is_told(faked: Faked, text: str) -> None:
    made = faked("true")
    (made.directory / "sandbox.json").write_text(text, encoding="latin-1")
    with pytest.raises(EmulationError, match=r"sandbox\.json is damaged"):
        made.command("cortex-a72")


def test_a_record_that_is_a_pipe_is_told(faked: Faked) -> None:
    made = faked("true")
    (made.directory / "sandbox.json").unlink()
    os.mkfifo(made.directory / "sandbox.json")
    with pytest.raises(EmulationError, match=r"sandbox\.json is damaged"):
        made.command("cortex-a72")


def test_it_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "primesvt-deploy/arm-sandbox"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".cache/primesvt-deploy/arm-sandbox"


def fake_parts(monkeypatch: pytest.MonkeyPatch, qemu: str = "true") -> list[str]:
    """Parts that come from nowhere; the list is of those that were fetched."""
    fetched: list[str] = []

    def fetch_qemu(result: Path, progress: Progress) -> None:
        fetched.append("qemu")
        (result / "qemu-aarch64-static").write_text(f"#!/bin/sh\n{qemu}\n")
        (result / "qemu-aarch64-static").chmod(0o755)

    def fetch_debian(result: Path, progress: Progress) -> None:
        fetched.append("debian")
        (result / "usr/bin").mkdir(parents=True)
        for name in ("python3.9", "python3.11"):
            (result / "usr/bin" / name).touch()

    def fetch_wheels(result: Path, onnxruntime: str, python: str, progress: Progress) -> None:
        fetched.append(f"wheels {onnxruntime} {python}")
        if onnxruntime == "9.9":
            raise EmulationError("no such version")

    def make_counting_qemu(folder: Path, progress: Progress) -> None:
        fetched.append("counter")
        raise EmulationError("there is no C compiler here")

    monkeypatch.setattr(module, "find_qemu", lambda d: next(d.glob("qemu/*"), None))
    for part in (fetch_qemu, fetch_debian, fetch_wheels, make_counting_qemu):
        monkeypatch.setattr(module, part.__name__, part)
    return fetched


def test_setting_up_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = fake_parts(monkeypatch)
    made = Sandbox(tmp_path / "s")
    with pytest.raises(EmulationError, match="no such version"):
        made.set_up(onnxruntime="9.9")
    assert not made.is_ready
    assert not (made.directory / "wheels-9.9").exists()
    made.set_up(onnxruntime="1.2.3")
    assert fetched == ["qemu", "debian", "wheels 9.9 3.11", "wheels 1.2.3 3.11", "counter"]
    assert made.parts == Parts("python3.11", "wheels-1.2.3", "there is no C compiler here")
    assert (made.directory / "cortex-a72/usr").resolve() == made.directory / "root/usr"
    assert "0xd0b" in (made.directory / "cortex-a76/proc/cpuinfo").read_text()
    made.set_up(onnxruntime="1.3.0")
    assert made.onnxruntime == "1.3.0"


def test_an_onnxruntime_that_does_not_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = 'case "$*" in *"import onnxruntime"*) kill -ILL $$;; esac'
    fake_parts(monkeypatch, dies)
    recorded = Recorded()
    made = Sandbox(tmp_path / "s")
    made.set_up(onnxruntime="1.21.0", progress=recorded)
    assert made.is_ready
    assert sum("ended with -4" in line for line in recorded.messages) == 2


def test_a_python_that_does_not_run_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_parts(monkeypatch, "echo 'no such file' >&2; exit 255")
    made = Sandbox(tmp_path / "s")
    with pytest.raises(EmulationError, match="ended with 255: no such file"):
        made.set_up(onnxruntime="1.2.3")
    assert not made.is_ready


def test_the_tool_becomes_qemu(faked: Faked) -> None:
    made = faked('echo "$@"')
    command = [sys.executable, str(TOOL), "run", str(made.directory), "--cpu", "cortex-a72"]
    done = subprocess.run([*command, "x.py", "--y"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[:2] == ["-cpu", "cortex-a72"]
    assert done.stdout.split()[-2:] == ["x.py", "--y"]


def test_the_tool_tells_what_is_wrong_in_a_line(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "run", str(tmp_path), "--cpu", "cortex-a72", "x.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("arm_sandbox: ") and done.stderr.count("\n") == 1
