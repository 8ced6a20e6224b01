"""Fine-tune a pruned SViT: surrogate gradients, distillation from the dense model, resumable.

Neurons are SpikingJelly's, with their surrogate gradients and detached resets. The loss is
`(1 - a) CE(student, labels) + a t^2 KL(teacher_t || student_t)` with temperature t (Hinton et al.,
2015); AdamW, a linear warm-up and a cosine to 0 (Loshchilov and Hutter, 2017, 2019). Early epochs
may run fewer timesteps.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from primesvt_deploy.cluster.session import RaySession
from primesvt_deploy.compute.device import compute_device
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.errors import DataError, SettingsError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import AUTOMATIC, Progress
from primesvt_deploy.progress.choose import drawn_by_default
from primesvt_deploy.settings import ComputeSettings, FinetuneSettings
from primesvt_deploy.summary import Shown, Summary
from primesvt_deploy.training.batches import WHOLE
from primesvt_deploy.training.finetuning import STATE_KEYS, FinetuneJob, Finetuning
from primesvt_deploy.training.loop import load_state, save_state
from primesvt_deploy.training.ranks import check_ranks, train_on_ranks

__all__ = ["Finetuned", "check_finetune", "finetune"]

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


def check_finetune(
    model: SViT,
    train: ImageList,
    settings: FinetuneSettings,
    source: str,
    *,
    compute: ComputeSettings = ComputeSettings(),
) -> None:
    """Refuse what cannot be fine-tuned, before any work.

    Args:
        model: the dense model, of which a pruned form is to be trained.
        train: the train split.
        settings: epochs and rates.
        source: name of the data set, for messages.
        compute: device and workers.

    Raises:
        DataError: no train split, or one of less than a batch.
        SettingsError: timesteps that the model cannot run, a device that does not exist, or a
            batch that cannot be divided among the workers.
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
    if compute.distributed:
        check_ranks(settings.batch_size, compute.workers or 1)
    else:
        compute_device(compute.device)


@drawn_by_default
def finetune(
    model: SViT,
    dense: SViT,
    train: ImageList,
    settings: FinetuneSettings,
    *,
    compute: ComputeSettings = ComputeSettings(),
    device: torch.device | None = None,
    session: RaySession | None = None,
    checkpoint: Path | None = None,
    progress: Progress = AUTOMATIC,
) -> Finetuned:
    """Train `model` on `train` with `dense` as its teacher.

    Several workers share each batch: the batch size is that of all together, batch norms
    use the statistics of all, and the weights are those of one process but for rounding.

    Args:
        model: a pruned SViT; it stays as it is.
        dense: the teacher.
        train: the train split.
        settings: epochs and rates.
        compute: device and workers; workers train together, each on a device.
        device: of this process, where no workers train; None: that of `compute`.
        session: of these workers, if one is open; None: one is opened for the training.
        checkpoint: file that keeps the state; a fine-tuning of the same models, images, settings
            and number of workers goes on from it, and on CPUs ends with the same weights bit for
            bit.
        progress: receives each step; default: a bar on a terminal or in a notebook, elsewhere
            nothing; `SILENT`: nothing.

    Returns:
        The trained model and its losses.

    Raises:
        DataError, SettingsError: see `check_finetune`; or a batch does not fit the device's memory.
        ClusterError: workers cannot be had, or are lost again and again.
    """
    check_finetune(model, train, settings, "the data set", compute=compute)
    job = FinetuneJob(model=model, dense=dense, train=train, settings=settings)
    if compute.distributed:
        with nullcontext(session) if session is not None else RaySession(compute) as workers:
            saved = _Checkpoint(checkpoint, job.key(workers.placement.workers))
            state = saved.read(progress)
            found = train_on_ranks(workers, job, state=state, keep=saved.write, progress=progress)
    else:
        on = device or compute_device(compute.device)
        found = _train_here(job, on, _Checkpoint(checkpoint, job.key(1)), progress)
    trained, losses, seconds = found
    images = len(job.images) // settings.batch_size * settings.batch_size * settings.epochs
    return Finetuned(model=trained, losses=losses, images=images, seconds=round(seconds, 1))


def _train_here(
    job: FinetuneJob, device: torch.device, saved: _Checkpoint, progress: Progress
) -> tuple[SViT, tuple[float, ...], float]:
    training = Finetuning(job, device, share=WHOLE, keep=saved.write, progress=progress)
    loop = training.loop
    state = saved.read(progress)
    if state is not None:
        loop.resume(state)
    progress.stage("fine-tuning", loop.total - loop.step, "batches")
    training.run()
    return training.trained(), training.losses(), loop.seconds


class _Checkpoint:
    """The file of a fine-tuning's state.

    Args:
        path: of the file; None: none is kept.
        key: fingerprint of all that decides the weights.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path, self._key = path, key

    def write(self, state: dict[str, Any]) -> None:
        """Write a state, whole or not at all."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            save_state(self._path, {"key": self._key, **state})

    def read(self, progress: Progress) -> dict[str, Any] | None:
        """The state to go on from; None: of this fine-tuning there is none."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            state = load_state(self._path, {"key", *STATE_KEYS})
        except (OSError, ValueError):
            progress.message(f"{self._path} is damaged: fine-tuning begins anew")
            return None
        if state["key"] != self._key:
            return None
        progress.message(f"fine-tuning goes on at step {state['step']}")
        return state
