"""Objects that tests keep are those that the compiler makes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from compiler_cache import write_compiler

REAL = shutil.which("gcc", path="/usr/local/bin:/usr/bin:/bin")
pytestmark = pytest.mark.skipif(not REAL, reason="there is no gcc")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept"


@pytest.fixture
def compiler(tmp_path: Path, kept: Path) -> Path:
    """A compiler that keeps what it makes of `a.c`, which includes `a.h`."""
    (tmp_path / "a.h").write_text("#define ANSWER 42\n")
    (tmp_path / "a.c").write_text('#include "a.h"\nint answer(void) { return ANSWER; }\n')
    write_compiler(tmp_path / "gcc", str(REAL), kept)
    return tmp_path / "gcc"


def made(compiler: Path | str, folder: Path, *options: str) -> bytes:
    target = folder / "a.o"
    target.unlink(missing_ok=True)
    command = [compiler, *options, "-c", "-o", target, folder / "a.c"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    return target.read_bytes()


def test_what_is_kept_is_what_the_compiler_makes(
    compiler: Path, kept: Path, tmp_path: Path
) -> None:
    expected = made(str(REAL), tmp_path, "-O1")
    assert made(compiler, tmp_path, "-O1") == expected
    (only,) = kept.iterdir()
    only.write_bytes(b"kept")
    assert made(compiler, tmp_path, "-O1") == b"kept"
    (tmp_path / "b").mkdir()
    same_text = (f"-I{tmp_path / 'b'}", "-DQUESTION=1")
    for option in same_text:
        assert made(compiler, tmp_path, "-O1", option) == b"kept"


def test_another_text_or_option_is_compiled(compiler: Path, kept: Path, tmp_path: Path) -> None:
    some = (
        ("-O0",),
        ("-O1",),
        ("-O1", "-g"),
        ("-O1", "-Danswer=reply"),
        *(("--param", f"max-unroll-times={n}") for n in (1, 2)),
    )
    for count, options in enumerate(some, 1):
        assert made(compiler, tmp_path, *options) == made(str(REAL), tmp_path, *options)
        assert len(list(kept.iterdir())) == count
    (tmp_path / "a.h").write_text("#define ANSWER 43\n")
    assert made(compiler, tmp_path, "-O1") == made(str(REAL), tmp_path, "-O1")


def test_nothing_is_kept_of_what_fails_or_warns(compiler: Path, kept: Path, tmp_path: Path) -> None:
    for text in ("int answer(void) { return; }\n", "int broken\n"):
        (tmp_path / "a.c").write_text(text)
        command = ["-Wall", "-c", "-o", "a.o", "a.c"]
        ours, theirs = (
            subprocess.run([name, *command], cwd=tmp_path, capture_output=True, text=True)
            for name in (compiler, str(REAL))
        )
        assert ours.stderr and (ours.returncode, ours.stderr) == (theirs.returncode, theirs.stderr)
    assert not list(kept.iterdir())


def test_a_program_is_linked(compiler: Path, kept: Path, tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int main(void) { return 7; }\n")
    subprocess.run([compiler, "-o", tmp_path / "a", tmp_path / "a.c"], check=True)
    assert subprocess.run([tmp_path / "a"]).returncode == 7
    assert not list(kept.iterdir())
