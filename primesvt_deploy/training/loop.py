"""A resumable training loop: one that was cut off ends with the weights of one that was not.

The random numbers of a step, and its samples, must depend on seed and step alone. Then weights,
optimizer and the number of steps done are the whole state, and on a CPU a resumed training ends
with the same weights bit for bit.
"""

from __future__ import annotations

import io
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.training.strided_pointwise import subsampled_pointwise

__all__ = ["Stateful", "Trainer", "TrainingLoop", "load_state", "on_cpu", "save_state"]

_Batch = TypeVar("_Batch")


class Stateful(Protocol):
    """Something whose state is saved and resumed: a network, an optimizer, running losses."""

    def state_dict(self) -> Any:
        """Tensors and plain values, as `torch.load(weights_only=True)` reads them."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Take a state over."""


class Trainer(ABC, Generic[_Batch]):
    """The steps of one kind of training; `TrainingLoop` calls its methods."""

    @abstractmethod
    def train_step(self, batch: _Batch) -> None:
        """Forward pass, backward pass, update; the loop still has the number of this step."""

    @abstractmethod
    def after_step(self, seconds: float) -> None:
        """Report a step that is counted already.

        Args:
            seconds: that it took, with fetching its batch.
        """

    @abstractmethod
    def end_epoch(self) -> None:
        """Evaluate or report an epoch whose state is saved."""

    @abstractmethod
    def save(self, state: dict[str, Any]) -> None:
        """Keep a state: by the end of each epoch, where training stops, every `save_seconds`."""

    def should_stop(self) -> bool:
        """Whether to save and end after this step, though steps are left."""
        return False

    def agreed(self, flag: bool) -> bool:
        """Decision that all processes which train together share: their clocks differ."""
        return flag


class TrainingLoop:
    """Runs the steps of a training that are left, and saves its state.

    Args:
        epochs: in all.
        steps_per_epoch: steps of each epoch.
        parts: what has state beside the position, by its name in the saved state.
        save_seconds: seconds between two saves.

    Attributes:
        step: steps done.
        seconds: seconds they took, over all runs.
    """

    def __init__(
        self,
        *,
        epochs: int,
        steps_per_epoch: int,
        parts: Mapping[str, Stateful],
        save_seconds: float,
    ) -> None:
        self.steps_per_epoch, self.total = steps_per_epoch, epochs * steps_per_epoch
        self._parts, self._save_seconds = dict(parts), save_seconds
        self.step, self.seconds = 0, 0.0

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last step that was done ended an epoch."""
        return self.step > 0 and self.step % self.steps_per_epoch == 0

    @property
    def done(self) -> bool:
        """Whether no step is left."""
        return self.step >= self.total

    @property
    def keys(self) -> frozenset[str]:
        """Names of all that a saved state holds."""
        return frozenset({"step", "seconds", *self._parts})

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where a saved state was taken.

        Raises:
            RuntimeError, ValueError, KeyError: a part refuses its state: it is another's.
        """
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self.step, self.seconds = state["step"], state["seconds"]

    def run(self, trainer: Trainer[_Batch], batches: Iterable[_Batch]) -> None:
        """Train until the batches end, or until the trainer stops.

        An epoch is ended once its state is saved: what goes wrong there loses no step.

        Args:
            trainer: does what a step consists of.
            batches: those of the steps that are left, in order.
        """
        before, started = self.seconds, time.monotonic()
        saved = begun = started
        for batch in batches:
            with subsampled_pointwise():
                trainer.train_step(batch)
            self.step += 1
            now = time.monotonic()
            self.seconds = before + now - started
            trainer.after_step(now - begun)
            stopping = trainer.should_stop()
            due = self.at_epoch_end or stopping or now - saved > self._save_seconds
            if trainer.agreed(due):
                trainer.save(self.state())
                saved = time.monotonic()
            if self.at_epoch_end:
                trainer.end_epoch()
            if trainer.agreed(stopping):
                break
            begun = time.monotonic()

    def state(self) -> dict[str, Any]:
        """Position and parts, as `resume` takes them; it changes with them."""
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        return {"step": self.step, "seconds": self.seconds, **parts}


def on_cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a state in the computer's memory."""
    content = _packed(state)
    content.seek(0)
    return dict(torch.load(content, map_location="cpu", weights_only=True))


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state to a file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    # torch.save itself says of a full disk only that writing failed.
    write_whole(path, _packed(state).getbuffer())


def _packed(state: Mapping[str, Any]) -> io.BytesIO:
    content = io.BytesIO()
    torch.save(dict(state), content)
    return content


def load_state(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """Read a state from a file, into the computer's memory.

    Args:
        path: the file.
        keys: what it must hold.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or something else.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        state = torch.load(content, map_location="cpu", weights_only=True)
        missing = set(keys) - state.keys()
    except Exception as error:  # a damaged archive raises nearly everything
        raise ValueError(f"{path} holds no state: {error}") from error
    if missing:
        raise ValueError(f"{path} has no {sorted(missing)[0]}")
    return dict(state)
