"""A training run: from its start or its checkpoint to its end, or until its time is up."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from primesvt_deploy.data import DataSet
from primesvt_deploy.data.images import ImageList, fingerprint
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.errors import OutputError, SettingsError
from primesvt_deploy.families.timesteps import set_timesteps
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.training.loop import Trainer, TrainingLoop
from primesvt_deploy.training.optimizer import adamw, set_learning_rate, warmup_cosine
from reference.directory import CHECKPOINT, WEIGHTS, RunDirectory, identity
from reference.evaluation import accuracy
from reference.execution import Execution
from reference.recipe import Training
from reference.run_log import RecentLosses, RunLog
from reference.samples import Order, Samples, loader, mixed, seeded

__all__ = ["Run"]

_DIGEST_IMAGES = 64
"""Images of the train split whose pixels identify the data, at most."""
_Batch = tuple[torch.Tensor, torch.Tensor]


class Run(Trainer[_Batch]):
    """A training in a directory, from which it resumes (see `reference.directory`).

    Args:
        model: the SViT with its initial weights; its module is trained.
        data: train and search split are used, the held-out one is never read.
        training: settings of the recipe.
        directory: made if it does not exist; files in it must be of the same run.
        execution: devices, precision, time.
        initial: digest of the initial weights; empty: random ones.

    Raises:
        OutputError: the directory holds something else, is in use or cannot be written.
        SettingsError: fewer images than a batch, a batch that the devices cannot share evenly, or
            a loss that is not finite.
    """

    def __init__(
        self,
        model: SViT,
        data: DataSet,
        training: Training,
        directory: Path,
        execution: Execution,
        *,
        initial: str = "",
    ) -> None:
        _require_enough(data, training, execution)
        self._model, self._data, self._training = model, data, training
        self._directory, self._execution = RunDirectory(directory), execution
        self._identity = identity(model, training, data=_data_digest(data.train), initial=initial)
        self._network = model.module.to(execution.device)
        if execution.device.type == "cuda" and execution.devices > 1:
            self._network = nn.SyncBatchNorm.convert_sync_batchnorm(self._network)
        self._network = self._network.to(memory_format=torch.channels_last).requires_grad_(True)
        self._averaged = AveragedModel(
            self._network, multi_avg_fn=_average(training.averaging), use_buffers=True
        )
        self._optimizer = adamw(
            self._network,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
        )
        self._forward = self._wrapped()
        limit = execution.seconds
        self._deadline = math.inf if limit is None else time.monotonic() + limit
        self._recent = RecentLosses(execution.device)
        self._loop = TrainingLoop(
            epochs=training.epochs,
            steps_per_epoch=len(data.train) // training.batch_size,
            parts={
                "network": self._network,
                "averaged": self._averaged,
                "optimizer": self._optimizer,
                "recent": self._recent,
            },
            save_seconds=execution.save_seconds,
        )
        self._log = RunLog(self._directory, self._loop, training, execution)

    def go(self) -> bool:
        """Train; True where the end was reached, False where the run stopped before."""
        with contextlib.ExitStack() as stack:
            if self._execution.rank == 0:
                stack.enter_context(self._directory.held(self._identity))
            self._resume()
            self._loop.run(self, self._batches())
        return self._loop.done

    def train_step(self, batch: _Batch) -> None:
        """Train on a batch: samples `[N, 3, H, W]` and labels `[N]`."""
        training, device, step = self._training, self._execution.device, self._loop.step
        inputs, labels = batch
        inputs = inputs.to(device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(device, non_blocking=True)
        epoch = self._loop.epoch
        if epoch < training.epochs - training.plain_epochs:
            classes = len(self._model.labels)
            inputs, labels = mixed(inputs, labels, classes, training, step)
        set_timesteps(self._network, training.timesteps(epoch))
        set_learning_rate(self._optimizer, self._rate())
        self._network.train()
        torch.manual_seed(seeded(training.seed, step, 2))  # for dropout, if there is any
        bf16 = self._execution.mixed_precision
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = self._forward(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=training.label_smoothing)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._averaged.update_parameters(self._network)
        self._recent.add(loss.detach())

    def after_step(self, seconds: float) -> None:
        """Write a line of the log every so many steps."""
        self._log.count(seconds)
        if self._loop.step % self._execution.log_steps == 0:
            self._log.steps(self._mean_loss(), self._rate())
            self._recent.clear()

    def end_epoch(self) -> None:
        """Log top-1 of the averaged weights, and write them.

        The checkpoint is written already: an evaluation that fails is repeated by the next start.
        """
        if self._execution.rank:
            return
        network = self._averaged.module
        timesteps = self._training.timesteps(self._loop.epoch - 1)
        found = accuracy(network, self._data.search, timesteps, self._execution.device)
        weights = {name: value.cpu() for name, value in network.state_dict().items()}
        self._directory.write(WEIGHTS, weights)
        self._log.epoch(found)

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint, unless the training has diverged."""
        if len(self._recent):
            self._mean_loss()
        if self._execution.rank == 0:
            self._directory.write(CHECKPOINT, state)

    def should_stop(self) -> bool:
        """Whether a signal came or time is up."""
        return self._execution.stop() or time.monotonic() > self._deadline

    def agreed(self, flag: bool) -> bool:
        """Decision of the first process, as clocks differ."""
        if self._execution.devices == 1:
            return flag
        decision = torch.tensor([int(flag)], device=self._execution.device)
        dist.broadcast(decision, 0)
        return bool(decision.item())

    def _batches(self) -> Iterable[_Batch]:
        training, execution = self._training, self._execution
        samples = Samples(self._data.train, _image_steps(self._model), training)
        order = Order(
            count=len(self._data.train),
            batch_size=training.batch_size,
            seed=training.seed,
            first=self._loop.step,
            last=self._loop.total,
            rank=execution.rank,
            devices=execution.devices,
        )
        pinned = execution.device.type == "cuda"
        return loader(samples, order, workers=execution.workers, pinned=pinned)

    def _rate(self) -> float:
        """Learning rate of the next step."""
        training, peak = self._training, self._training.learning_rate
        return peak * warmup_cosine(
            self._loop.step,
            total=self._loop.total,
            warmup=round(training.warmup_epochs * self._loop.steps_per_epoch),
            end=training.final_learning_rate / peak,
        )

    def _wrapped(self) -> nn.Module:
        network: nn.Module = self._network
        if self._execution.compiled:
            network = torch.compile(network)
        if self._execution.devices > 1:
            network = nn.parallel.DistributedDataParallel(network)
        return network

    def _mean_loss(self) -> float:
        """Mean loss since the last line of the log; refused where it is not finite."""
        loss = self._recent.mean()
        if not math.isfinite(loss):
            raise SettingsError(
                f"the loss is {loss} by step {self._loop.step}: lower learning_rate or raise "
                "warmup_epochs in the recipe, and pass another --output"
            )
        return loss

    def _resume(self) -> None:
        loop = self._loop
        state = self._directory.checkpoint(loop.keys)
        if state is not None:
            try:
                loop.resume(state)
            except (RuntimeError, ValueError, KeyError) as error:
                raise OutputError(
                    f"{self._directory.path / CHECKPOINT} is of another network: pass another "
                    "--output"
                ) from error
        if self._execution.rank == 0:
            logged = self._directory.logged(loop.step)
            self._log.start()
            evaluated = {line["step"] for line in logged if "search" in line}
            if loop.at_epoch_end and loop.step not in evaluated:
                self.end_epoch()


