"""Processes that decode images: the same samples, the same errors, and none is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from listed_images import FRAMES, STEPS, everything, image_files
from recorded_progress import Recorded

from primesvt_deploy.data.decoders import cropped
from primesvt_deploy.data.loading import decoded, loading_workers
from primesvt_deploy.data.pixel_cache import cached, read_ahead
from primesvt_deploy.errors import DeployError

WORKERS = 2


def children() -> list[int]:
    """Processes that this one has started and that are still there."""
    found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in found.split()]


@pytest.fixture
def _two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primesvt_deploy.data.pixel_cache.loading_workers", lambda _: WORKERS)


@pytest.mark.parametrize("steps", [STEPS, FRAMES])
def test_processes_decode_the_same_in_order(tmp_path: Path, steps: Any) -> None:
    images = image_files(tmp_path, 50, steps)
    numbers = np.random.default_rng(0).permutation(50)[:37]
    before, state = children(), torch.get_rng_state()
    found = list(decoded(images.decode, steps, numbers, WORKERS))  # type: ignore[arg-type]
    expected = [cropped(steps, images.decode(int(number))) for number in numbers]
    assert len(found) == 37
    assert all(map(np.array_equal, found, expected))
    assert children() == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("bad", ["damaged", "gone"])
@pytest.mark.usefixtures("_two_workers")
def test_the_first_bad_image_is_named_as_ever(tmp_path: Path, bad: str) -> None:
    images = image_files(tmp_path, 60)
    for number in (23, 41):
        file = tmp_path / f"{number:05}.png"
        if bad == "gone":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DeployError) as expected:
        everything(images)
    before = children()
    kept = cached(images, None)
    with pytest.raises(DeployError) as caught:
        read_ahead(kept)
    assert str(caught.value) == str(expected.value)
    assert type(caught.value) is type(expected.value)
    assert f"{tmp_path / '00023.png'}:" in str(caught.value)
    assert children() == before
    assert np.array_equal(kept.inputs(0, 23), images.inputs(0, 23))


@pytest.mark.usefixtures("_two_workers")
def test_what_a_killed_process_leaves_is_decoded_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, progress, before = image_files(tmp_path, 300), Recorded(), children()
    told = progress.advance

    def advance(done: int, total: int, unit: str = "images") -> None:
        told(done, total, unit)
        if done == 20:
            for child in set(children()) - set(before):
                os.kill(child, signal.SIGKILL)

    monkeypatch.setattr(progress, "advance", advance)
    kept = cached(images, None, progress)
    read_ahead(kept, progress)
    assert np.array_equal(everything(kept), everything(images))
    (message,) = progress.messages
    assert message.startswith("note: processes that read images ended (DataLoader worker")
    assert "\n" not in message
    assert children() == before


_INTERRUPTED = """
import signal, sys, time
from pathlib import Path
from listed_images import listed
from primesvt_deploy.data import pixel_cache
from primesvt_deploy.progress import Silent
pixel_cache.loading_workers = lambda count: 2
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where tests run in background
root = Path(sys.argv[1])
class Told(Silent):
    def advance(self, done, total, unit="images"):
        print(done, flush=True)
        time.sleep(0.01)
images = listed(root, tuple(sorted(p.name for p in root.iterdir())))
pixel_cache.read_ahead(pixel_cache.cached(images, None), Told())
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGKILL"])
def test_no_process_outlives_the_one_that_reads(tmp_path: Path, how: str) -> None:
    image_files(tmp_path, 400)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert child.stdout is not None and child.stderr is not None
    while int(child.stdout.readline()) < 30:
        pass
    if how == "Ctrl-C":
        os.killpg(child.pid, signal.SIGINT)  # a terminal sends it to all of them
    else:
        child.send_signal(getattr(signal, how))
    errors = child.communicate(timeout=30)[1]
    assert child.returncode != 0
    assert errors.count("Traceback") <= (how == "Ctrl-C")
    deadline = time.monotonic() + 20.0
    while _in_session(child.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _in_session(child.pid)


def _in_session(session: int) -> list[int]:
    """Processes of a session, as /proc tells."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_few_images_and_one_core_need_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    assert loading_workers(128) == 0
    assert loading_workers(256) == 2
    assert loading_workers(100_000) == 4
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert loading_workers(100_000) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert loading_workers(100_000) == 0


def test_a_daemon_starts_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    process = multiprocessing.current_process()
    monkeypatch.setitem(process._config, "daemon", True)  # type: ignore[attr-defined]
    assert loading_workers(100_000) == 0
