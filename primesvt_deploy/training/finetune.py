"""Fine-tune a pruned SViT: surrogate gradients, distillation from the dense model, resumable.

Neurons are SpikingJelly's, with their surrogate gradients and detached resets. The loss is
`(1 - a) CE(student, labels) + a t^2 KL(teacher_t || student_t)` with temperature t (Hinton et al.,
2015); AdamW, a linear warm-up and a cosine to 0 (Loshchilov and Hutter, 2017, 2019). Early epochs
may run fewer timesteps.
"""

from __future__ import annotations

import copy
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from primesvt_deploy.data.images import ImageList, fingerprint
from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.errors import DataError, SettingsError
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.families.timesteps import set_timesteps
from primesvt_deploy.lowering.fold_batchnorm import lower
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.settings import FinetuneSettings
from primesvt_deploy.training.batches import Batches
from primesvt_deploy.training.optimizer import adamw, set_learning_rate, warmup_cosine
from primesvt_deploy.training.strided_pointwise import subsampled_pointwise

__all__ = ["Finetuned", "check_finetune", "finetune"]

_SAVE_SECONDS = 30.0
_Checkpoint = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """A fine-tuned SViT.

    Args:
        model: in evaluation mode, on the CPU.
        losses: mean loss of each epoch.
        images: samples seen, over all epochs.
        seconds: it took, over all runs where it was resumed.
    """

    model: SViT
    losses: tuple[float, ...]
    images: int
    seconds: float


