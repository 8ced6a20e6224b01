"""Fine-tune a pruned SViT: surrogate gradients, distillation from the dense model, resumable.

Neurons are SpikingJelly's, with their surrogate gradients and detached resets. The loss is
`(1 - a) CE(student, labels) + a t^2 KL(teacher_t || student_t)` with temperature t (Hinton et al.,
2015); AdamW, a linear warm-up and a cosine to 0 (Loshchilov and Hutter, 2017, 2019). Early epochs
may run fewer timesteps.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from primesvt_deploy.compute.device import CPU
from primesvt_deploy.data.images import ImageList, fingerprint
from primesvt_deploy.errors import DataError, SettingsError
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.families.timesteps import set_timesteps
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import AUTOMATIC, SILENT, Progress
from primesvt_deploy.progress.choose import drawn_by_default
from primesvt_deploy.settings import FinetuneSettings
from primesvt_deploy.summary import Shown, Summary
from primesvt_deploy.training.batches import Batches
from primesvt_deploy.training.loop import Trainer, TrainingLoop, load_state, save_state
from primesvt_deploy.training.optimizer import adamw, set_learning_rate, warmup_cosine

__all__ = ["Finetuned", "check_finetune", "finetune"]

_SAVE_SECONDS = 30.0
_SHOWN_LOSSES = 6


@dataclass(frozen=True, kw_only=True, repr=False)
class Finetuned(Shown):
    """A fine-tuned SViT.

    Args:
        model: in evaluation mode, on the CPU.
        losses: mean loss of each epoch.
        images: samples seen, over all epochs.
        seconds: training time, s, over all runs where it was resumed.
    """

    model: SViT
    losses: tuple[float, ...]
    images: int
    seconds: float

    def _summary(self) -> Summary:
        losses = ", ".join(f"{loss:.4f}" for loss in self.losses[-_SHOWN_LOSSES:])
        earlier = "..., " if len(self.losses) > _SHOWN_LOSSES else ""
        return Summary(
            f"Finetuned {self.model.name}",
            (
                ("epochs", f"{len(self.losses)}, mean loss of each: {earlier}{losses}"),
                ("images", f"{self.images:,}, in {self.seconds:,.0f} s"),
            ),
        )


def check_finetune(model: SViT, train: ImageList, settings: FinetuneSettings, source: str) -> None:
    """Refuse what cannot be fine-tuned, before any work.

    Args:
        model: the dense model, of which a pruned form is to be trained.
        train: the train split.
        settings: epochs, rates.
        source: name of the data set, for messages.

    Raises:
        DataError: no train split, or one of less than a batch.
        SettingsError: timesteps that the model cannot run.
    """
    count = min(len(train), settings.images or len(train))
    if count < settings.batch_size:
        raise DataError(
            f"{source} has {len(train)} images to train on: fine-tuning needs {settings.batch_size}"
            " at least; pass an ImageFolder with train/ beside val/, or an .npz with train_images "
            "and train_labels"
        )
    for steps in settings.timesteps:
        model.at_timesteps(steps)
    if settings.timesteps and settings.timesteps[-1] != model.timesteps:
        raise SettingsError(
            f"fine-tuning would end with {settings.timesteps[-1]} timesteps: expected the model's "
            f"{model.timesteps} last"
        )


@drawn_by_default
def finetune(
    model: SViT,
    dense: SViT,
    train: ImageList,
    settings: FinetuneSettings,
    *,
    checkpoint: Path | None = None,
    device: torch.device = CPU,
    progress: Progress = AUTOMATIC,
) -> Finetuned:
    """Train `model` on `train` with `dense` as its teacher.

    Args:
        model: a pruned SViT; it stays as it is.
        dense: the teacher.
        train: the train split.
        settings: epochs, rates.
        checkpoint: file that keeps the state; a fine-tuning of the same models, images and
            settings goes on from it, and on a CPU ends with the same weights bit for bit.
        device: that it is trained on.
        progress: receives each step; default: a bar on a terminal or in a notebook, elsewhere
            nothing; `SILENT`: nothing.

    Returns:
        The trained model and its losses.

    Raises:
        DataError, SettingsError: see `check_finetune`.
    """
    check_finetune(model, train, settings, "the data set")
    run = _Finetuning(
        model, dense, train, settings, checkpoint=checkpoint, device=device, progress=progress
    )
    return run.run()


class _Finetuning(Trainer[tuple[int, int]]):
    """A fine-tuning, from its start or from a checkpoint; arguments as in `finetune`."""

    def __init__(
        self,
        model: SViT,
        dense: SViT,
        train: ImageList,
        settings: FinetuneSettings,
        *,
        checkpoint: Path | None = None,
        device: torch.device = CPU,
        progress: Progress = SILENT,
    ) -> None:
        self._model, self._settings = model, settings
        self._checkpoint, self._progress = checkpoint, progress
        self._device = device
        count = min(len(train), settings.images or len(train))
        self._batches = Batches(
            train.shuffled(settings.seed).first(count),
            settings.batch_size,
            settings.seed,
            # Classes of event streams may differ in left and right.
            mirrored=not model.config.frames,
        )
        self._teacher = self._placed(lower_module(dense.module))
        self._student = self._placed(copy.deepcopy(model.module)).train().requires_grad_(True)
        self._optimizer = adamw(
            self._student,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self._losses = _EpochLosses(settings.epochs)
        self.loop = TrainingLoop(
            epochs=settings.epochs,
            steps_per_epoch=len(self._batches),
            parts={
                "student": self._student,
                "optimizer": self._optimizer,
                "losses": self._losses,
            },
            save_seconds=_SAVE_SECONDS,
        )
        self._key = fingerprint(
            model.digest, dense.digest, repr(settings.to_dict()), train.labels, train.numbers
        )

    def run(self) -> Finetuned:
        """Train to the end, from the checkpoint's step where it is of the same fine-tuning."""
        self._resume()
        loop = self.loop
        self._progress.stage("fine-tuning", loop.total - loop.step, "batches")
        loop.run(self, (divmod(n, loop.steps_per_epoch) for n in range(loop.step, loop.total)))
        student = self._student.cpu().eval().requires_grad_(False)
        return Finetuned(
            model=self._model.with_module(student.to(memory_format=torch.contiguous_format)),
            losses=tuple(total / loop.steps_per_epoch for total in self._losses.sums),
            images=loop.total * self._settings.batch_size,
            seconds=round(loop.seconds, 1),
        )

    def train_step(self, batch: tuple[int, int]) -> None:
        """Train on the batch of an epoch with a number in it."""
        epoch, index = batch
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
            torch.manual_seed(settings.seed * 1_000_003 + self.loop.step)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._on_cuda):
                logits = self._student(samples)
        loss = _loss(logits.float(), target.float(), labels, settings)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        set_timesteps(self._student, self._model.timesteps)
        self._losses.add(epoch, float(loss.detach()))

    def after_step(self, seconds: float) -> None:
        """Report loss and images a second."""
        epoch = (self.loop.step - 1) // self.loop.steps_per_epoch
        rate = self._settings.batch_size / seconds
        self._progress.step(f"epoch {epoch + 1}, loss {self._losses.last:.3f}, {rate:.0f} images/s")

    def end_epoch(self) -> None:
        """Report the mean loss."""
        ended = self.loop.epoch
        mean = self._losses.sums[ended - 1] / self.loop.steps_per_epoch
        self._progress.message(
            f"epoch {ended} of {self._settings.epochs}, T = {self._timesteps(ended - 1)}: mean "
            f"loss {mean:.4f}"
        )

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint, if one is kept."""
        if self._checkpoint is not None:
            self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
            save_state(self._checkpoint, {"key": self._key, **state})

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

    def _resume(self) -> None:
        path = self._checkpoint
        if path is None or not path.is_file():
            return
        try:
            state = load_state(path, {"key", *self.loop.keys})
        except (OSError, ValueError):
            self._progress.message(f"{path} is damaged: fine-tuning begins anew")
            return
        if state["key"] != self._key:
            return
        self.loop.resume(state)
        self._progress.message(f"fine-tuning goes on at step {self.loop.step} of {self.loop.total}")


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
