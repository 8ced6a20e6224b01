"""The device's side alone: no SSH in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from devices.ssh.conftest import until

from primesvt_deploy.edge.bench import detached, follow
from primesvt_deploy.edge.bench.detached import Guard


@contextmanager
def guarding(directory: Path, patience_s: float = 30.0) -> Iterator[threading.Thread]:
    """A guard at work on a directory of its own; whatever it runs has ended afterwards."""
    directory.mkdir()
    (directory / "alive").touch()
    thread = threading.Thread(target=Guard(directory, patience_s=patience_s).watch)
    thread.start()
    try:
        yield thread
    finally:
        (directory / "alive").unlink(missing_ok=True)
        thread.join(10)
        assert not thread.is_alive()
        assert not directory.exists()


def order(directory: Path, number: int, *argv: str) -> None:
    (directory / "new").write_text(json.dumps({"argv": argv}))
    (directory / "new").rename(directory / f"command-{number}.json")


def test_commands_run_one_after_the_other(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with guarding(place):
        order(place, 0, "sh", "-c", "echo one; echo no >&2; exit 3")
        order(place, 1, "sh", "-c", "printf two; kill -KILL $$")
        order(place, 2, "/no/such/program")
        until(lambda: len(follow.ends(place)) == 3)
        assert follow.ends(place) == {0: 3, 1: -signal.SIGKILL, 2: 127}
        assert (place / "error-0.log").read_text() == "no\n"
        assert (place / "error-2.log").read_text().startswith("error: /no/such/program: ")
        assert list(follow.progress(place, 0, whole=False)) == [(4, "one")]
        assert list(follow.progress(place, 4, whole=True)) == [(7, "two")]
        assert follow.guarded(place)
    assert not follow.guarded(place)


def test_workers_that_outlive_their_leader_are_ended(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with guarding(place):
        order(place, 0, "sh", "-c", "sleep 600 & echo $!")
        until(lambda: follow.ends(place))
        worker = int((place / "progress.log").read_text())
        until(lambda: not running(worker))


def test_one_that_ignores_the_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detached, "_GRACE_S", 0.3)
    place = tmp_path / "place"
    with guarding(place, patience_s=0.5) as thread:
        order(place, 0, "sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.1; done")
        log = place / "progress.log"
        until(lambda: log.exists() and log.read_text().endswith("\n"))
        leader = int(log.read_text())
        thread.join(10)
        assert not running(leader)


def running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_alive_keeps_it_going_and_silence_ends_it(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with guarding(place, patience_s=0.6) as thread:
        for _ in range(4):
            os.utime(place / "alive")
            thread.join(0.3)
            assert thread.is_alive()
        thread.join(10)
        assert not place.exists()


def test_the_follower_says_what_happens_from_an_offset_on(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with guarding(place):
        order(place, 0, "sh", "-c", "echo one; echo two; exit 4")
        until(lambda: follow.ends(place))
        before = (place / "alive").stat().st_mtime_ns
        said = following(place, 4, "x")
        assert said == ["p 8 two", "e 0 4"]
        assert (place / "alive").stat().st_mtime_ns > before
    assert following(place, 0, "x") == ["gone"]


def test_the_follower_leaves_alive_alone_without_a_word(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with guarding(place):
        before = (place / "alive").stat().st_mtime_ns
        assert following(place, 0, "") == []
        assert (place / "alive").stat().st_mtime_ns == before


def following(place: Path, offset: int, words: str) -> list[str]:
    """What a follower prints that hears some words, and the end of them a moment later."""
    follower = subprocess.Popen(
        [sys.executable, "-m", "primesvt_deploy.edge.bench.follow", str(place), str(offset)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdin is not None
    assert follower.stdout is not None
    lines = []
    if words:
        follower.stdin.write(words)
        follower.stdin.flush()
        for line in follower.stdout:
            lines.append(line.rstrip())
            if line.startswith(("e ", "gone")):
                break
    follower.stdin.close()
    assert follower.wait(10) == 0
    return lines
