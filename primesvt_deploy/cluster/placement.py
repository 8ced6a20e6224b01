"""Number of workers, their device and their threads, on the nodes that there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from primesvt_deploy.errors import ClusterError, SettingsError
from primesvt_deploy.settings.compute import ComputeSettings

__all__ = ["Node", "Placement", "place_workers"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine that workers can run on.

    Args:
        cpus: cores.
        gpus: CUDA devices.
    """

    cpus: int
    gpus: int


_A_CORE = 4
"""Most workers a core of this machine: more take its memory, and evaluate nothing faster."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How many workers there are, and what each computes with.

    Args:
        workers: processes.
        device: `cpu`, or `cuda`: a GPU for each worker, which sees no other.
        threads: of torch in each worker.
    """

    workers: int
    device: str
    threads: int


def place_workers(
    nodes: Sequence[Node], compute: ComputeSettings, place: str, *, shared: bool = True
) -> Placement:
    """Divide nodes among workers.

    Args:
        nodes: of the cluster, or this machine alone.
        compute: device and number of workers; without a number one a GPU, or one a node where
            there are none or `cpu` is asked for.
        place: name of the nodes for messages, such as `this machine`.
        shared: whether a worker demands a core of its own, as on a cluster that others use.

    Raises:
        SettingsError: a GPU is asked for by its number.
        ClusterError: there is no GPU that was asked for, or there are too few GPUs or cores.
    """
    gpus, cpus = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    if compute.device.startswith("cuda:"):
        raise SettingsError(
            f"device is {compute.device}, but each worker takes a GPU of its own: pass --device "
            "cuda, or leave out --workers and --ray"
        )
    on_gpus = compute.device == "cuda" or (compute.device == "auto" and gpus > 0)
    if on_gpus and not gpus:
        raise ClusterError(f"device is cuda, but {place} has no GPU: pass --device cpu")
    useful = [node for node in nodes if (node.gpus if on_gpus else node.cpus)]
    workers = compute.workers or (gpus if on_gpus else max(1, len(useful)))
    have = gpus if on_gpus else cpus
    if workers > have and (on_gpus or shared):
        kind = "GPU" if on_gpus else "CPU core"
        other = ", or --device cpu" if on_gpus else ""
        raise ClusterError(
            f"workers are {workers}, but {place} has {have} {kind}{'' if have == 1 else 's'}, and "
            f"each worker takes one: pass --workers {max(1, have)} or less{other}"
        )
    if not on_gpus and not shared and workers > _A_CORE * cpus:
        raise ClusterError(
            f"workers are {workers}, but {place} has {cpus} CPU core{'' if cpus == 1 else 's'}: "
            f"expected {_A_CORE} a core at most; pass --workers {max(1, cpus)}"
        )
    if on_gpus:
        threads = min(node.cpus // node.gpus for node in useful)
    elif compute.workers is None:
        threads = min((node.cpus for node in useful), default=1)
    else:
        threads = _threads([node.cpus for node in useful], workers)
    return Placement(workers=workers, device="cuda" if on_gpus else "cpu", threads=max(1, threads))


def _threads(cpus: Sequence[int], workers: int) -> int:
    """The most cores a worker can have if all have as many; 0: there are fewer than workers."""
    most = max(cpus, default=0)
    return next((n for n in range(most, 0, -1) if sum(c // n for c in cpus) >= workers), 0)
