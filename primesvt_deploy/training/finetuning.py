"""A fine-tuning's steps: of one process, or of one of those that train together."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from primesvt_deploy.data.images import ImageList, fingerprint
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.families.timesteps import set_timesteps
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import Progress
from primesvt_deploy.settings import FinetuneSettings
from primesvt_deploy.training.batches import Batches, Share
from primesvt_deploy.training.loop import Trainer, TrainingLoop
from primesvt_deploy.training.optimizer import adamw, set_learning_rate, warmup_cosine
from primesvt_deploy.training.shared_step import average_gradients, synchronized_norms

__all__ = ["STATE_KEYS", "FinetuneJob", "Finetuning"]

SAVE_SECONDS = 30.0
"""Between two saved states."""
STATE_KEYS = frozenset({"step", "seconds", "student", "optimizer", "losses"})
"""Names of all that a saved state holds."""


@dataclass(frozen=True, kw_only=True)
class FinetuneJob:
    """Models, images and settings of a fine-tuning; arguments as in `finetune`."""

    model: SViT
    dense: SViT
    train: ImageList
    settings: FinetuneSettings

    def key(self, ranks: int) -> str:
        """Fingerprint of all that decides the weights.

        Args:
            ranks: processes that train together: they add up in another order than one does.
        """
        parts = () if ranks == 1 else (f"{ranks} processes",)
        return fingerprint(
            self.model.digest,
            self.dense.digest,
            repr(self.settings.to_dict()),
            self.train.labels,
            self.train.numbers,
            *parts,
        )

    @property
    def images(self) -> ImageList:
        """The images that are used, in their order."""
        count = min(len(self.train), self.settings.images or len(self.train))
        return self.train.shuffled(self.settings.seed).first(count)


class Finetuning(Trainer[tuple[int, int]]):
    """The trained network, its optimizer and the steps that are left.

    Args:
        job: what is trained.
        device: where it is trained.
        share: the part of each batch that this process takes.
        keep: saves a state.
        progress: receives each step.

    Attributes:
        loop: counts the steps.
    """

    def __init__(
        self,
        job: FinetuneJob,
        device: torch.device,
        *,
        share: Share,
        keep: Callable[[dict[str, Any]], None],
        progress: Progress,
    ) -> None:
        self._model, self._settings = job.model, job.settings
        self._device, self._share = device, share
        self._keep, self._progress = keep, progress
        self._batches = Batches(
            job.images,
            self._settings.batch_size,
            self._settings.seed,
            # Classes of event streams may differ in left and right.
            mirrored=not job.model.config.frames,
            share=share,
        )
        self._teacher = self._placed(lower_module(job.dense.module))
        self._student = self._placed(copy.deepcopy(job.model.module)).train().requires_grad_(True)
        self._optimizer = adamw(
            self._student,
            learning_rate=self._settings.learning_rate,
            weight_decay=self._settings.weight_decay,
        )
        self._losses = _EpochLosses(self._settings.epochs)
        self.loop = TrainingLoop(
            epochs=self._settings.epochs,
            steps_per_epoch=len(self._batches),
            parts={
                "student": self._student,
                "optimizer": self._optimizer,
                "losses": self._losses,
            },
            save_seconds=SAVE_SECONDS,
        )

    def run(self, steps: int | None = None) -> None:
        """Train for some steps; None: to the end."""
        loop = self.loop
        end = loop.total if steps is None else min(loop.total, loop.step + steps)
        loop.run(self, (divmod(n, loop.steps_per_epoch) for n in range(loop.step, end)))

    def losses(self) -> tuple[float, ...]:
        """Mean loss of each epoch."""
        return tuple(total / self.loop.steps_per_epoch for total in self._losses.sums)

    def trained(self) -> SViT:
        """The model with the weights so far, in evaluation mode, on the CPU."""
        student = self._student.cpu().eval().requires_grad_(False)
        return self._model.with_module(student.to(memory_format=torch.contiguous_format))

    def train_step(self, batch: tuple[int, int]) -> None:
        """Train on the batch of an epoch with a number in it.

        Raises:
            SettingsError: the batch does not fit the device's memory.
        """
        with synchronized_norms() if self._share.of > 1 else nullcontext():
            try:
                self._step(*batch)
            except torch.OutOfMemoryError as error:
                size = self._settings.batch_size
                each = f", {size // self._share.of} a worker," if self._share.of > 1 else ""
                raise SettingsError(
                    f"a batch of {size} images{each} does not fit the device's memory in "
                    f"training: pass a lower --batch-size, such as {max(2, size // 2)}"
                ) from error

    def after_step(self, seconds: float) -> None:
        """Report loss and images a second."""
        epoch = (self.loop.step - 1) // self.loop.steps_per_epoch
        rate = self._settings.batch_size / seconds
        self._progress.step(f"epoch {epoch + 1}, loss {self._losses.last:.3f}, {rate:.0f} images/s")

    def end_epoch(self) -> None:
        """Report the mean loss."""
        ended = self.loop.epoch
        self._progress.message(
            f"epoch {ended} of {self._settings.epochs}, T = {self._timesteps(ended - 1)}: mean "
            f"loss {self.losses()[ended - 1]:.4f}"
        )

    def save(self, state: dict[str, Any]) -> None:
        """Hand a state to whoever keeps it."""
        self._keep(state)

    def _step(self, epoch: int, index: int) -> None:
        settings = self._settings
        set_timesteps(self._student, self._timesteps(epoch))
        samples, labels = (x.to(self._device) for x in self._batches.batch(epoch, index))
        if samples.ndim == 4:
            samples = samples.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            target = self._teacher(samples)
        set_learning_rate(self._optimizer, self._rate())
        with torch.random.fork_rng(devices=[]):
            # Dropout and other random numbers depend on the step alone, so a training resumes.
            own = self.loop.step * self._share.of + self._share.number
            torch.manual_seed(settings.seed * 1_000_003 + own)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._on_cuda):
                logits = self._student(samples)
        loss = _loss(logits.float(), target.float(), labels, settings)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        shared = self._share.of > 1
        parameters = self._student.parameters()
        mean = average_gradients(parameters, loss) if shared else float(loss.detach())
        self._optimizer.step()
        set_timesteps(self._student, self._model.timesteps)
        self._losses.add(epoch, mean)

    def _rate(self) -> float:
        """Learning rate of this step."""
        total = self.loop.total
        warmup = max(1, round(self._settings.warmup * total))
        return self._settings.learning_rate * warmup_cosine(
            self.loop.step, total=total, warmup=warmup
        )

    def _timesteps(self, epoch: int) -> int:
        return self._settings.steps_of(epoch, self._model.timesteps)

    @property
    def _on_cuda(self) -> bool:
        return self._device.type == "cuda"

    def _placed(self, network: SpikingNetwork) -> SpikingNetwork:
        network = network.to(self._device)
        if self._model.module.couplings_declared:
            network = network.to(memory_format=torch.channels_last)
        return network


class _EpochLosses:
    """Sums of the losses of each epoch, part of the state."""

    def __init__(self, epochs: int) -> None:
        self.sums, self.last = [0.0] * epochs, 0.0

    def add(self, epoch: int, loss: float) -> None:
        self.sums[epoch] += loss
        self.last = loss

    def state_dict(self) -> list[float]:
        return list(self.sums)

    def load_state_dict(self, state: list[float], /) -> None:
        self.sums = list(state)


def _loss(
    logits: torch.Tensor, target: torch.Tensor, labels: torch.Tensor, settings: FinetuneSettings
) -> torch.Tensor:
    weight, temperature = settings.distillation, settings.temperature
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, dim=1),
        F.log_softmax(target / temperature, dim=1),
        log_target=True,
        reduction="batchmean",
    )
    cross_entropy = F.cross_entropy(logits, labels)
    return (1.0 - weight) * cross_entropy + weight * temperature**2 * divergence
