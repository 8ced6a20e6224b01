"""Progress in a pipe: a line a stage, none with control characters, one a minute in long ones."""

from __future__ import annotations

import pytest
from progress.clocks import Clock

from primesvt_deploy.progress import PlannedStage
from primesvt_deploy.progress.shown import Lines


@pytest.fixture
def clock() -> Clock:
    return Clock()


def a_build(lines: Lines, clock: Clock) -> None:
    with lines:
        lines.stage("dense accuracy", 1)
        for done in (100, 200):
            lines.advance(done, 200)
        clock.wait(8.0)
        lines.step("95.00%")
        lines.stage("robustness", 4, "points of 2 layers")
        for number in range(4):
            lines.advance(25, 50)
            clock.wait(20.05)
            lines.step(f"layer at {number}0%: \x1b[31mred\n")
        lines.stage("prioritized policy", 11, "steps down")
        lines.step("layer at 30%: 3.90 MB")
        lines.stage("export", 2, "")
        lines.step()
        lines.step("1.00 MB")
        lines.stage("held-out accuracy", 2, "models")
        for name in ("dense 81%", "shipped 80%"):
            lines.advance(1000, 1000)
            lines.step(name)


def test_each_stage_gets_a_line_with_its_counts_and_time(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    a_build(Lines(now=clock), clock)
    out, err = capsys.readouterr()
    assert not out
    assert err.splitlines() == [
        "[ 0:08] dense accuracy: 95.00%, 200 images, 8.0 s",
        "[ 1:08] robustness: 3/4 points of 2 layers, about 20 s left",
        "[ 1:28] robustness: 4 points of 2 layers, 100 images, 80.2 s",
        "[ 1:28] prioritized policy: layer at 30%: 3.90 MB, 1 of 11 steps down, 0.0 s",
        "[ 1:28] export: 1.00 MB, 0.0 s",
        "[ 1:28] held-out accuracy: dense 81%, shipped 80%, 2 models, 2,000 images, 0.0 s",
    ]


def test_verbose_lines_have_the_result_of_each_step_and_obey_nothing(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    a_build(Lines(verbose=True, now=clock), clock)
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "robustness: layer at 20%: \\x1b[31mred\\n" in err
    assert err.count("dense accuracy") == 1


def test_a_long_stage_tells_of_itself_every_minute_with_the_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Lines(now=clock) as lines:
        lines.plan([PlannedStage("dense accuracy", 600.0), PlannedStage("rest", 600.0)])
        lines.stage("dense accuracy", 1)
        for done in range(600):
            clock.wait(1.0)
            lines.advance(done + 1, 600)
    told = [line for line in capsys.readouterr().err.splitlines() if "left" in line]
    assert len(told) in (9, 10)
    assert told[0] == "[ 1:00] dense accuracy: 60/600 images, about 19 min left in all"


def test_a_stage_that_failed_is_not_told_as_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError), Lines(now=clock) as lines:
        lines.stage("one", 1)
        lines.stage("two", 1)
        raise ValueError
    assert capsys.readouterr().err == "[ 0:00] one: 0.0 s\n"


def test_bytes_are_megabytes(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Lines(now=clock) as lines:
        lines.stage("fetching", 2, "")
        lines.advance(9_100_000, 0, "bytes")
        lines.step()
        lines.advance(1_000_000, 50_000_000, "bytes")
        clock.wait(61.0)
        lines.advance(30_000_000, 50_000_000, "bytes")
        lines.advance(50_000_000, 50_000_000, "bytes")
        lines.step()
    assert capsys.readouterr().err.splitlines() == [
        "[ 1:01] fetching: 30.0/50.0 MB, about 20 s left",
        "[ 1:01] fetching: 59.1 MB, 61.0 s",
    ]


def test_a_table_stands_below_its_message(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Lines(now=clock) as lines:
        lines.message("sizes:", "| a | b |", "| \x1b[2J | 2 |")
    err = capsys.readouterr().err
    assert err.splitlines() == ["[ 0:00] sizes:", "| a | b |", r"| \x1b[2J | 2 |"]
