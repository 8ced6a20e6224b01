"""How a command ends where its surroundings fail: one line at most, and the right exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]
PRINTING = """
import click, rich.console
from primesvt_deploy import cli

@cli.cli.command()
def x():
    {}

cli.main()
"""


def exit_code(*arguments: str, cwd: Path, stdout: int, stderr: int) -> int:
    """Exit code of a command that writes to these file descriptors."""
    return subprocess.run(
        [sys.executable, "-m", "primesvt_deploy.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=stdout,
        stderr=stderr,
        timeout=60,
    ).returncode


def test_a_reader_that_has_gone_is_no_failure_of_ours(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (tmp_path / "said").open("wb") as said, os.fdopen(writer, "wb"):
        code = exit_code("build", "--help", cwd=tmp_path, stdout=writer, stderr=said.fileno())
    assert (code, (tmp_path / "said").read_text()) == (141, "")


@pytest.mark.parametrize("by", ["rich.console.Console().print('x')", "click.echo('x')"])
def test_nor_where_another_library_writes(by: str) -> None:
    program = PRINTING.format(by)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb"):
        ran = subprocess.run([sys.executable, "-c", program, "x"], stdout=writer, stderr=-1)
    assert (ran.returncode, ran.stderr) == (141, b"")


def test_the_exit_code_stands_where_nothing_can_be_said(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full, (tmp_path / "out").open("wb") as out:
        code = exit_code(
            "inspect", "nothing", cwd=tmp_path, stdout=out.fileno(), stderr=full.fileno()
        )
    assert (code, (tmp_path / "out").read_text()) == (2, "")


@pytest.mark.parametrize(
    "arguments",
    [
        "build --budget-mb 1",
        "build --show-config",
        "report bundle",
        "bench bundle --output r.json",
        "frontier",
        "models",
        "analyze",
        "run /nowhere a.png",
        "inspect bundle",
    ],
)
def test_a_working_directory_that_was_removed(
    arguments: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from primesvt_deploy.cli import main

    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "argv", ["primesvt-deploy", *arguments.split()])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    if end.value.code == 0:
        assert "--show-config" in arguments and out and not err
    else:
        assert end.value.code == 2
        assert err == "error: the working directory was removed: change to another, as with `cd`\n"


def test_doctor_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from primesvt_deploy.cli.health.machine import check_places

    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    first, *others = check_places()
    assert (first.name, first.state, first.found) == (
        "current directory",
        "missing",
        "it was removed",
    )
    assert others
