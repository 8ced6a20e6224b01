"""A private session: its workers are repaired, their errors told, and nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray_sessions import children, needs_ray, runs, two_workers

from primesvt_deploy.cluster import crew as crews
from primesvt_deploy.cluster.crew import Crew, WorkerLostError
from primesvt_deploy.cluster.session import RaySession
from primesvt_deploy.errors import ClusterError, DataError

pytestmark = [needs_ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


class Counter:
    """Counts from a start."""

    def __init__(self, start: int, step: Any) -> None:
        self.value, self.step = start, int(step)

    def threads(self) -> int:
        import torch

        return torch.get_num_threads()

    def add(self) -> int:
        self.value += self.step
        return self.value

    def total(self, values: Any) -> float:
        return float(values().sum())

    def refuse(self) -> None:
        raise DataError("no such image")

    def fail(self) -> None:
        raise ZeroDivisionError("a mistake of ours")

    def die(self) -> None:
        os._exit(1)

    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds


@pytest.fixture(scope="module")
def session() -> Iterator[RaySession]:
    with two_workers() as opened:
        yield opened


@pytest.fixture(scope="module")
def crew(session: RaySession) -> Iterator[Crew]:
    step = session.put(5)
    with session.spawn(Counter, lambda number: (10 * number, step), restarts=2) as spawned:
        yield spawned


def test_calls_and_values(crew: Crew) -> None:
    assert len(crew) == 2
    assert crew.results([crew.submit(i, "add") for i in (1, 0, 1)]) == [15, 5, 20]
    assert crew.result(crew.submit(0, "total", crew.put(np.ones(1000)))) == 1000.0
    assert crew.results([crew.submit(i, "threads") for i in (0, 1)]) == [1, 1]


def test_the_first_that_is_done(crew: Crew) -> None:
    slow, fast = crew.submit(0, "sleep", 2.0), crew.submit(1, "sleep", 0.0)
    assert crew.first_done([slow, fast]) == fast
    assert crew.results([slow, fast]) == [2.0, 0.0]


def test_errors_of_a_worker(crew: Crew) -> None:
    with pytest.raises(DataError, match=r"^no such image$"):
        crew.result(crew.submit(0, "refuse"))
    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        crew.result(crew.submit(1, "fail"))


def test_a_killed_worker_is_replaced_and_its_call_repeated(
    crew: Crew, capfd: pytest.CaptureFixture[str]
) -> None:
    before = crew.processes()
    call = crew.submit(1, "sleep", 0.5)
    os.kill(before[1], signal.SIGKILL)
    assert crew.result(call) == 0.5
    assert crew.result(crew.submit(1, "add")) == 15  # made anew of the same arguments
    after = crew.processes()
    assert after[0] == before[0] and after[1] != before[1]
    time.sleep(0.5)  # Ray tells its user a moment later
    assert capfd.readouterr() == ("", "")


def test_a_worker_that_dies_each_time_is_given_up(session: RaySession) -> None:
    with session.spawn(Counter, lambda number: (0, 1), restarts=1) as spawned:
        with pytest.raises(ClusterError, match="a worker was started 2 times and is lost again"):
            spawned.result(spawned.submit(0, "die"))
        assert spawned.result(spawned.submit(1, "add")) == 1


def test_a_cluster_that_stays_too_small_ends_the_wait(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(crews, "_REPLACED_SECONDS", 0.3)
    monkeypatch.setattr(crew, "_demands", {"GPU": 1.0})
    with pytest.raises(WorkerLostError, match="0 GPUs are left for 2 workers; run the same"):
        crew.result(crew.submit(0, "sleep", 2.0))


def test_it_listens_on_this_machine_alone(crew: Crew) -> None:
    sockets = {
        link for process in {os.getpid(), *children(os.getpid())} for link in open_files(process)
    }
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                listening.append(fields[1].partition(":")[0])
    assert len(listening) >= 3
    # 127.0.0.1 in the kernel's words, in IPv4, as an IPv6 address of it, and ::1
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "0" * 24 + "01000000"}
    assert set(listening) <= loopback


def open_files(process: int) -> list[str]:
    try:
        return [os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir()]
    except OSError:
        return []


PROGRAM = """
import signal
import time
from primesvt_deploy.cluster.session import RaySession
from primesvt_deploy.settings import ComputeSettings

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where tests run in background
with RaySession(ComputeSettings(workers=2, device="cpu")) as session:
    with session.spawn(dict, lambda number: ()) as crew:
        crew.results([crew.submit(i, "copy") for i in range(2)])
        print("ready", flush=True)
        time.sleep(100)
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)]
)
def test_nothing_is_left_of_one_that_is_interrupted(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    # What waits for a line that never comes would wait on.
    ends = threading.Timer(90, child.kill)
    ends.start()
    assert child.stdout.readline() == "ready\n"
    started = children(child.pid)
    assert len(started) >= 4
    os.killpg(child.pid, number)  # as a terminal does
    _, told = child.communicate(timeout=60)
    ends.cancel()
    assert child.returncode == status, told
    assert not [process for process in started if runs(process)]
    assert not list(folder.iterdir())
    if number is signal.SIGTERM:
        assert told == ""
