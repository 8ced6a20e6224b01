"""Process that loads one model, then times runs of it on request.

    python -m primesvt_deploy.edge.bench.worker MODEL PROFILE_JSON THREADS BATCH

It prints one JSON line on what loading took, then answers each line on its standard input:
`time N` with the wall times of N runs, `quit` with its memory. Nothing here imports numpy or
onnxruntime before their stage.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from primesvt_deploy.edge.runtime.errors import BundleError, DeployError
from primesvt_deploy.edge.runtime.memory import resident
from primesvt_deploy.edge.runtime.profiles import SessionProfile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["feed_of", "main"]

_SEED = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve requests until `quit`; the exit code: 0, or 2 with one line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    path, profile, threads, batch = given[0], json.loads(given[1]), int(given[2]), int(given[3])
    try:
        loading, call = _loaded(path, SessionProfile.from_dict(profile), threads, batch)
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    _say(loading)
    gc.disable()
    for line in sys.stdin:
        word, _, count = line.strip().partition(" ")
        if word == "time":
            _say(_times(call, int(count)))
        elif word == "quit":
            _say({"resident": resident(), "cpu_seconds": time.process_time()})
            break
    return 0


def _loaded(
    path: str, profile: SessionProfile, threads: int, batch: int
) -> tuple[dict[str, Any], Callable[[], object]]:
    """Load the model: cost of import, load and first run, and the call to time."""
    memory = {"start": resident()}
    begun = time.perf_counter()
    import numpy  # noqa: F401  (its import is part of the stage)

    from primesvt_deploy.edge.runtime.session import OnnxModel

    imported = time.perf_counter()
    memory["imported"] = resident()
    model = OnnxModel(path, threads=threads, profile=profile)
    loaded = time.perf_counter()
    memory["session"] = resident()
    size = model.fixed_batch or batch
    session = model.session
    feed = feed_of(session, size)

    def call() -> object:
        return session.run(None, feed)

    running = time.perf_counter()
    call()
    ran = time.perf_counter()
    memory["first run"] = resident()
    loading = {
        "batch": size,
        "sample_shape": list(model.sample_shape),
        "seconds": {
            "import": imported - begun,
            "load": loaded - imported,
            "first_run": ran - running,
        },
        "memory": memory,
    }
    return loading, call


def feed_of(session: Any, batch: int) -> dict[str, Any]:
    """Make inputs for one run: noise with the mean and deviation of preprocessed images.

    Args:
        session: session of ONNX Runtime.
        batch: number of samples, where the model does not fix it.

    Raises:
        BundleError: more than the batch is left open.
    """
    import numpy as np

    declared = session.get_inputs()[0]
    if sum(not isinstance(size, int) for size in declared.shape) > 1:
        raise BundleError(
            f"input {declared.name} {declared.shape} has no fixed size: fix all but batch"
        )
    shape = [size if isinstance(size, int) else batch for size in declared.shape]
    noise = np.random.default_rng(_SEED).standard_normal(shape, dtype=np.float32)
    return {declared.name: noise}


def _times(call: Callable[[], object], count: int) -> dict[str, Any]:
    """Time `count` runs, ms, after an untimed one that fills the caches again."""
    call()
    times = []
    for _ in range(count):
        begun = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - begun) / 1e6)
    return {"ms": times}


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    sys.exit(main())
