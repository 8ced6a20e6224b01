"""The engine is compiled once, kept for the next process, and what is lacking is said in a line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from primesvt_deploy.edge.runtime import native_library
from primesvt_deploy.edge.runtime.errors import BundleError
from primesvt_deploy.edge.runtime.native_library import OWN_SOURCES, load_library

ANSWER = '#include "svit.h"\nint svit_answer(void) {{ return {answer}; }}\n'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where libraries are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path / "cache" / "primesvt-deploy"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """An engine of one function."""
    (tmp_path / "native").mkdir()
    return written(tmp_path / "native", 42)


def written(directory: Path, answer: int) -> Path:
    (directory / "svit.h").write_text("int svit_answer(void);\n")
    (directory / "svit.c").write_text(ANSWER.format(answer=answer))
    return directory


def compiler_that(directory: Path, does: str, name: str = "cc") -> Path:
    """A program in front of gcc."""
    path = directory / name
    path.write_text(f'#!/bin/sh\n{does}\nexec {shutil.which("gcc")} "$@"\n')
    path.chmod(0o755)
    return path


def loading(sources: Path) -> list[str]:
    """A process that loads a library and prints its answer."""
    code = (
        "import sys\n"
        "from primesvt_deploy.edge.runtime.native_library import load_library\n"
        "print(load_library(sys.argv[1]).svit_answer())\n"
    )
    return [sys.executable, "-c", code, str(sources)]


def test_what_is_compiled_is_kept_and_loaded(
    cache: Path, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    counting = compiler_that(tmp_path, f'echo "$@" >> {calls}')
    monkeypatch.setenv("CC", str(counting))
    assert load_library(sources).svit_answer() == 42
    (kept,) = cache.iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    assert "-ffp-contract=off" in calls.read_text()
    calls.unlink()
    assert load_library(sources).svit_answer() == 42
    assert calls.read_text() == "--version\n"


def test_other_sources_compilers_and_flags_are_compiled_anew(
    cache: Path, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_library(sources)
    assert load_library(written(sources, 43)).svit_answer() == 43
    (sources / "svit.h").write_text("int svit_answer(void); /* other */\n")
    load_library(sources)
    monkeypatch.setenv("CC", "cc -O1")
    load_library(sources)
    newer = compiler_that(tmp_path, '[ "$1" = --version ] && echo 99.0')
    monkeypatch.setenv("CC", str(newer))
    load_library(sources)
    assert len(list(cache.iterdir())) == 5


def test_two_processes_may_race(cache: Path, sources: Path, tmp_path: Path) -> None:
    slow = compiler_that(tmp_path, "sleep 0.2")
    environment = {**os.environ, "CC": str(slow)}
    racing = [
        subprocess.Popen(loading(sources), env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in racing] == ["42\n", "42\n"]
    assert [path.suffix for path in cache.iterdir()] == [".so"]


@pytest.mark.parametrize("damage", ["empty", "text", "writable"])
def test_a_library_that_cannot_be_trusted_or_loaded_is_replaced(
    cache: Path, sources: Path, damage: str
) -> None:
    # In another process: what one has loaded under a name it does not read again.
    subprocess.run(loading(sources), check=True, capture_output=True)
    (kept,) = cache.iterdir()
    good = kept.read_bytes()
    kept.write_bytes(good if damage == "writable" else b"" if damage == "empty" else b"\0" * 99)
    kept.chmod(0o666 if damage == "writable" else 0o600)
    assert load_library(sources).svit_answer() == 42
    assert kept.read_bytes()[:4] == good[:4] and kept.stat().st_mode & 0o077 == 0


def test_without_a_cache_that_can_be_written_it_works_all_the_same(
    cache: Path, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.write_text("no directory")
    places = tmp_path / "temporary"
    places.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(places))
    assert load_library(sources).svit_answer() == 42
    assert not list(places.iterdir())


def test_a_relative_cache_is_ignored(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    load_library(sources)
    assert list((tmp_path / "home" / ".cache" / "primesvt-deploy").iterdir())


def message(sources: Path) -> str:
    """The one line that loading ends with."""
    with pytest.raises(BundleError) as caught:
        load_library(sources)
    text = str(caught.value)
    assert text.isprintable()
    return text


def test_a_missing_compiler_is_one_line(
    cache: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "nocc -O2")
    assert message(sources) == (
        "found no C compiler 'nocc', which CC names: unset CC, or apt install gcc libc6-dev"
    )
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "/nowhere")
    assert message(sources) == (
        "found no C compiler, expected cc, gcc, clang to build the native runtime with: apt "
        "install gcc libc6-dev"
    )


def test_a_compiler_that_fails_is_one_line(
    cache: Path, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sources / "svit.c").write_text("#include <nowhere.h>\n")
    text = message(sources)
    assert text.startswith("the C compiler cc failed (") and "nowhere.h" in text
    assert text.endswith("): apt install gcc libc6-dev, or let CC name another one")
    monkeypatch.setenv("CC", str(compiler_that(tmp_path, "exit 3")))
    assert "failed (no reason given)" in message(sources)
    assert not cache.exists()


def test_missing_sources_are_one_line(cache: Path, tmp_path: Path) -> None:
    assert message(tmp_path / "native") == (
        f"found no svit.c in {tmp_path / 'native'}, expected the C sources of the native runtime: "
        "copy the bundle again"
    )


def test_a_full_disk_is_one_line(
    cache: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    assert message(sources).startswith("the native runtime cannot be built or loaded ([Errno 2]")


def test_a_package_compiles_its_own_sources() -> None:
    assert Path(native_library.__file__).parents[1] / "native" == OWN_SOURCES
    assert (OWN_SOURCES / "svit.h").is_file()
