"""The log of a run: lines in its `log.jsonl`, the same in words on the terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.measure.latency import cpu_name
from primesvt_deploy.training.loop import TrainingLoop
from reference.directory import RunDirectory
from reference.execution import Execution
from reference.recipe import Training

__all__ = ["RecentLosses", "RunLog"]


class RecentLosses:
    """Losses of the steps that no line of the log has yet; part of a run's state.

    Args:
        device: where the losses are, so that adding one does not wait for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._losses: list[torch.Tensor] = []

    def __len__(self) -> int:
        """Steps since the last line."""
        return len(self._losses)

    def add(self, loss: torch.Tensor) -> None:
        """Keep a step's loss, a scalar."""
        self._losses.append(loss)

    def mean(self) -> float:
        """Mean of the losses."""
        return float(torch.stack(self._losses).mean())

    def clear(self) -> None:
        """Forget the losses: they are logged."""
        self._losses = []

    def state_dict(self) -> list[float]:
        """The losses."""
        return [float(loss) for loss in self._losses]

    def load_state_dict(self, state: list[float], /) -> None:
        """Take losses over."""
        self._losses = [torch.tensor(loss, device=self._device) for loss in state]


class RunLog:
    """Writes the lines of a run's log; only the first of several processes does.

    Args:
        directory: the run's.
        loop: where the run is.
        training: the recipe's.
        execution: how it is executed.
    """

    def __init__(
        self, directory: RunDirectory, loop: TrainingLoop, training: Training, execution: Execution
    ) -> None:
        self._directory, self._loop = directory, loop
        self._training, self._execution = training, execution
        self._images, self._seconds = 0, 0.0

    def count(self, seconds: float) -> None:
        """Count a step's images, and the seconds it took, for the speed in the next line."""
        self._images += self._training.batch_size
        self._seconds += seconds

    def start(self) -> None:
        """A line on where and with what the run starts or goes on."""
        execution, step = self._execution, self._loop.step
        cuda = execution.device.type == "cuda"
        line = {
            "step": step,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": torch.cuda.get_device_name(execution.device) if cuda else cpu_name(),
            "instructions": None if cuda else torch.backends.cpu.get_cpu_capability(),
            "devices": execution.devices,
            "threads": torch.get_num_threads(),
            "precision": "bf16" if execution.mixed_precision else "fp32",
            "compiled": execution.compiled,
            "torch": torch.__version__,
            "spikingjelly": version("spikingjelly"),
        }
        self._write(line, f"from step {step} of {self._loop.total} on {line['device']}")

    def steps(self, loss: float, learning_rate: float) -> None:
        """A line on the steps since the last one.

        Args:
            loss: their mean loss.
            learning_rate: of the next step.
        """
        loop = self._loop
        speed = self._images / self._seconds
        self._images, self._seconds = 0, 0.0
        line = {
            "step": loop.step,
            "loss": round(loss, 6),
            "learning_rate": learning_rate,
            "timesteps": self._training.timesteps((loop.step - 1) // loop.steps_per_epoch),
            "images_per_second": round(speed, 1),
            "seconds": round(loop.seconds, 1),
        }
        hours = (loop.total - loop.step) * self._training.batch_size / speed / 3600.0
        self._write(
            line,
            f"step {loop.step} of {loop.total}, T = {line['timesteps']}: loss {loss:.3f}, "
            f"{speed:.0f} images/s, {hours:.1f} h left at this rate",
        )

    def epoch(self, found: Accuracy) -> None:
        """A line on an epoch that has just ended, with the averaged weights' accuracy."""
        epoch = self._loop.epoch
        line = {
            "step": self._loop.step,
            "epoch": epoch,
            "timesteps": self._training.timesteps(epoch - 1),
            "search": found.to_dict(),
            "seconds": round(self._loop.seconds, 1),
        }
        self._write(line, f"epoch {epoch} of {self._training.epochs}: search top-1 {found}")

    def _write(self, line: dict[str, Any], words: str) -> None:
        if self._execution.rank == 0:
            self._directory.append(line)
            print(words, flush=True)
