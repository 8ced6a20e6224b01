#!/usr/bin/env python3
"""Record commands in a terminal as an animated SVG, as docs/images/build.svg was made.

Each command is typed at a prompt and runs in a pseudo-terminal; what the screen shows is sampled,
and the whole is played in `--seconds`, however long it took: the caption says how long that was.
Where a reader prefers no motion, the last screen is shown.

    python tools/record_terminal.py docs/images/build.svg \
        'primesvt-deploy build --budget-mb 4.2 --policy greedy --held-out-images 1000 --force' \
        'primesvt-deploy run bundle photo.jpg'
"""

from __future__ import annotations

import argparse
import fcntl
import html
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyte

_CELL = (8.4, 18.0)
"""Width and height of a character, pixels at a font size of 14."""
_MARGIN = 14.0
_SAMPLE_SECONDS = 0.1
_MOST_FRAMES = 240
_TYPING_FRAMES = 12
_LAST_SHARE = 0.15
"""Share of the time that the last screen stays."""
_PROMPT = "$ "
_INK, _PAPER = "#d7dae0", "#1b1f27"
_COLOURS = {
    "black": "#5c6370",
    "red": "#e06c75",
    "green": "#98c379",
    "brown": "#e5c07b",
    "blue": "#61afef",
    "magenta": "#c678dd",
    "cyan": "#56b6c2",
    "white": _INK,
    "default": _INK,
}


@dataclass(frozen=True)
class Run:
    """Neighbouring characters of one style."""

    column: int
    text: str
    colour: str
    bold: bool


Row = tuple[Run, ...]
Screen = tuple[Row, ...]


@dataclass(frozen=True)
class Frame:
    """What the screen shows from a time on, in seconds since the start."""

    begins: float
    screen: Screen


