"""Functions of the API show progress to people, and to nobody else."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

import primesvt_deploy
from primesvt_deploy.progress import AUTOMATIC, SILENT, Progress
from primesvt_deploy.progress.choose import Verbosity, drawn_by_default, shown_progress
from primesvt_deploy.progress.shown import Lines


@drawn_by_default
def used(number: int, *, progress: Progress = AUTOMATIC) -> tuple[int, Progress]:
    progress.stage("one", 1)
    progress.step("found <it>")
    return number, progress


def test_outside_terminals_and_notebooks_nothing_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert used(3) == (3, SILENT)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_bars_are_shown_unless_they_are_turned_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert type(used(3)[1]).__name__ == "Bars"
    assert "one: found <it>" in capsys.readouterr().err
    assert used(3, progress=SILENT)[1] is SILENT
    assert capsys.readouterr() == ("", "")


def test_in_a_notebook_one_output_is_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    handle = SimpleNamespace(update=shown.append)

    def display(content: str, display_id: bool) -> Any:
        assert display_id
        shown.append(content)
        return handle

    shell = SimpleNamespace(kernel=object())
    ipython = SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    module = SimpleNamespace(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    assert type(used(3)[1]).__name__ == "Notebook"
    assert shown[0].startswith("<pre>one")
    assert shown[-1] == "<pre>[ 0:00] one: found &lt;it&gt;, 0.0 s</pre>"
    assert capsys.readouterr() == ("", "")
    shell = SimpleNamespace()  # IPython in a pipe
    assert used(3)[1] is SILENT


def test_quiet_is_silent_and_a_pipe_gets_lines() -> None:
    with shown_progress(Verbosity.QUIET) as progress:
        assert progress is SILENT
    with shown_progress() as progress:
        assert type(progress) is Lines


@pytest.mark.parametrize("name", ["build", "frontier", "analyze", "prune", "finetune"])
def test_every_long_function_of_the_api_does_so(name: str) -> None:
    function = getattr(primesvt_deploy, name)
    assert function.__kwdefaults__ is None and function.__wrapped__.__kwdefaults__
    assert function.__wrapped__.__kwdefaults__["progress"] is AUTOMATIC
