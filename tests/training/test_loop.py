"""The training loop: what is called when, and what a resumed one still does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from primesvt_deploy.training.loop import Trainer, TrainingLoop, load_state, save_state


class Total:
    """A part whose state is a number."""

    value = 0

    def state_dict(self) -> int:
        return self.value

    def load_state_dict(self, state: int, /) -> None:
        self.value = state


class Recorder(Trainer[int]):
    """Adds batches up, and notes each call; stops after a step, fails where an epoch ends."""

    def __init__(self, *, stop_at: int = 0, fail_at: int = 0, save_seconds: float = 1e9) -> None:
        self.total, self.calls, self.states = Total(), list[str](), list[dict[str, Any]]()
        self.loop = TrainingLoop(
            epochs=2, steps_per_epoch=3, parts={"total": self.total}, save_seconds=save_seconds
        )
        self._stop_at, self._fail_at = stop_at, fail_at

    def go(self) -> Recorder:
        self.loop.run(self, range(self.loop.step, self.loop.total))
        return self

    def train_step(self, batch: int) -> None:
        assert batch == self.loop.step
        self.total.value += batch
        self.calls.append(f"step {batch}")

    def after_step(self, seconds: float) -> None:
        assert seconds >= 0.0

    def end_epoch(self) -> None:
        self.calls.append(f"epoch {self.loop.epoch}")
        if self.loop.epoch == self._fail_at:
            raise ValueError

    def save(self, state: dict[str, Any]) -> None:
        self.calls.append("save")
        self.states.append(state)

    def should_stop(self) -> bool:
        return self.loop.step == self._stop_at


EPOCHS = [
    "step 0", "step 1", "step 2", "save", "epoch 1",
    "step 3", "step 4", "step 5", "save", "epoch 2",
]  # fmt: skip


def test_an_epoch_is_saved_before_it_ends() -> None:
    whole = Recorder().go()
    assert whole.calls == EPOCHS
    assert whole.loop.done and whole.total.value == 15
    assert whole.loop.seconds > 0.0


def test_every_step_is_saved_where_no_time_may_be_lost() -> None:
    assert Recorder(save_seconds=-1.0).go().calls.count("save") == 6


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_stopped_it_goes_on_at_the_next_step(stop_at: int) -> None:
    stopped = Recorder(stop_at=stop_at).go()
    assert stopped.loop.step == stop_at and not stopped.loop.done
    assert stopped.states[-1].keys() == stopped.loop.keys
    resumed = Recorder()
    resumed.loop.resume(stopped.states[-1])
    resumed.go()
    assert resumed.loop.done and resumed.total.value == 15
    steps = [call for call in [*stopped.calls, *resumed.calls] if call != "save"]
    assert steps == [call for call in EPOCHS if call != "save"]
    assert resumed.loop.seconds > stopped.loop.seconds


def test_what_fails_at_an_epochs_end_loses_no_step() -> None:
    failing = Recorder(fail_at=1)
    with pytest.raises(ValueError):
        failing.go()
    assert failing.states[-1]["step"] == 3


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"step": 3, "weight": torch.arange(4.0), "losses": [0.1]})
    state = load_state(path, {"step", "losses"})
    assert state["step"] == 3 and state["losses"] == [0.1]
    assert torch.equal(state["weight"], torch.arange(4.0))
    with pytest.raises(ValueError, match="has no optimizer"):
        load_state(path, {"step", "optimizer"})
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="holds no state"):
        load_state(path, {"step"})
    with pytest.raises(OSError):
        load_state(tmp_path / "none.pt", {"step"})
