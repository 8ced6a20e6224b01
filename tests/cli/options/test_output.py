"""What a command says while it works: --quiet, --verbose, NO_COLOR."""

from __future__ import annotations

import logging
import warnings

import click
import pytest
from click.testing import CliRunner

from primesvt_deploy.cli.options.output import output_options, progress_of
from primesvt_deploy.cli.tables.common import make_console
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.progress.choose import Verbosity


@click.command()
@output_options
def work(*, verbosity: Verbosity) -> None:
    """Work on nothing."""
    with progress_of(verbosity) as progress:
        progress.stage("robustness", 3, "points")
        for rate in (1, 2, 3):
            progress.step(f"{rate}0%")
        logging.getLogger("torch.onnx").info("a line of a library\nand another")
        if verbosity is Verbosity.VERBOSE:
            warnings.warn("worn out", stacklevel=1)
    click.echo("the result")


def test_quiet_leaves_the_result_alone() -> None:
    ended = CliRunner().invoke(work, ["--quiet"], catch_exceptions=False)
    assert ended.stdout == "the result\n"
    assert ended.stderr == ""


def test_a_stage_is_a_line() -> None:
    ended = CliRunner().invoke(work, catch_exceptions=False)
    assert ended.stdout == "the result\n"
    assert ended.stderr == "[ 0:00] robustness: 3 points, 0.0 s\n"


def test_verbose_has_steps_and_what_libraries_log() -> None:
    logger = logging.getLogger("torch.onnx")
    before = logger.level, logger.handlers
    ended = CliRunner().invoke(work, ["--verbose"], catch_exceptions=False)
    lines = [line.partition("] ")[2] for line in ended.stderr.splitlines()]
    assert lines[:5] == [
        *(f"robustness: {rate}0%" for rate in (1, 2, 3)),
        "robustness: 3 points, 0.0 s",
        "torch.onnx: a line of a library",
    ]
    assert len(lines) == 6 and "worn out" in lines[5]
    assert (logger.level, logger.handlers) == before


def test_quiet_and_verbose_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="exclude each other"):
        CliRunner().invoke(work, ["--quiet", "--verbose"], catch_exceptions=False)


def test_tables_without_colour_have_no_codes_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    make_console().print("bold", style="bold red")
    assert "\x1b[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    make_console().print("bold", style="bold red")
    assert capsys.readouterr().out == "bold\n"
