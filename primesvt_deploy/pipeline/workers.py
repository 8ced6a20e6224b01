"""Workers of a search, by Ray: checked and started before any stage, ended with it."""

from __future__ import annotations

from dataclasses import replace

import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.cluster.session import RaySession
from primesvt_deploy.compute.device import CPU, compute_device
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.data.pixel_cache import uncached
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import Progress
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search.chunk_evaluator import EvaluatedOn
from primesvt_deploy.pruning.search.evaluation_worker import EvaluationWorker, WorkerSetup
from primesvt_deploy.pruning.search.evaluator import chunk_size
from primesvt_deploy.pruning.search.samples import Shard, Sharing
from primesvt_deploy.pruning.search.worker_engine import WorkerEngine, Workers
from primesvt_deploy.settings import ComputeSettings

__all__ = ["driver_device", "open_session", "shared_engine"]


def driver_device(compute: ComputeSettings) -> torch.device:
    """The device of this process; the CPU where devices are those of a cluster's workers.

    Raises:
        SettingsError: it is not there.
    """
    if compute.ray is not None and not torch.cuda.is_available():
        return CPU
    return compute_device(compute.device)


def open_session(compute: ComputeSettings, images: int) -> RaySession:
    """A session with Ray for a search, not entered yet.

    Args:
        compute: workers, or a cluster.
        images: of the search.

    Raises:
        SettingsError, NotInstalledError: more workers than images, or no Ray.
    """
    compute.check_images(images)
    return RaySession(compute)


def shared_engine(
    session: RaySession,
    compute: ComputeSettings,
    model: SViT,
    groups: tuple[Group, ...],
    images: ImageList,
    recovery: Recovery,
    *,
    precision: str,
    progress: Progress,
) -> WorkerEngine:
    """Engine that has the workers of a session evaluate.

    Args:
        session: of Ray.
        compute: workers of this machine, or a cluster, whose nodes decode images themselves.
        model: the dense SViT.
        groups: its prunable groups.
        images: the search images.
        recovery: of this process.
        precision: of evaluation.
        progress: gets lines of the workers.

    Raises:
        SettingsError: more workers than images.
    """
    placement = session.placement
    replace(compute, workers=placement.workers).check_images(len(images))
    batch = EvaluatedOn(device=torch.device(placement.device)).batch_of(model)
    calibration = recovery.calibration_images
    if compute.ray is not None:
        images, calibration = uncached(images), uncached(calibration)
    sharing = Sharing(len(images), chunk_size(batch), placement.workers)
    setup = session.put(
        WorkerSetup(
            model=model,
            groups=groups,
            steps=tuple(sorted(recovery.steps)),
            calibration=calibration,
            device=placement.device,
            precision=precision,
            batch_size=batch,
        )
    )

    # Kept, so that a worker that was killed can be started anew with them.
    shards = [
        session.put(Shard(images, sharing.chunks(number))) for number in range(placement.workers)
    ]

    def spawn() -> Workers:
        return session.spawn(EvaluationWorker, lambda number: (setup, shards[number]))

    return WorkerEngine(
        spawn, sharing, groups, images.labels,
        device=placement.device, recovery=recovery, progress=progress,
    )  # fmt: skip