def _require_enough(data: DataSet, training: Training, execution: Execution) -> None:
    if not len(data.train):
        raise SettingsError(
            f"{data.name} has no images to train on: expected train/ beside test/ (of an .npz: "
            "train_images)"
        )
    if len(data.train) < training.batch_size:
        raise SettingsError(
            f"{data.name} has {len(data.train)} images to train on: expected a batch of "
            f"{training.batch_size} at least"
        )
    if training.batch_size % execution.devices:
        raise SettingsError(
            f"a batch of {training.batch_size} cannot be shared by {execution.devices} devices"
        )


def _data_digest(train: ImageList) -> str:
    """Digest of labels and of some images' pixels; it depends on the train split alone."""
    some = range(0, len(train), -(-len(train) // _DIGEST_IMAGES))
    return fingerprint(train.labels, *(train.pixels(i).tobytes() for i in some))


def _average(decay: float) -> Any:
    """Exponential moving average whose decay rises over the first steps."""

    def averaged(mean: Any, current: Any, count: Any) -> None:
        rising = (1.0 + float(count)) / (10.0 + float(count))
        get_ema_multi_avg_fn(min(decay, rising))(mean, current, count)

    return averaged


def _image_steps(model: SViT) -> Preprocessing:
    if not isinstance(model.preprocessing, Preprocessing):
        raise SettingsError(f"{model.name} takes event frames: only images are trained on")
    return model.preprocessing
