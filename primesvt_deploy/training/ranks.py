"""Processes that train together, each a worker with its part of every batch.

The driver has them train some steps at a time, reports what the first one tells, and keeps its
states. When one is lost the others wait for it in vain: all are started anew from the last state.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore

from primesvt_deploy.cluster.crew import Crew, WorkerLostError
from primesvt_deploy.cluster.library import ray_library
from primesvt_deploy.cluster.session import RaySession
from primesvt_deploy.compute.device import compute_device
from primesvt_deploy.errors import ClusterError, DeployError, SettingsError, first_line
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import Progress, Silent
from primesvt_deploy.training.batches import Share
from primesvt_deploy.training.finetuning import SAVE_SECONDS, FinetuneJob, Finetuning
from primesvt_deploy.training.loop import on_cpu

__all__ = ["Rank", "check_ranks", "train_on_ranks"]

_REPORT_SECONDS = 1.0
"""Between two reports of progress, about."""
_ATTEMPTS = 3
"""Losses of workers in a row, without a state saved in between, that a training survives."""

_NOTICE_SECONDS = 10.0
"""In which a lost rank is known to be lost after an exchange with it has failed."""

State = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some steps of a training, as the first rank tells of them.

    Args:
        step: steps done in all.
        notes: what was reported: a method of `Progress`, and its text.
        state: the state after them, if it was asked for.
    """

    step: int
    notes: list[tuple[str, str]]
    state: State | None


class _Notes(Silent):
    """Keeps what is reported, for the driver."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str]] = []

    def step(self, note: str = "") -> None:
        self.taken.append(("step", note))

    def message(self, text: str, *more: str) -> None:
        self.taken.append(("message", text))


class Rank:
    """One of the processes that train together.

    Args:
        job: what is trained.
        share: the part of each batch that this process takes.
        device: its kind, such as `cuda`.
        state: where to go on; None: at the start.
    """

    def __init__(self, job: FinetuneJob, share: Share, device: str, state: State | None) -> None:
        self._share, self._device = share, compute_device(device)
        self._notes = _Notes()
        self._training = Finetuning(
            job, self._device, share=share, keep=lambda _state: None, progress=self._notes
        )
        self._store: Store | None = None
        if state is not None:
            self._training.loop.resume(state)

    def meeting(self) -> tuple[str, int]:
        """Open the address where the others join this one; returns host and port."""
        host = ray_library().util.get_node_ip_address()
        # Torch would listen on all interfaces of this machine.
        with socket.create_server((host, 0)) as listening:
            port: int = listening.getsockname()[1]
            self._store = TCPStore(
                host,
                port,
                self._share.of,
                is_master=True,
                wait_for_workers=False,
                master_listen_fd=os.dup(listening.fileno()),
            )
        return host, port

    def join(self, host: str, port: int) -> None:
        """Join the others, at the first rank's address."""
        if self._share.of == 1:
            return
        if host == "127.0.0.1":
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        store = self._store or TCPStore(host, port, self._share.of, is_master=False)
        kind = "nccl" if self._device.type == "cuda" else "gloo"
        dist.init_process_group(
            kind, store=store, rank=self._share.number, world_size=self._share.of
        )

    def train(self, steps: int, state: bool) -> Part:
        """Train for some steps.

        Args:
            steps: how many, at most.
            state: whether the state after them is asked for; only the first rank gives it.
        """
        self._training.run(steps)
        notes, self._notes.taken = self._notes.taken, []
        asked = state and self._share.number == 0
        loop = self._training.loop
        return Part(step=loop.step, notes=notes, state=on_cpu(loop.state()) if asked else None)

    def trained(self) -> tuple[SViT, tuple[float, ...], float]:
        """The trained model, the mean loss of each epoch, and the seconds."""
        training = self._training
        return training.trained(), training.losses(), training.loop.seconds


