"""A session with Ray: a private one on this machine, or a cluster that runs already."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from primesvt_deploy.cluster.crew import Crew
from primesvt_deploy.cluster.ending import shut_down, sigterm_kept
from primesvt_deploy.cluster.host import Stored
from primesvt_deploy.cluster.library import (
    only_loopback,
    own_modules,
    own_token,
    ray_library,
    token_mode,
    unheard,
)
from primesvt_deploy.cluster.placement import Node, Placement, place_workers
from primesvt_deploy.cluster.reach import Reached, reach
from primesvt_deploy.cluster.versions import check_versions, make_report
from primesvt_deploy.errors import ClusterError, first_line
from primesvt_deploy.settings.compute import ComputeSettings

__all__ = ["RaySession"]

_STORE_BYTES = 512 << 20
"""Shared memory of a private Ray for what is put once; what is more goes to files."""
_RESTARTS = 5
_REPORT_SECONDS = 60.0
_LONGEST_FOLDER = 40
"""Ray's sockets are some 60 characters deeper, and a socket's path has 107 at most."""


class RaySession:
    """Starts Ray, or joins a cluster, for as long as the context lasts; then nothing is left.

    A private Ray listens on 127.0.0.1 alone. It ends with the context, thus at an exception, at
    Ctrl-C and at SIGTERM; where this process is killed its workers end at once, and the last of
    Ray's own processes a minute later. A process that has had one joins no cluster of another
    token: Ray remembers the first.

    Args:
        compute: workers or a cluster (`ComputeSettings.distributed`).

    Attributes:
        placement: number of workers, their device and threads; known within the context.
    """

    def __init__(self, compute: ComputeSettings) -> None:
        self._compute = compute
        self._ray = ray_library()
        self._open = ExitStack()
        self.placement: Placement

    def __enter__(self) -> RaySession:
        """Start or join, and check all that can be checked before work.

        Raises:
            SettingsError, ClusterError: the cluster cannot be reached, is of other versions, or is
                too small.
        """
        with ExitStack() as opening:
            end_at_sigterm = opening.enter_context(sigterm_kept())
            opening.enter_context(unheard())
            if self._compute.ray is None:
                self._start(opening)
            else:
                self._join(opening, reach(self._compute.ray))
            end_at_sigterm()
            self._open = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def spawn(
        self,
        kind: type,
        arguments: Callable[[int], tuple[Any, ...]],
        *,
        restarts: int = _RESTARTS,
    ) -> Crew:
        """Start a worker of a class on each place; see `Crew`.

        Raises:
            ClusterError: not all start in time.
        """
        demand = 1.0 if self._compute.ray is not None or self.placement.device == "cuda" else 0.0
        kind_of = "GPU" if self.placement.device == "cuda" else "CPU"
        return Crew(kind, arguments, self.placement, {kind_of: demand}, restarts=restarts)

    def put(self, value: Any) -> Stored:
        """Keep a value in Ray's store: a small stand-in for it in arguments of workers."""
        return Stored(self._ray.put(value))

    def _start(self, opening: ExitStack) -> None:
        import torch

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        here = Node(cpus=torch.get_num_threads(), gpus=gpus)
        self.placement = place_workers([here], self._compute, "this machine", shared=False)
        opening.enter_context(only_loopback())
        opening.enter_context(own_modules())
        opening.enter_context(own_token())
        folder = opening.enter_context(_short_folder())
        opening.callback(shut_down, self._ray.shutdown)
        self._init(
            address="local",
            _node_ip_address="127.0.0.1",
            num_cpus=self.placement.workers,
            num_gpus=gpus,
            object_store_memory=_STORE_BYTES,
            include_dashboard=False,
            _temp_dir=folder,
        )

    def _join(self, opening: ExitStack, reached: Reached) -> None:
        opening.enter_context(token_mode(reached.token))
        if reached.on_loopback:
            opening.enter_context(only_loopback())
        opening.callback(self._ray.shutdown)
        self._init(address=reached.address)
        place = f"the Ray cluster at {self._compute.ray}"
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        self.placement = place_workers(
            [
                Node(cpus=int(has.get("CPU", 0)), gpus=int(has.get("GPU", 0)))
                for has in (node["Resources"] for node in nodes)
            ],
            self._compute,
            place,
        )
        check_versions(make_report()(), self._reports(nodes))

    def _init(self, **options: Any) -> None:
        try:
            self._ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
        except (RuntimeError, OSError, ValueError, self._ray.exceptions.RayError) as error:
            raise ClusterError(f"Ray does not start: {first_line(error)}") from error

    def _reports(self, nodes: list[dict[str, Any]]) -> dict[str, dict[str, str | None]]:
        """Versions on each node that has cores or GPUs."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task = self._ray.remote(num_cpus=0, max_retries=0)(make_report())
        useful = [n for n in nodes if n["Resources"].get("CPU") or n["Resources"].get("GPU")]
        calls = [
            task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False)
            ).remote()
            for n in useful
        ]
        names = [n["NodeManagerHostname"] for n in useful]
        try:
            found = self._ray.get(calls, timeout=_REPORT_SECONDS)
        except self._ray.exceptions.GetTimeoutError as error:
            raise ClusterError(
                f"nodes of {self._compute.ray} ({', '.join(names)}) do not all answer within "
                f"{_REPORT_SECONDS:.0f} s: look at `ray status`"
            ) from error
        except self._ray.exceptions.RayError as error:
            raise ClusterError(
                f"a node of {self._compute.ray} cannot run Python functions of this process: "
                f"{first_line(error)}"
            ) from error
        return dict(zip(names, found, strict=True))


@contextmanager
def _short_folder() -> Iterator[str]:
    """A folder for Ray's logs and sockets, that is removed."""
    place = tempfile.gettempdir()
    if len(place) > _LONGEST_FOLDER and Path("/tmp").is_dir():
        place = "/tmp"
    with tempfile.TemporaryDirectory(prefix="svt-", dir=place, ignore_cleanup_errors=True) as made:
        yield made
