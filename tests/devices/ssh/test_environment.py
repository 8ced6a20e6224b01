from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from primesvt_deploy.devices.ssh import environment
from primesvt_deploy.devices.ssh.environment import make

NAME = "primesvt_nothing"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one package in it, which is all that pip gets to see."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    about = f"{NAME}-1.0.dist-info"
    files = {
        f"{NAME}.py": b"",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in files)
    files[f"{about}/RECORD"] = record.encode()
    with zipfile.ZipFile(folder / f"{NAME}-1.0-py3-none-any.whl", "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.slow
def test_an_environment_is_made_once_and_whole(wheels: Path, tmp_path: Path) -> None:
    place = tmp_path / "cache" / "venv"
    interrupted = tmp_path / "cache" / "venv.new" / "bin"
    interrupted.mkdir(parents=True)
    problem = make(place, ["primesvt_nowhere"])
    if problem is not None and "python3-venv" in problem:
        pytest.skip("this Python makes no virtual environments")
    assert problem is not None
    assert problem.startswith("pip: ")
    assert "primesvt_nowhere" in problem
    assert "\n" not in problem
    assert not place.exists()

    assert make(place, [NAME]) is None
    subprocess.run([place / "bin" / "python", "-c", f"import {NAME}"], check=True)
    assert not place.with_name("venv.new").exists()
    made = (place / "pyvenv.cfg").stat().st_mtime_ns
    assert make(place, [NAME]) is None
    assert (place / "pyvenv.cfg").stat().st_mtime_ns == made


def test_debian_without_python3_venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho 'The virtual environment was not created successfully because ensurepip "
        "is not'\necho 'available.'\nexit 1\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert environment.make(tmp_path / "venv", ["numpy"]) == (
        "no venv there: sudo apt install python3-venv"
    )