def record(commands: Sequence[str], *, columns: int, rows: int) -> Iterator[Frame]:
    """The frames of all commands, run one after the other; each must end with exit code 0.

    Args:
        commands: for the shell.
        columns: of the terminal.
        rows: of the terminal.
    """
    screen = pyte.Screen(columns, rows)
    stream = pyte.ByteStream(screen)
    begun = time.monotonic()
    for command in commands:
        for end in sorted({len(command) * i // _TYPING_FRAMES for i in range(_TYPING_FRAMES + 1)}):
            stream.feed(f"\r{_PROMPT}{command[:end]}".encode())
            yield Frame(time.monotonic() - begun, _shown(screen))
            time.sleep(_SAMPLE_SECONDS)
        stream.feed(b"\r\n")
        for chunk in _output(command, columns=columns, rows=rows):
            stream.feed(chunk)
            yield Frame(time.monotonic() - begun, _shown(screen))
    stream.feed(_PROMPT.encode())
    yield Frame(time.monotonic() - begun, _shown(screen))


def _output(command: str, *, columns: int, rows: int) -> Iterator[bytes]:
    """What a command writes to its terminal, a sample at a time."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        command, shell=True, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    ended = False
    while not ended:
        held, until = b"", time.monotonic() + _SAMPLE_SECONDS
        while (left := until - time.monotonic()) > 0 and not ended:
            if select.select([ours], [], [], left)[0]:
                try:
                    read = os.read(ours, 65536)
                except OSError:  # Linux says so where the other end is closed
                    read = b""
                held, ended = held + read, not read
        if held:
            yield held
    os.close(ours)
    if process.wait() != 0:
        raise SystemExit(f"{command!r} ended with exit code {process.returncode}")


def _shown(screen: pyte.Screen) -> Screen:
    """The screen as runs of equal style."""
    return tuple(tuple(_runs(screen, y)) for y in range(screen.lines))


def _runs(screen: pyte.Screen, y: int) -> Iterator[Run]:
    column, text, style = 0, "", ("default", False)
    for x in range(screen.columns):
        cell = screen.buffer[y][x]
        here = (cell.fg, cell.bold)
        if here != style:
            if text.strip():
                yield Run(column, text.rstrip(), *style)
            column, text, style = x, "", here
        text += cell.data
    if text.strip():
        yield Run(column, text.rstrip(), *style)


def thinned(frames: Sequence[Frame]) -> list[Frame]:
    """At most `_MOST_FRAMES` of the frames that differ from the one before, evenly over time."""
    changed = [f for i, f in enumerate(frames) if i == 0 or f.screen != frames[i - 1].screen]
    step = frames[-1].begins / _MOST_FRAMES
    kept: list[Frame] = []
    for frame in changed:
        if kept and frame.begins - kept[-1].begins < step:
            kept[-1] = Frame(kept[-1].begins, frame.screen)
        else:
            kept.append(frame)
    return kept


def svg(frames: Sequence[Frame], *, columns: int, rows: int, seconds: float, caption: str) -> str:
    """The animation: all screens in a column, of which a window shows one after the other.

    Args:
        frames: at least one.
        columns: of the terminal.
        rows: of the terminal.
        seconds: that one turn takes.
        caption: is written below.
    """
    width = columns * _CELL[0] + 2 * _MARGIN
    tall = rows * _CELL[1]
    named: dict[Row, str] = {}
    screens = []
    for index, frame in enumerate(frames):
        for y, row in enumerate(frame.screen):
            if row:
                name = named.setdefault(row, f"r{len(named)}")
                top = index * tall + y * _CELL[1]
                screens.append(f'<use href="#{name}" y="{top:g}"/>')
    lines = "\n".join(f'<g id="{name}">{_row(row)}</g>' for row, name in named.items())
    ends = frames[-1].begins or 1.0
    steps = [
        f"{100 * (1 - _LAST_SHARE) * frame.begins / ends:.3f}%"
        f"{{transform:translateY({-index * tall:g}px)}}"
        for index, frame in enumerate(frames)
    ]
    last = f"translateY({-(len(frames) - 1) * tall:g}px)"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {tall + 70:g}" \
width="{width:g}" height="{tall + 70:g}" role="img" aria-label="{html.escape(caption)}">
<style>
text {{ font: 14px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: {_INK};
  white-space: pre }}
.b {{ font-weight: bold }}
#film {{ transform: {last}; animation: play {seconds:g}s step-end infinite }}
@keyframes play {{ {" ".join(steps)} 100%{{transform:{last}}} }}
@media (prefers-reduced-motion: reduce) {{ #film {{ animation: none }} }}
</style>
<defs>
{lines}
</defs>
<rect width="100%" height="100%" rx="8" fill="{_PAPER}"/>
<svg x="{_MARGIN:g}" y="{_MARGIN:g}" width="{width - 2 * _MARGIN:g}" height="{tall:g}">
<g id="film">
{"".join(screens)}
</g>
</svg>
<text x="{_MARGIN:g}" y="{tall + 50:g}" style="fill:#8b93a1">{html.escape(caption)}</text>
</svg>
"""


def _row(row: Row) -> str:
    return "".join(_run(run) for run in row)


def _run(run: Run) -> str:
    place = f'x="{run.column * _CELL[0]:g}" y="14" textLength="{len(run.text) * _CELL[0]:g}"'
    weight = ' class="b"' if run.bold else ""
    return f"<text {place}{weight}{_fill(run.colour)}>{html.escape(run.text)}</text>"


def _fill(colour: str) -> str:
    name = colour.removeprefix("bright")
    if name == "default":
        return ""
    known = _COLOURS.get(name) or f"#{name}"
    return f' style="fill:{known}"'


def main() -> None:
    """Record, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the SVG file")
    parser.add_argument("commands", nargs="+", help="run by the shell, one after the other")
    parser.add_argument("--columns", type=int, default=96)
    parser.add_argument("--rows", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=30.0, help="that one turn takes")
    chosen = parser.parse_args()
    size = {"columns": chosen.columns, "rows": chosen.rows}
    frames = list(record(chosen.commands, **size))
    took = frames[-1].begins
    minutes = f"{took / 60:.0f} minutes" if took >= 90 else f"{took:.0f} seconds"
    caption = f"{minutes} on this machine's {os.cpu_count()} cores, played in {chosen.seconds:g} s"
    drawn = svg(thinned(frames), **size, seconds=chosen.seconds, caption=caption)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(drawn, encoding="utf-8")
    print(f"{chosen.output}: {len(drawn) / 1000:.0f} kB, {took:.0f} s recorded", file=sys.stderr)


if __name__ == "__main__":
    main()
