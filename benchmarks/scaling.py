"""A search shared by workers: measured with one and two here, projected to more at ImageNet's size.

    python benchmarks/scaling.py

The same candidates of the reference model are judged in this process, by one worker and by two, in
turns: seconds, images a second, and whether the ledgers are the same. What Ray adds to a candidate
is measured by calls that compute nothing, and by the bytes of its messages. For a network of the
size that people train on ImageNet (`LARGE`, 224 pixels, T = 4, random weights) seconds an image and
an image's states are measured on one core; from all of that the time of a search is projected.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from common import MEASURED, write
from ray import cloudpickle
from wide import network

from primesvt_deploy import load, open_data
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.context import SearchContext
from primesvt_deploy.pipeline.open_context import unjudged_context
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery.recovery import CALIBRATION_IMAGES, NORM_IMAGES
from primesvt_deploy.pruning.search.engine import Request
from primesvt_deploy.pruning.search.ledger import Candidate
from primesvt_deploy.pruning.search.query import Query
from primesvt_deploy.pruning.search.worker_engine import WorkerEngine
from primesvt_deploy.settings import ComputeSettings, SearchSettings

SEARCH = SearchSettings(max_drop=None, policy="greedy", search_images=384)
ROUNDS, CALLS = 2, 200
RATES = (0.5,)
IN_PROCESS = "in this process"
ENGINES = {IN_PROCESS: None, "1 worker": 1, "2 workers": 2}
LARGE = "Spikformer-8-512"
LARGE_IMAGES, LARGE_CANDIDATES = 50_000, 200
PROJECTED = (8, 64, 512)
CACHED_BYTES = 4e9
"""Memory of a worker for cached states."""


def main() -> None:
    """Measure and project."""
    model = load(MEASURED)
    data = open_data(model)
    rounds = [{name: judged(model, data, name) for name in ENGINES} for _ in range(ROUNDS)]
    ray = messages(model, data)
    large = large_network()
    write(
        "scaling",
        {
            "model": model.name,
            "ray": version("ray"),
            "settings": SEARCH.to_dict(),
            "rounds": ROUNDS,
            "engines": {name: summed([each[name] for each in rounds]) for name in ENGINES},
            "ledgers_equal": same([found["ledger"] for each in rounds for found in each.values()]),
            "messages": ray,
            "large": large,
            "projection": {
                "images": LARGE_IMAGES,
                "candidates": LARGE_CANDIDATES,
                "workers": {count: projected(large, ray, count) for count in (1, *PROJECTED)},
            },
        },
    )


def judged(model: SViT, data: Any, name: str) -> dict[str, Any]:
    """Candidates of one engine, and the seconds that they took once it was ready."""
    with context_of(model, data, ENGINES[name]) as context:
        context.recovery.prepare()
        context.judge.dense()
        started = time.perf_counter()
        queries = [
            Query(
                plan=context.space.by_norm.pruned(Plan(), group, rate),
                step="robustness",
                group=group,
                rate=rate,
            )
            for group in context.prunable.groups
            for rate in RATES
        ]
        list(context.judge.judge_all(queries))
        seconds = time.perf_counter() - started
        candidates = list(context.ledger)[1:]
        return {
            "seconds": seconds,
            "images": sum(candidate.n for candidate in candidates),
            "candidates": len(candidates),
            "ledger": [replace(candidate, seconds=0.0) for candidate in context.ledger],
        }


def context_of(model: SViT, data: Any, workers: int | None) -> SearchContext:
    """Context of a search whose candidates are evaluated here, or by so many workers."""
    compute = ComputeSettings(device="cpu", workers=workers)
    return unjudged_context(model, SEARCH, data, compute=compute)


def summed(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds."""
    seconds = statistics.median(found["seconds"] for found in rounds)
    images, candidates = rounds[0]["images"], rounds[0]["candidates"]
    return {
        "seconds": round(seconds, 2),
        "least_seconds": round(min(found["seconds"] for found in rounds), 2),
        "most_seconds": round(max(found["seconds"] for found in rounds), 2),
        "candidates": candidates,
        "images": images,
        "images_a_second": round(images / seconds, 1),
    }


def same(ledgers: Sequence[list[Candidate]]) -> bool:
    """Whether all ledgers have the same candidates in the same order."""
    return all(ledger == ledgers[0] for ledger in ledgers)


