"""Bars on a terminal, wide and narrow, in colour and without."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys

import pytest
from progress.clocks import Clock
from rich.console import Console

from primesvt_deploy.progress import PlannedStage
from primesvt_deploy.progress.bars import View
from primesvt_deploy.progress.shown import Lines

DEMO = """
import time
from primesvt_deploy.progress import PlannedStage
from primesvt_deploy.progress.choose import shown_progress
with shown_progress() as progress:
    progress.plan([PlannedStage("first", 10), PlannedStage("second", 10)])
    progress.stage("first", 1)
    progress.advance(5, 10)
    time.sleep(0.6)
    progress.step("done")
    progress.message("a word")
    progress.stage("second", 2)
"""


def in_a_terminal(program: str = DEMO, *, code: int = 0, **environment: str) -> str:
    """What a program that ends with a code writes to a terminal of 80 columns."""
    main, other = pty.openpty()
    variables = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=other, stdout=other, stderr=other, env=variables
    ) as running:
        os.close(other)
        parts = []
        while True:
            try:
                part = os.read(main, 65536)
            except OSError:  # the program has ended
                break
            if not part:
                break
            parts.append(part)
    os.close(main)
    assert running.returncode == code
    return b"".join(parts).decode()


ENDED = """
import os, signal
from primesvt_deploy.progress.choose import shown_progress
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with shown_progress() as progress:
    progress.stage("first", 1)
    os.kill(os.getpid(), signal.{})
"""
INTERRUPTED = """
import signal, sys
import rich.live
from primesvt_deploy.progress.choose import shown_progress
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupting(rich.live._RefreshThread):
    def start(self):
        signal.raise_signal(signal.SIGINT)

def hook(_self, _hook):
    signal.raise_signal(signal.SIGINT)

if {!r}:
    rich.console.Console.push_render_hook = hook
else:
    rich.live._RefreshThread = Interrupting
try:
    with shown_progress() as progress:
        sys.exit(3)
except KeyboardInterrupt:
    pass
"""


@pytest.mark.parametrize("ending", ["SIGTERM", "SIGHUP"])
def test_a_signal_leaves_the_cursor_shown_and_ends_the_program(ending: str) -> None:
    code = -getattr(signal, ending)
    said = in_a_terminal(ENDED.format(ending), code=code, TERM="xterm-256color")
    assert said.count("\x1b[?25l") == 1 and said.endswith("\x1b[?25h")


@pytest.mark.parametrize("early", [True, False])
def test_an_interrupt_as_it_begins_leaves_the_cursor_shown(early: bool) -> None:
    said = in_a_terminal(INTERRUPTED.format(early), code=0)
    assert "\x1b[?25l" in said and said.endswith("\x1b[?25h")
    assert "Traceback" not in said


def drawn(shown: Lines, columns: int) -> list[str]:
    console = Console(file=io.StringIO(), width=columns, color_system=None, force_terminal=False)
    console.print(View(shown))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.fixture
def half_way() -> Lines:
    clock = Clock()
    shown = Lines(now=clock)
    shown.plan([PlannedStage("dense accuracy", 300.0), PlannedStage("held-out accuracy", 600.0)])
    shown.stage("dense accuracy", 1)
    clock.wait(150.0)
    shown.advance(150, 300)
    return shown


def test_both_bars_tell_counts_and_times(half_way: Lines) -> None:
    stage, overall = drawn(half_way, 80)
    assert re.fullmatch(r"dense accuracy +━+[╸╺]? +150/300 images 2:30 *", stage)
    assert re.fullmatch(r"in all +━+[╸╺]? +2:30, about 12 min left *", overall)
    assert stage.index("━") == overall.index("━")


@pytest.mark.parametrize("columns", [20, 30, 40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(half_way: Lines, columns: int) -> None:
    half_way.stage("a stage with a name that is far too long for a line", 5000, "things to count")
    half_way.advance(3, 4)
    half_way.step("a result in many words " * 10)
    half_way.advance(3, 4)
    lines = drawn(half_way, columns)
    assert len(lines) == 3
    assert all(len(line) < columns for line in lines)
    assert columns < 40 or "1/5,000" in lines[0]


def test_a_terminal_is_left_as_it_was() -> None:
    text = in_a_terminal()
    assert "in all" in text and "5/10 images" in text
    assert re.search(r"\[ 0:0\d\] first: done, 5 images, \d\.\d s", text)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor is hidden"
    assert "\x1b[" in text.replace("\x1b[?25", "")


def test_no_color_leaves_no_colour_and_no_bold() -> None:
    text = in_a_terminal(NO_COLOR="1")
    assert "in all" in text
    assert not re.search(r"\x1b\[[0-9;]*m", text)


def test_a_dumb_terminal_gets_lines() -> None:
    text = in_a_terminal(TERM="dumb")
    assert "\x1b" not in text
    lines = [line.partition("] ")[2] for line in text.splitlines()]
    assert lines[0].startswith("first: done, 5 images, 0.")
    assert lines[1] == "a word"
    assert lines[2].startswith("second: 0 of 2 steps, 0.")
