"""Measure, in seconds, what the operations of a search take on this machine (`cost_pace.Pace`).

Everything runs on the code that the search runs on, with the dense model's own weights and images:
a batch through each segment, and what recovery takes (`cost_recovery`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import numpy as np
import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.data.pixel_cache import cached, unread
from primesvt_deploy.families.network import Segment
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.cost_memory import GrowthOf
from primesvt_deploy.pipeline.cost_pace import Pace, SegmentPace
from primesvt_deploy.pipeline.cost_probe import Probe
from primesvt_deploy.pipeline.cost_recovery import with_recovery
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.chunk_evaluator import EvaluatedOn, first_segment
from primesvt_deploy.pruning.search.plan_networks import PlanNetworks
from primesvt_deploy.pruning.search.state_cache import StateCache
from primesvt_deploy.settings import SearchSettings

__all__ = ["QUICK_S", "THOROUGH_S", "measure_pace"]

QUICK_S, THOROUGH_S = 2.0, 9.0
"""Seconds of measuring: before a build, for the time left; where its cost is asked for."""
_FORWARD = 0.2
"""Share of them for the dense network; most of the rest is for recovery."""
_DECODED = 16
"""Images that are decoded to see what one takes, behind the first one."""
_PLACE = (0, 1)
"""The chunk that states are cached under."""


def measure_pace(
    model: SViT,
    groups: Sequence[Group],
    settings: SearchSettings,
    *,
    images: ImageList | None = None,
    calibration: ImageList | None = None,
    on: EvaluatedOn | None = None,
    seconds: float = QUICK_S,
) -> Pace:
    """The pace of a model's search on this machine.

    Args:
        model: the dense SViT.
        groups: that can lose channels.
        settings: how candidates are recovered, and which policy ranks channels.
        images: that candidates are judged on; None: random ones stand for them.
        calibration: that candidates are recovered on; None: nothing is recovered.
        on: device and arithmetic.
        seconds: to spend on it, about; a slow network takes longer.
    """
    started = time.perf_counter()
    on = on or EvaluatedOn()
    decode_s = 0.0
    if images is not None and len(images):
        # Candidates get them from a cache, which need not be there yet.
        images = cached(images.first(on.batch_of(model)), None)
        decode_s = _decoding(images)
    while True:
        probe = Probe(
            model=model, groups=groups, images=images, settings=settings, on=on, seconds=seconds
        )
        try:
            pace = _measured(probe, calibration)
        except torch.OutOfMemoryError:  # evaluation halves its batches as well
            if on.batch_of(model) == 1:
                raise
            on = replace(on, batch_size=on.batch_of(model) // 2)
            continue
        return replace(pace, measured_s=time.perf_counter() - started, decode_s=decode_s)


def _decoding(images: ImageList) -> float:
    """Seconds to read, decode and crop an image of a cache; 0: those that are tried are there."""
    count = min(_DECODED, len(images) - 1)
    images.inputs(0, 1)  # the first one is slower
    missing = unread(images.select(np.arange(1, 1 + count)))
    if not missing:
        return 0.0
    started = time.perf_counter()
    images.inputs(1, 1 + count)
    return (time.perf_counter() - started) / missing


@torch.no_grad()
def _measured(probe: Probe, calibration: ImageList | None) -> Pace:
    networks = PlanNetworks(probe.model, probe.groups, probe.on.device)
    pace = _forward(probe, networks)
    if not probe.settings.recover or calibration is None or not probe.groups:
        return pace
    return with_recovery(probe, networks, pace, calibration)


def _forward(probe: Probe, networks: PlanNetworks) -> Pace:
    """A batch through each segment of the dense network, several times."""
    segments = networks.dense.segments()
    entrance = {group.name: first_segment(group, segments) for group in probe.groups}
    most = probe.on.batch_of(probe.model)
    single = probe.timed(lambda: _passed(probe, networks, entrance, 1))  # warms up, too
    again = probe.timed(lambda: _passed(probe, networks, entrance, 1))
    share = _FORWARD * probe.seconds
    size = min(most, max(1, int(share / 2.0 / min(single, again))))
    repeats = max(1, min(5, int(share / (size * min(single, again)))))
    with GrowthOf(probe.on.device) as growth:
        found = [_passed(probe, networks, entrance, size) for _ in range(repeats)]
    count = found[0].images
    return Pace(
        segments=tuple(
            SegmentPace(
                forward_s=median(each.forward_s[i] for each in found) / count,
                match_s=0.0,
                keep_s=median(each.keep_s[i] for each in found) / count,
                state_bytes=found[0].state_bytes[i] / count,
            )
            for i in range(len(segments))
        ),
        entrance=entrance,
        batch=most,
        load_s=median(each.load_s for each in found) / count,
        activation_bytes=growth.bytes * most // count,
    )


@dataclass
class _Passed:
    """One pass of a batch: seconds of each segment, and of caching the states before them."""

    images: int
    load_s: float
    forward_s: list[float]
    keep_s: list[float]
    state_bytes: list[int]


def _passed(
    probe: Probe, networks: PlanNetworks, entrance: Mapping[str, int], count: int
) -> _Passed:
    states: list[torch.Tensor] = []

    def load() -> None:
        folded = networks.dense.fold(probe.samples(count))
        states.append(networks.state_in_layout(folded))

    passed = _Passed(0, probe.timed(load), [], [], [])
    passed.images = states[0].shape[0] // (
        probe.model.timesteps if probe.model.config.frames else 1
    )
    cache = StateCache(entrance, device=probe.on.device)
    kept = set(entrance.values()) - {0}
    for index, segment in enumerate(networks.dense.segments()):
        state = states.pop()
        seconds, size = 0.0, 0
        if index in kept:
            seconds = probe.timed(partial(cache.keep, Plan(), index, _PLACE, [state]))
            size = sum(each.nbytes for each in cache.states(index, _PLACE))
            cache.clear()
        passed.keep_s.append(seconds)
        passed.state_bytes.append(size)
        with probe.on.arithmetic():
            passed.forward_s.append(probe.timed(partial(_pushed, states, segment, state)))
    return passed


def _pushed(states: list[torch.Tensor], segment: Segment, state: torch.Tensor) -> None:
    states.append(segment.run(state))
