"""Process that loads one model, then times runs of it on request.

    python -m primesvt_deploy.edge.bench.worker MODEL PROFILE_JSON THREADS BATCH [SAMPLES]

PROFILE_JSON is `null` for the native runtime; SAMPLES is an `.npy`, without which noise is run. It
prints one JSON line on what loading took, then answers each line on its standard input: `time N`
with the wall times of N runs, `quit` with its memory. Nothing here imports numpy or onnxruntime
before their stage.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from primesvt_deploy.edge.runtime.errors import BundleError, DeployError
from primesvt_deploy.edge.runtime.memory import resident
from primesvt_deploy.edge.runtime.profiles import SessionProfile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

__all__ = ["feed_of", "main"]

_SEED = 0
_IMAGE_AXES = 3
_PIXELS = "tensor(uint8)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve requests until `quit`; the exit code: 0, or 2 with one line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    path, profile, threads, batch = given[0], json.loads(given[1]), int(given[2]), int(given[3])
    samples = given[4] if given[4:] else None
    try:
        if profile is None:
            loading, call = _loaded_native(path, threads, batch, samples)
        else:
            loading, call = _loaded(
                path, SessionProfile.from_dict(profile), threads, batch, samples
            )
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
    path: str, profile: SessionProfile, threads: int, batch: int, samples: str | None
) -> tuple[dict[str, Any], Callable[[], object]]:
    """Load a model in ONNX Runtime: what that cost, and the call to time."""
    cost = _Cost()
    import numpy as np

    try:
        from primesvt_deploy.edge.runtime.session import OnnxModel
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise BundleError(
            "onnxruntime is not installed: pip install onnxruntime, or pass --runtime native"
        ) from error

    cost.stage("import", "imported")
    model = OnnxModel(path, threads=threads, profile=profile)
    cost.stage("load", "session")
    size, session = model.fixed_batch or batch, model.session
    if samples is None:
        feeds = [feed_of(session, size)]
    else:
        name, of_frames = session.get_inputs()[0].name, len(model.sample_shape) > _IMAGE_AXES
        feeds = [
            {name: np.ascontiguousarray(one.swapaxes(0, 1)) if of_frames else one}
            for one in _batches(np.load(samples), size)
        ]
    endless = itertools.cycle(feeds)

    def call() -> object:
        return session.run(None, next(endless))

    cost.restart()
    call()
    cost.stage("first_run", "first run")
    return {**cost.to_dict(), "batch": size, "sample_shape": list(model.sample_shape)}, call


def _loaded_native(
    path: str, threads: int, batch: int, samples: str | None
) -> tuple[dict[str, Any], Callable[[], object]]:
    """Load a model in the native runtime: what that cost, and the call to time."""
    cost = _Cost()
    import numpy as np

    from primesvt_deploy.edge.runtime.native import NativeModel

    cost.stage("import", "imported")
    # Whoever started this process has checked the file, as that of ONNX Runtime.
    model = NativeModel(path, threads=threads, checked=True)
    cost.stage("load", "session")
    if samples is None:
        feeds = [_noise((batch, *model.sample_shape), pixels=model.sample_dtype == np.uint8)]
    else:
        feeds = _batches(np.load(samples), batch)
    endless = itertools.cycle(feeds)

    def call() -> object:
        return model.logits(next(endless))

    cost.restart()
    call()
    cost.stage("first_run", "first run")
    found = {
        "batch": batch,
        "sample_shape": list(model.sample_shape),
        "kernels": model.kernels,
        "arena_bytes": model.arena_bytes,
    }
    return {**cost.to_dict(), **found}, call


class _Cost:
    """Time and memory of the stages of loading, from the moment that it is made."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._memory = {"start": resident()}
        self._begun = time.perf_counter()

    def restart(self) -> None:
        """Begin the next stage now, not where the last one ended."""
        self._begun = time.perf_counter()

    def stage(self, name: str, memory: str) -> None:
        """End a stage, named as its time and as its memory."""
        now = time.perf_counter()
        self._seconds[name] = now - self._begun
        self._memory[memory] = resident()
        self._begun = time.perf_counter()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"seconds": self._seconds, "memory": self._memory}


def _batches(samples: npt.NDArray[Any], batch: int) -> list[npt.NDArray[Any]]:
    """Batches `[batch, ...]` of samples `[n, ...]`; some are used again where they are few.

    Runs go through them in turn, so that a figure is not that of one image.
    """
    import numpy as np

    count = max(1, len(samples) // batch)
    places = np.arange(count * batch) % len(samples)
    return list(samples[places].reshape(count, batch, *samples.shape[1:]))


def _noise(shape: Sequence[int], *, pixels: bool) -> npt.NDArray[Any]:
    """Values with the mean and deviation of preprocessed images, or uint8 pixels."""
    import numpy as np

    generator = np.random.default_rng(_SEED)
    if pixels:
        return generator.integers(0, 256, tuple(shape), dtype=np.uint8)
    return generator.standard_normal(tuple(shape), dtype=np.float32)


def feed_of(session: Any, batch: int) -> dict[str, Any]:
    """Make inputs of noise for one run.

    Args:
        session: session of ONNX Runtime.
        batch: number of samples, where the model does not fix it.

    Raises:
        BundleError: more than the batch is left open.
    """
    declared = session.get_inputs()[0]
    if sum(not isinstance(size, int) for size in declared.shape) > 1:
        raise BundleError(
            f"input {declared.name} {declared.shape} has no fixed size: fix all but batch"
        )
    shape = [size if isinstance(size, int) else batch for size in declared.shape]
    return {declared.name: _noise(shape, pixels=declared.type == _PIXELS)}


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
