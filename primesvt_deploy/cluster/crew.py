"""Workers of one kind, the calls of their methods, and how their failures are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from primesvt_deploy.cluster.host import Host, Stored
from primesvt_deploy.cluster.library import ray_library
from primesvt_deploy.cluster.placement import Placement
from primesvt_deploy.errors import ClusterError, DeployError, first_line

__all__ = ["Crew", "WorkerLostError"]

_START_SECONDS = 120.0
"""Within these a worker's process runs: on a cluster it imports from a shared file system."""
_CHECK_SECONDS = 5.0
"""Between two looks at the cluster while a call lasts."""
_REPLACED_SECONDS = 300.0
"""What a node that left gets to come back."""


class WorkerLostError(ClusterError):
    """A worker that died, and that is not started anew."""


class Crew:
    """Workers, each an object in a process of its own; a context manager that ends them.

    A call is repeated in a new process where the worker's was killed. Its arguments and results
    travel by pickle.

    Args:
        kind: class of the objects; its module has to be importable on all nodes.
        arguments: those of a worker's constructor, by its number; values of `put` arrive as what
            was put.
        placement: number of workers, their device and their threads.
        demands: what a worker takes of a node, by Ray's names.
        restarts: how often a worker is started anew before it is given up; 0: never.

    Raises:
        ClusterError: not all workers start in time.
    """

    def __init__(
        self,
        kind: type,
        arguments: Callable[[int], tuple[Any, ...]],
        placement: Placement,
        demands: dict[str, float],
        *,
        restarts: int,
    ) -> None:
        self._ray = ray_library()
        self._demands, self._restarts = demands, restarts
        self._short_since: float | None = None
        actor = self._ray.remote(Host).options(
            num_cpus=demands.get("CPU", 0),
            num_gpus=demands.get("GPU", 0),
            max_restarts=restarts,
            max_task_retries=-1 if restarts else 0,
            scheduling_strategy="SPREAD",
        )
        # Kept here, where a worker that is started anew finds what they stand for; pickled, as Ray
        # warns of references among them, which it does not keep itself.
        self._arguments = [arguments(number) for number in range(placement.workers)]
        pickled = [self._ray.cloudpickle.dumps(each) for each in self._arguments]
        self._actors = [actor.remote(kind, each, placement.threads) for each in pickled]
        try:
            self._await_start()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Number of workers."""
        return len(self._actors)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, whatever they do, and free their devices."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []

    def submit(self, worker: int, method: str, *arguments: Any) -> Any:
        """Have a worker called; it does one call after another. Returns what stands for it.

        Args:
            worker: its number.
            method: of its object.
            arguments: of the method; a value of `put` is called there to get what was put.
        """
        return self._actors[worker].call.remote(method, *arguments)

    def put(self, value: Any) -> Stored:
        """A small stand-in for a value in arguments of calls, that gives it when it is called."""
        return Stored(self._ray.put(value))

    def first_done(self, calls: Sequence[Any]) -> Any:
        """The first of some calls that is done; waits for one."""
        while True:
            done, _ = self._ray.wait(list(calls), num_returns=1, timeout=_CHECK_SECONDS)
            if done:
                return done[0]
            self._check_nodes()

    def result(self, call: Any) -> Any:
        """The result of a call; waits for it.

        Raises:
            DeployError: the method's own.
            ClusterError: the worker cannot be kept alive; `WorkerLostError` where it is not
                started anew.
        """
        self.first_done([call])
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(call)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, DeployError):
                raise error.cause from None
            raise
        except exceptions.OutOfMemoryError as error:
            raise self._lost("a node ran out of memory") from error
        except exceptions.RayActorError as error:
            raise self._lost("its process was killed, or crashed, or ran out of memory") from error
        except exceptions.RayError as error:
            raise ClusterError(f"the workers' Ray failed: {first_line(error)}") from error

    def results(self, calls: Sequence[Any]) -> list[Any]:
        """Results of calls, in their order; the first that fails ends the wait.

        Raises:
            DeployError: see `result`.
        """
        found, waiting = {}, list(calls)
        while waiting:
            call = self.first_done(waiting)
            waiting.remove(call)
            found[call] = self.result(call)
        return [found[call] for call in calls]

    def raise_loss(self, calls: Sequence[Any], seconds: float) -> None:
        """Raise the loss of a worker, if one of some calls ends with it within so many seconds.

        Raises:
            WorkerLostError, ClusterError: see `result`.
        """
        done, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=seconds)
        for call in done:
            try:
                self.result(call)
            except ClusterError:
                raise
            except Exception:
                continue  # what the method itself raised, which is known

    def processes(self) -> list[int]:
        """Process number of each worker on its node."""
        return self.results([actor.process.remote() for actor in self._actors])

    def _lost(self, reason: str) -> ClusterError:
        if not self._restarts:
            return WorkerLostError(f"a worker is lost: {reason}")
        return ClusterError(
            f"a worker was started {self._restarts + 1} times and is lost again: {reason}; free "
            "memory, or pass fewer --workers"
        )

    def _await_start(self) -> None:
        calls = [actor.process.remote() for actor in self._actors]
        done, waiting = self._ray.wait(calls, num_returns=len(calls), timeout=_START_SECONDS)
        for call in done:
            self.result(call)
        if waiting:
            free = self._ray.available_resources()
            kind = "GPU" if self._demands.get("GPU") else "CPU"
            raise ClusterError(
                f"{len(done)} of {len(calls)} workers started within {_START_SECONDS:.0f} s, each "
                f"takes a {kind} and {free.get(kind, 0.0):g} are free: wait for other work on the "
                f"cluster to end, or pass --workers {max(1, len(done))}"
            )

    def _check_nodes(self) -> None:
        """End the wait where the cluster stays too small for the workers: nodes have left it."""
        have = self._ray.cluster_resources()
        short = [
            kind for kind, each in self._demands.items()
            if have.get(kind, 0.0) < each * len(self._actors)
        ]  # fmt: skip
        if not short:
            self._short_since = None
            return
        now = time.monotonic()
        self._short_since = self._short_since or now
        if now - self._short_since > _REPLACED_SECONDS:
            kind = short[0]
            raise WorkerLostError(
                f"nodes have left the cluster: {have.get(kind, 0.0):g} {kind}s are left for "
                f"{len(self._actors)} workers; run the same command again with fewer --workers, "
                "it goes on where this one stopped"
            )
