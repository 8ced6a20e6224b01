"""Debian packages are unpacked without root, and what stands in the way is told in a line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from primesvt_deploy.devices.emulated_arm import debian_packages
from primesvt_deploy.devices.emulated_arm.debian_packages import unpack
from primesvt_deploy.errors import EmulationError


def fake_programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **says: str) -> None:
    """apt and dpkg that are scripts: what each subcommand of apt-get does is told."""
    folder.mkdir()
    cases = "\n".join(f"{name}) {does};;" for name, does in says.items())
    scripts = {
        "apt-get": f'shift\ncase "$1" in\n{cases}\nesac',
        "apt-cache": "true",
        "dpkg": "echo amd64",
        "dpkg-deb": 'mkdir -p "$3/usr" && cp "$2" "$3/usr/"',
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_what_is_downloaded_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_programs(
        tmp_path / "bin",
        monkeypatch,
        update="true",
        download='shift; for p; do echo $p > "$p.deb"; done',
    )
    unpack(["one", "two"], tmp_path / "target")
    assert (tmp_path / "target/usr/one.deb").read_text() == "one\n"
    assert (tmp_path / "target/usr/two.deb").exists()


def test_dependencies_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_programs(
        tmp_path / "bin",
        monkeypatch,
        update="true",
        install='echo "$*" > all.deb',
        download="false",
    )
    unpack(["one"], tmp_path / "target", dependencies=True)
    asked = (tmp_path / "target/usr/all.deb").read_text().split()
    assert {"install", "--download-only", "--no-install-recommends", "one"} <= set(asked)


def test_without_apt_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmulationError, match="there is no apt-get here: expected Debian"):
        unpack(["one"], tmp_path / "target")


def test_a_package_that_cannot_be_had_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "echo 'W: old lists' >&2; echo 'E: Unable to locate package one' >&2; exit 100"
    fake_programs(tmp_path / "bin", monkeypatch, update="true", download=said)
    with pytest.raises(EmulationError) as caught:
        unpack(["one"], tmp_path / "target")
    assert str(caught.value).endswith("ended with 100: E: Unable to locate package one")
    assert "\n" not in str(caught.value)


def test_the_cause_of_unknown_packages_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_programs(
        tmp_path / "bin", monkeypatch,
        update="echo 'E: Temporary failure resolving the mirror' >&2; exit 100",
        download="echo 'E: Unable to locate package one' >&2; exit 100",
    )  # fmt: skip
    with pytest.raises(EmulationError, match="Temporary failure resolving the mirror"):
        unpack(["one"], tmp_path / "target")


def test_one_broken_source_of_many_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_programs(tmp_path / "bin", monkeypatch, update="exit 100", download='echo one > "$2.deb"')
    unpack(["one"], tmp_path / "target")
    assert (tmp_path / "target/usr/one.deb").exists()


@pytest.mark.skipif(shutil.which("apt-config") is None, reason="there is no apt here")
def test_apt_takes_the_configuration(tmp_path: Path) -> None:
    text = debian_packages._CONFIGURATION.format(architecture="arm64", folder=tmp_path)
    (tmp_path / "apt.conf").write_text(text)
    command = ["apt-config", f"--config-file={tmp_path}/apt.conf", "dump"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line for line in found if line.startswith("APT::Architectures")] == [
        'APT::Architectures "";',
        'APT::Architectures:: "arm64";',
    ]
    assert f'Dir::State "{tmp_path}/state";' in found
