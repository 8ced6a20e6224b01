"""One training run: from its start or its checkpoint to its end, or as far as its time goes."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
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
from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.measure.latency import cpu_name
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.training.optimizer import adamw, set_learning_rate, warmup_cosine
from primesvt_deploy.training.strided_pointwise import subsampled_pointwise
from reference.directory import CHECKPOINT, WEIGHTS, RunDirectory, identity
from reference.means import Means
from reference.recipe import Training
from reference.samples import Order, Samples, loader, mixed, seeded

__all__ = ["Run"]

_EVALUATION_BATCH = 64
_KNOWN_BY = 64
"""Images of the train split whose pixels tell a run's data."""
_STATE = frozenset({"step", "seconds", "recent", "network", "averaged", "optimizer"})
_Batch = tuple[torch.Tensor, torch.Tensor]


class Run:
    """A training in a directory, where it goes on (see `reference.directory`).

    Args:
        model: with the weights to begin with; its module is trained.
        data: train and search split are used, the held-out one is never looked at.
        training: the recipe's.
        directory: made if it is not there; what lies there must be of the same run.
        means: what it is done with.
        initial: names the weights that it goes on from; empty: fresh ones.

    Raises:
        OutputError: the directory has something else, is in use or cannot be written.
        SettingsError: fewer images than a batch, a batch that the devices cannot share evenly, or
            a loss that is not finite.
    """

    def __init__(
        self,
        model: SViT,
        data: DataSet,
        training: Training,
        directory: Path,
        means: Means,
        *,
        initial: str = "",
    ) -> None:
        _require_enough(data, training, means)
        self._model, self._data, self._training = model, data, training
        self._directory, self._means = RunDirectory(directory), means
        self._identity = identity(model, training, data=_data_known(data.train), initial=initial)
        self._network = model.module.to(means.device)
        if means.device.type == "cuda" and means.devices > 1:
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
        self._steps_per_epoch = len(data.train) // training.batch_size
        self._total = training.epochs * self._steps_per_epoch
        self._step, self._seconds = 0, 0.0
        self._recent: list[torch.Tensor] = []  # losses that no line of the log has yet

    def go(self) -> bool:
        """Train; whether the end was reached."""
        with contextlib.ExitStack() as stack:
            if self._means.rank == 0:
                stack.enter_context(self._directory.held(self._identity))
            self._resume()
            self._train(self._batches())
        return self._step >= self._total

    def _batches(self) -> Iterable[_Batch]:
        training, means = self._training, self._means
        samples = Samples(self._data.train, _image_steps(self._model), training)
        order = Order(
            count=len(self._data.train),
            batch_size=training.batch_size,
            seed=training.seed,
            first=self._step,
            last=self._total,
            rank=means.rank,
            devices=means.devices,
        )
        return loader(samples, order, workers=means.workers, pinned=means.device.type == "cuda")

    def _train(self, batches: Iterable[_Batch]) -> None:
        means, forward = self._means, self._wrapped()
        started = saved = since = time.monotonic()
        before, seen = self._seconds, 0
        for inputs, labels in batches:
            with subsampled_pointwise():
                self._recent.append(self._one_step(forward, inputs, labels))
            seen += self._training.batch_size
            self._step += 1
            now = time.monotonic()
            self._seconds = before + now - started
            if self._step % means.log_steps == 0:
                self._log_step(seen / (now - since))
                seen, since = 0, time.monotonic()
            whole = self._step % self._steps_per_epoch == 0
            out = means.stop() or (means.seconds is not None and now - started > means.seconds)
            if self._agreed(whole or out or now - saved > means.save_seconds):
                self._save()
                saved = time.monotonic()
            if whole:
                self._end_epoch()
                seen, since = 0, time.monotonic()
            if self._agreed(out):
                break

    def _one_step(
        self, forward: nn.Module, inputs: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        training, device = self._training, self._means.device
        inputs = inputs.to(device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(device, non_blocking=True)
        epoch = self._step // self._steps_per_epoch
        if epoch < training.epochs - training.plain_epochs:
            classes = len(self._model.labels)
            inputs, labels = mixed(inputs, labels, classes, training, self._step)
        set_timesteps(self._network, training.timesteps(epoch))
        set_learning_rate(self._optimizer, self._rate())
        self._network.train()
        torch.manual_seed(seeded(training.seed, self._step, 2))  # of dropout, where there is any
        with self._autocast():
            logits = forward(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=training.label_smoothing)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._averaged.update_parameters(self._network)
        return loss.detach()

    def _rate(self) -> float:
        training = self._training
        peak = training.learning_rate
        return peak * warmup_cosine(
            self._step,
            total=self._total,
            warmup=round(training.warmup_epochs * self._steps_per_epoch),
            end=training.final_learning_rate / peak,
        )

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        enabled = self._means.mixed_precision
        return torch.autocast(self._means.device.type, torch.bfloat16, enabled=enabled)

    def _wrapped(self) -> nn.Module:
        network: nn.Module = self._network
        if self._means.compiled:
            network = torch.compile(network)
        if self._means.devices > 1:
            network = nn.parallel.DistributedDataParallel(network)
        return network

    def _end_epoch(self) -> None:
        """Top-1 of the averaged weights, which are kept for whoever ships them.

        The checkpoint is there already: what goes wrong here is done again by the next start.
        """
        epoch = self._step // self._steps_per_epoch - 1
        if self._means.rank == 0:
            network = self._averaged.module
            found = accuracy(
                network, self._data.search, self._training.timesteps(epoch), self._means.device
            )
            weights = {name: value.cpu() for name, value in network.state_dict().items()}
            self._directory.write(WEIGHTS, weights)
            self._log(
                {
                    "step": self._step,
                    "epoch": epoch + 1,
                    "timesteps": self._training.timesteps(epoch),
                    "search": found.to_dict(),
                    "seconds": round(self._seconds, 1),
                },
                f"epoch {epoch + 1} of {self._training.epochs}: search top-1 {found}",
            )

    def _log_start(self) -> None:
        means = self._means
        cuda = means.device.type == "cuda"
        line = {
            "step": self._step,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": torch.cuda.get_device_name(means.device) if cuda else cpu_name(),
            "instructions": None if cuda else torch.backends.cpu.get_cpu_capability(),
            "devices": means.devices,
            "threads": torch.get_num_threads(),
            "precision": "bf16" if means.mixed_precision else "fp32",
            "compiled": means.compiled,
            "torch": torch.__version__,
            "spikingjelly": version("spikingjelly"),
        }
        self._log(line, f"from step {self._step} of {self._total} on {line['device']}")

    def _log_step(self, per_second: float) -> None:
        loss = self._recent_loss()
        self._recent = []
        epoch = (self._step - 1) // self._steps_per_epoch
        line = {
            "step": self._step,
            "loss": round(loss, 6),
            "learning_rate": self._rate(),
            "timesteps": self._training.timesteps(epoch),
            "images_per_second": round(per_second, 1),
            "seconds": round(self._seconds, 1),
        }
        hours = (self._total - self._step) * self._training.batch_size / per_second / 3600.0
        self._log(
            line,
            f"step {self._step} of {self._total}, T = {line['timesteps']}: loss {loss:.3f}, "
            f"{per_second:.0f} images/s, {hours:.1f} h left at this rate",
        )

    def _log(self, line: dict[str, Any], told: str) -> None:
        if self._means.rank == 0:
            self._directory.append(line)
            print(told, flush=True)

    def _recent_loss(self) -> float:
        """Mean loss since the last line of the log."""
        loss = float(torch.stack(self._recent).mean())
        if not math.isfinite(loss):
            raise SettingsError(
                f"the loss is {loss} by step {self._step}: lower learning_rate or raise "
                "warmup_epochs in the recipe, and pass another --output"
            )
        return loss

    def _agreed(self, flag: bool) -> bool:
        """What the first process says, as clocks differ."""
        if self._means.devices == 1:
            return flag
        told = torch.tensor([int(flag)], device=self._means.device)
        dist.broadcast(told, 0)
        return bool(told.item())

    def _save(self) -> None:
        if self._recent:
            self._recent_loss()  # nothing is saved that has diverged
        if self._means.rank:
            return
        state = {
            "step": self._step,
            "seconds": self._seconds,
            "recent": [float(loss) for loss in self._recent],
            "network": self._network.state_dict(),
            "averaged": self._averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        self._directory.write(CHECKPOINT, state)

    def _resume(self) -> None:
        state = self._directory.checkpoint(_STATE)
        if state is not None:
            try:
                self._network.load_state_dict(state["network"])
                self._averaged.load_state_dict(state["averaged"])
                self._optimizer.load_state_dict(state["optimizer"])
            except (RuntimeError, ValueError, KeyError) as error:
                raise OutputError(
                    f"{self._directory.path / CHECKPOINT} is of another network: pass another "
                    "--output"
                ) from error
            self._step, self._seconds = state["step"], state["seconds"]
            self._recent = [torch.tensor(x, device=self._means.device) for x in state["recent"]]
        if self._means.rank == 0:
            known = self._directory.logged(self._step)
            self._log_start()
            ended = {line["step"] for line in known if "search" in line}
            if self._step and self._step % self._steps_per_epoch == 0 and self._step not in ended:
                self._end_epoch()


def _require_enough(data: DataSet, training: Training, means: Means) -> None:
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
    if training.batch_size % means.devices:
        raise SettingsError(
            f"a batch of {training.batch_size} cannot be shared by {means.devices} devices"
        )


def _data_known(train: ImageList) -> str:
    """Labels, and pixels of some images: the same whatever lies beside the train split."""
    some = range(0, len(train), -(-len(train) // _KNOWN_BY))
    return fingerprint(train.labels, *(train.pixels(i).tobytes() for i in some))


def _average(decay: float) -> Any:
    """A moving average that follows closely while it is young."""

    def averaged(mean: Any, current: Any, count: Any) -> None:
        young = (1.0 + float(count)) / (10.0 + float(count))
        get_ema_multi_avg_fn(min(decay, young))(mean, current, count)

    return averaged


def _image_steps(model: SViT) -> Preprocessing:
    if not isinstance(model.preprocessing, Preprocessing):
        raise SettingsError(f"{model.name} takes event frames: only images are trained on")
    return model.preprocessing


@torch.no_grad()
def accuracy(
    network: nn.Module, images: ImageList, timesteps: int, device: torch.device
) -> Accuracy:
    """Top-1 of a network at some timesteps, in float32; it is left in evaluation mode."""
    network.eval()
    set_timesteps(network, timesteps)  # type: ignore[arg-type]
    flags = []
    for start in range(0, len(images), _EVALUATION_BATCH):
        stop = min(start + _EVALUATION_BATCH, len(images))
        batch = torch.from_numpy(images.inputs(start, stop)).to(device)
        predicted = network(batch.contiguous(memory_format=torch.channels_last)).argmax(dim=1)
        flags.append(predicted.cpu().numpy() == images.labels[start:stop])
    return Accuracy.of(np.concatenate(flags))
