"""Warm up until stable, then time in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from primesvt_deploy.edge.bench.process import Worker
from primesvt_deploy.edge.bench.settings import BenchSettings

__all__ = ["Warmup", "in_turns", "warm_up"]

_WINDOW = 6
_TOLERANCE = 0.03
_BLOCK_SECONDS = 0.15


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Record of warming up a worker.

    Args:
        runs: number of runs, the first one included.
        seconds: duration.
        stable: whether the last blocks were within 3% of each other; otherwise time was up.
        run_ms: median of the last block, ms.
    """

    runs: int
    seconds: float
    stable: bool
    run_ms: float


def warm_up(
    call: Callable[[int], Sequence[float]],
    *,
    most_seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Warmup:
    """Run until block medians neither move nor scatter by more than 3%.

    Args:
        call: times a given number of runs, ms each.
        most_seconds: seconds after which warming up ends in any case.
        clock: gives the time, seconds.
    """
    begun = clock()
    medians = [median(call(1))]
    runs = 2  # each block has one untimed run before it
    while True:
        count = max(1, round(1e3 * _BLOCK_SECONDS / medians[-1]))
        medians.append(median(call(count)))
        runs += count + 1
        last = medians[-_WINDOW:]
        stable = len(medians) > _WINDOW and max(last) <= (1.0 + _TOLERANCE) * min(last)
        if stable or clock() - begun > most_seconds:
            return Warmup(runs=runs, seconds=clock() - begun, stable=stable, run_ms=medians[-1])


def in_turns(
    workers: Sequence[Worker],
    warmups: Sequence[Warmup],
    settings: BenchSettings,
    *,
    told: Callable[[], None] = lambda: None,
) -> list[list[list[float]]]:
    """Time workers in alternating blocks; wall times of each worker, ms, block by block.

    In each round each worker has a block of about `seconds / rounds`; who begins moves on by one
    from round to round.

    Args:
        workers: what is timed.
        warmups: how each was warmed up, in the same order.
        settings: seconds and rounds.
        told: called after each round.
    """
    budget = 1e3 * settings.seconds / settings.rounds
    counts = [max(1, round(budget / warmup.run_ms)) for warmup in warmups]
    blocks: list[list[list[float]]] = [[] for _ in workers]
    for number in range(settings.rounds):
        for place in range(len(workers)):
            index = (number + place) % len(workers)
            blocks[index].append(workers[index].time(counts[index]))
        told()
    return blocks
