"""Ctrl-C is never lost, wherever in a command it falls."""

from __future__ import annotations

import gc
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from primesvt_deploy.cli import cli, exit_code
from primesvt_deploy.cli.interrupt import lost_interrupts_repeated


class Thing:
    """Something that can be referred to."""


class Finalized:
    """Interrupts as it goes."""

    def __del__(self) -> None:
        interrupt()


def interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Where tests run in the background, SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def in_a_weakref_callback() -> None:
    thing = Thing()
    reference = weakref.ref(thing, interrupt)
    del thing
    assert reference() is None


def in_a_finalizer() -> None:
    Finalized()


def in_the_garbage_collector() -> None:
    gc.callbacks.append(interrupt)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(interrupt)


@pytest.mark.parametrize(
    "place", [in_a_weakref_callback, in_a_finalizer, in_the_garbage_collector, interrupt]
)
def test_an_interrupt_ends_what_runs(
    place: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    before, begun = sys.unraisablehook, time.monotonic()
    with pytest.raises(KeyboardInterrupt), lost_interrupts_repeated():
        place()
        while time.monotonic() < begun + 10.0:
            time.sleep(0.001)
    assert time.monotonic() < begun + 5.0
    assert sys.unraisablehook is before
    assert capsys.readouterr().err == ""


def test_what_else_cannot_be_raised_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: told.append(str(dropped.exc_value)))
    thing = Thing()
    reference = weakref.ref(thing, lambda _: 1 // 0)
    with lost_interrupts_repeated():
        del thing
    assert reference() is None
    assert len(told) == 1 and "zero" in told[0]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("build", "interrupted; it goes on where it was when run again\n"),
        ("doctor", "interrupted\n"),
    ],
)
def test_what_goes_on_when_run_again_is_told_so(
    command: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["primesvt-deploy", command])
    monkeypatch.setattr(cli, "main", interrupted)
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))  # only the process ends for it
    assert (exit_code(), capsys.readouterr().err) == (130, said)