def check_finetune(model: SViT, train: ImageList, settings: FinetuneSettings, source: str) -> None:
    """Refuse what cannot be fine-tuned, before any work.

    Args:
        model: of which a pruned form is to be trained.
        train: the train split.
        settings: epochs and all else.
        source: what the data set is called.

    Raises:
        DataError: no train split, or one of less than a batch.
        SettingsError: timesteps that the model cannot run, or a device that is not there.
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
    if settings.epochs < len(settings.timesteps):
        raise SettingsError(
            f"{len(settings.timesteps)} timesteps are told for {settings.epochs} epochs: one an "
            "epoch at most"
        )
    _device(settings)


def finetune(
    model: SViT,
    dense: SViT,
    train: ImageList,
    settings: FinetuneSettings,
    *,
    checkpoint: Path | None = None,
    progress: Progress = SILENT,
) -> Finetuned:
    """Train `model` on `train` with `dense` as its teacher.

    Args:
        model: a pruned SViT; it is not touched.
        dense: the teacher.
        train: the train split.
        settings: epochs and all else.
        checkpoint: where progress is kept; a run of the same question goes on from there, and on
            a CPU ends with the same weights as one that was not cut off.
        progress: told of each step.

    Raises:
        DataError, SettingsError: see `check_finetune`.
    """
    check_finetune(model, train, settings, "the data set")
    run = _Run(model, dense, train, settings, checkpoint)
    return run.to_the_end(progress)


class _Run:
    """One fine-tuning, from its start or from a checkpoint."""

    def __init__(
        self,
        model: SViT,
        dense: SViT,
        train: ImageList,
        settings: FinetuneSettings,
        checkpoint: Path | None,
    ) -> None:
        self._model, self._settings, self._checkpoint = model, settings, checkpoint
        self._device = _device(settings)
        count = min(len(train), settings.images or len(train))
        self._batches = Batches(
            train.shuffled(settings.seed).first(count),
            settings.batch_size,
            settings.seed,
            # Left and right may be what classes of events differ in.
            mirrored=not model.config.frames,
        )
        self._teacher = self._placed(lower(dense.module))
        self._student = self._placed(copy.deepcopy(model.module)).train().requires_grad_(True)
        self._optimizer = adamw(
            self._student,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self._total = settings.epochs * len(self._batches)
        self._step, self._seconds = 0, 0.0
        self._sums = [0.0] * settings.epochs
        self._question = fingerprint(
            model.digest, dense.digest, repr(settings.to_dict()), train.labels, train.numbers
        )

    def to_the_end(self, progress: Progress) -> Finetuned:
        self._resume(progress)
        settings, per_epoch = self._settings, len(self._batches)
        progress.stage("fine-tuning", self._total - self._step)
        saved = started = time.monotonic()
        before = self._seconds
        while self._step < self._total:
            epoch, index = divmod(self._step, per_epoch)
            begun = time.monotonic()
            with subsampled_pointwise():
                loss = self._one_step(epoch, index)
            self._sums[epoch] += loss
            self._step += 1
            now = time.monotonic()
            self._seconds = before + now - started
            rate = settings.batch_size / (now - begun)
            progress.step(f"epoch {epoch + 1}, loss {loss:.3f}, {rate:.0f} images/s")
            if index + 1 == per_epoch:
                mean = self._sums[epoch] / per_epoch
                progress.message(
                    f"epoch {epoch + 1} of {settings.epochs}, T = {self._timesteps(epoch)}: mean "
                    f"loss {mean:.4f}"
                )
            if now - saved > _SAVE_SECONDS:
                self._save()
                saved = now
        self._save()
        student = self._student.cpu().eval().requires_grad_(False)
        return Finetuned(
            model=self._model.with_module(student.to(memory_format=torch.contiguous_format)),
            losses=tuple(total / per_epoch for total in self._sums),
            images=self._total * settings.batch_size,
            seconds=round(self._seconds, 1),
        )

    def _one_step(self, epoch: int, index: int) -> float:
        settings = self._settings
        set_timesteps(self._student, self._timesteps(epoch))
        samples, labels = (x.to(self._device) for x in self._batches.batch(epoch, index))
        if samples.ndim == 4:
            samples = samples.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            taught = self._teacher(samples)
        set_learning_rate(self._optimizer, self._rate())
        with torch.random.fork_rng(devices=[]):
            # Dropout and whatever else is drawn depends on the step alone, so runs resume.
            torch.manual_seed(settings.seed * 1_000_003 + self._step)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._on_cuda):
                logits = self._student(samples)
        loss = _loss(logits.float(), taught.float(), labels, settings)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        set_timesteps(self._student, self._model.timesteps)
        return float(loss.detach())

    def _rate(self) -> float:
        """Learning rate of this step."""
        warmup = max(1, round(self._settings.warmup * self._total))
        return self._settings.learning_rate * warmup_cosine(
            self._step, total=self._total, warmup=warmup
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

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state: _Checkpoint = {
            "question": self._question,
            "step": self._step,
            "seconds": self._seconds,
            "sums": self._sums,
            "student": self._student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        content = io.BytesIO()  # a full disk is an OSError then
        torch.save(state, content)
        write_whole(self._checkpoint, content.getbuffer())

    def _resume(self, progress: Progress) -> None:
        if self._checkpoint is None or not self._checkpoint.is_file():
            return
        try:
            state: _Checkpoint = torch.load(
                self._checkpoint, map_location=self._device, weights_only=True
            )
        except Exception:  # a damaged archive raises nearly everything
            progress.message(f"{self._checkpoint} is damaged: fine-tuning begins anew")
            return
        if state["question"] != self._question:
            return
        self._student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step, self._seconds = state["step"], state["seconds"]
        self._sums = list(state["sums"])
        progress.message(f"fine-tuning goes on at step {self._step} of {self._total}")


def _loss(
    logits: torch.Tensor, taught: torch.Tensor, labels: torch.Tensor, settings: FinetuneSettings
) -> torch.Tensor:
    share, heat = settings.distillation, settings.temperature
    divergence = F.kl_div(
        F.log_softmax(logits / heat, dim=1),
        F.log_softmax(taught / heat, dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return (1.0 - share) * F.cross_entropy(logits, labels) + share * heat**2 * divergence


def _device(settings: FinetuneSettings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(settings.device)
    except RuntimeError as error:
        raise SettingsError(f"device is {settings.device!r}: expected cpu, cuda or auto") from error
    if device.type not in ("cpu", "cuda"):
        raise SettingsError(f"device is {settings.device!r}: expected cpu, cuda or auto")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError("no CUDA device is there: pass --device cpu, or leave it out")
    return device