def check_ranks(batch_size: int, ranks: int) -> None:
    """Refuse a batch that cannot be divided.

    Raises:
        SettingsError: ranks would get different numbers of images.
    """
    if batch_size % ranks:
        fitting = max(ranks, batch_size // ranks * ranks)
        raise SettingsError(
            f"a batch of {batch_size} images cannot be shared by {ranks} workers: pass "
            f"--batch-size {fitting}, or another multiple of {ranks}"
        )


def train_on_ranks(
    session: RaySession,
    job: FinetuneJob,
    *,
    state: State | None,
    keep: Callable[[State], None],
    progress: Progress,
) -> tuple[SViT, tuple[float, ...], float]:
    """Train with a process on each worker's place of a session.

    Args:
        session: within its context.
        job: what is trained.
        state: where to go on; None: at the start.
        keep: saves a state.
        progress: receives each step.

    Returns:
        The trained model, the mean loss of each epoch, and the seconds.

    Raises:
        SettingsError: the batch cannot be divided, or does not fit a device's memory.
        ClusterError: workers are lost again and again.
    """
    check_ranks(job.settings.batch_size, session.placement.workers)
    drive = _Drive(session, job, state, keep, progress)
    while True:
        try:
            return drive.run()
        except WorkerLostError as error:
            drive.survive(error)


class _Drive:
    """The driver's side of a training by ranks; arguments as in `train_on_ranks`."""

    def __init__(
        self,
        session: RaySession,
        job: FinetuneJob,
        state: State | None,
        keep: Callable[[State], None],
        progress: Progress,
    ) -> None:
        self._session, self._job = session, job
        self._state, self._keep, self._progress = state, keep, progress
        self._stored = session.put(job)
        self._lost = 0
        settings = job.settings
        self._per_epoch = len(job.images) // settings.batch_size
        self._total = self._per_epoch * settings.epochs

    def run(self) -> tuple[SViT, tuple[float, ...], float]:
        """Train from the last state to the end."""
        ranks = self._session.placement.workers
        state = self._session.put(self._state)
        device = self._session.placement.device
        with self._session.spawn(
            Rank,
            lambda number: (self._stored, Share(number, ranks), device, state),
            restarts=0,
        ) as crew:
            meeting = crew.result(crew.submit(0, "meeting"))
            _all(crew, "join", *meeting)
            self._train(crew)
            found: tuple[SViT, tuple[float, ...], float] = crew.result(crew.submit(0, "trained"))
            return found

    def survive(self, error: WorkerLostError) -> None:
        """Say that training goes on from the last state.

        Raises:
            ClusterError: it was lost too often.
        """
        self._lost += 1
        if self._lost > _ATTEMPTS:
            raise ClusterError(
                f"fine-tuning was started {self._lost} times and {first_line(error)}: free memory,"
                " or pass a lower --batch-size"
            ) from error
        self._progress.message(f"{first_line(error)}: fine-tuning goes on at step {self._step}")

    @property
    def _step(self) -> int:
        """Steps that the last state has done."""
        return self._state["step"] if self._state is not None else 0

    def _train(self, crew: Crew) -> None:
        step, steps, saved = self._step, 1, time.monotonic()
        self._progress.stage("fine-tuning", self._total - step, "batches")
        while step < self._total:
            steps = min(steps, self._per_epoch - step % self._per_epoch)
            ends = (step + steps) % self._per_epoch == 0
            begun = time.monotonic()
            due = ends or begun - saved > SAVE_SECONDS
            part: Part = _all(crew, "train", steps, due)[0]
            for method, text in part.notes:
                getattr(self._progress, method)(text)
            if part.state is not None:
                self._state, self._lost, saved = part.state, 0, time.monotonic()
                self._keep(part.state)
            step, seconds = part.step, time.monotonic() - begun
            steps = max(1, min(2 * steps, round(steps * _REPORT_SECONDS / seconds)))


def _all(crew: Crew, method: str, *arguments: Any) -> list[Any]:
    """Call all ranks.

    Raises:
        WorkerLostError: a rank is lost. Others notice that first, as a failed exchange.
    """
    calls = [crew.submit(number, method, *arguments) for number in range(len(crew))]
    try:
        return crew.results(calls)
    except DeployError:
        raise
    except Exception:
        crew.raise_loss(calls, _NOTICE_SECONDS)
        raise
