"""A recording shows what the terminal showed, and is a whole SVG file."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from record_terminal import record, svg, thinned

TEXT = "{http://www.w3.org/2000/svg}text"


def test_a_recording_has_the_command_its_output_and_its_colours() -> None:
    command = r"printf '\033[31mred <&>\033[0m and plain\n'; sleep 0.3; printf 'late\n'"
    frames = list(record([command], columns=80, rows=6))
    times = [frame.begins for frame in frames]
    assert times == sorted(times)
    drawn = svg(thinned(frames), columns=80, rows=6, seconds=5.0, caption="5 s")
    texts = {
        (e.text or "").strip(): e.get("style") for e in ElementTree.fromstring(drawn).iter(TEXT)
    }
    assert texts["red <&>"] == "fill:#e06c75"
    assert texts["and plain"] is None
    assert "late" in texts and "5 s" in texts
    first = next(f for f in frames if any(r.text == "red <&>" for row in f.screen for r in row))
    assert not any(run.text == "late" for row in first.screen for run in row)


def test_a_command_that_fails_ends_the_recording() -> None:
    with pytest.raises(SystemExit, match="'exit 3' ended with exit code 3"):
        list(record(["exit 3"], columns=20, rows=2))