def messages(model: SViT, data: Any) -> dict[str, Any]:
    """Latency of calls that compute nothing, and bytes of what is sent."""
    with context_of(model, data, 2) as context:
        context.judge.dense()
        engine = context.engine
        assert isinstance(engine, WorkerEngine)
        taken = timed(lambda: engine.call_all("process"), CALLS)
        group = context.prunable.groups[0]
        plan = context.space.by_norm.pruned(Plan(), group, 0.5)
        request = Request(plan, (group.name,))
        chunk = (0, engine.chunk)
        logits = np.zeros((engine.chunk, len(model.labels)), dtype=np.float32)
        return {
            "calls": CALLS,
            "median_ms": round(1000.0 * statistics.median(taken), 2),
            "p95_ms": round(1000.0 * sorted(taken)[int(0.95 * len(taken))], 2),
            "request_bytes": len(cloudpickle.dumps((request, chunk))),
            "logits_bytes": len(cloudpickle.dumps(logits)),
            "images_of_a_chunk": engine.chunk,
            "once": {
                "model_bytes": len(cloudpickle.dumps(model)),
                "moments_bytes": len(cloudpickle.dumps(context.recovery.moments)),
                "image_bytes": data.search.pixels(0).nbytes,
            },
        }


def timed(call: Callable[[], object], times: int) -> list[float]:
    """Seconds of each of so many calls, one after another."""
    call()
    found = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return found


@torch.no_grad()
def large_network() -> dict[str, Any]:
    """Seconds an image of a large network on one core, and bytes of its states."""
    model = network(LARGE)
    lowered = lower_module(model.module).to(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    batch = model.batch_of(32)
    images = torch.randn(batch, *model.config.input_shape, generator=torch.manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    seconds, states = [], {}
    for _ in range(5):
        started, state = time.perf_counter(), images
        for segment in lowered.segments():
            state = segment.run(state)
            whole = torch.equal(state.to(torch.uint8).to(state.dtype), state)
            states[segment.name] = state.nbytes / batch / (4 if whole else 1)
        seconds.append((time.perf_counter() - started) / batch)
    torch.set_num_threads(threads)
    return {
        "name": LARGE,
        "batch": batch,
        "seconds_an_image": round(statistics.median(seconds[1:]), 4),
        "parameter_bytes": 4 * sum(each.numel() for each in model.module.parameters()),
        "state_bytes_an_image": round(sum(states.values())),
        "pixels_bytes_an_image": int(np.prod(model.config.input_shape)),
    }


def projected(large: dict[str, Any], ray: dict[str, Any], workers: int) -> dict[str, Any]:
    """Time of a search on all images by so many workers of one core each, from measured costs.

    Each candidate is recovered by every worker on `NORM_IMAGES` images; of its chunks each worker
    has its share, the slowest one more than others. Prefixes are not counted on: the states of a
    worker's shard are compared with the memory that it has for them.
    """
    chunk = ray["images_of_a_chunk"]
    waves = math.ceil(math.ceil(LARGE_IMAGES / chunk) / workers)
    an_image, call = large["seconds_an_image"], ray["median_ms"] / 1000.0
    evaluated = waves * chunk * an_image
    recovered = NORM_IMAGES * an_image
    messages = waves * call * max(1.0, workers / 2)  # measured with two
    batches = -(-CALIBRATION_IMAGES // large["batch"])
    calibrated = -(-batches // workers) * large["batch"] * an_image
    candidate = evaluated + recovered + messages
    held = LARGE_IMAGES / workers * large["state_bytes_an_image"]
    return {
        "seconds_a_candidate": round(candidate, 1),
        "hours": round((LARGE_CANDIDATES * candidate + evaluated + calibrated) / 3600.0, 1),
        "share": {
            "evaluation": round(evaluated / candidate, 3),
            "recovery": round(recovered / candidate, 3),
            "messages": round(messages / candidate, 3),
        },
        "idle": round(1.0 - LARGE_IMAGES / (waves * chunk * workers), 3),
        "shard_images": waves * chunk,
        "shard_pixels_mb": round(waves * chunk * large["pixels_bytes_an_image"] / 1e6),
        "shard_states_gb": round(held / 1e9, 1),
        "states_fit": held <= CACHED_BYTES,
    }


if __name__ == "__main__":
    main()
