"""Measure, in seconds, what the operations of a search take on this machine (`cost_pace.Pace`).

Everything runs on the code that the search runs on, with the dense model's own weights and images:
a batch through each segment, norms matched on it, the statistics of a calibration batch, and the
recovery of the layers that are dearest to recover. What was not measured of a layer is scaled from
one that was, by the products of its consumers' matrices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median

import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.input_statistics import BatchSums, Moments
from primesvt_deploy.analysis.reconstruction import reconstruction_importance
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.data.pixel_cache import cached, uncached, unread
from primesvt_deploy.families.network import Segment
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.pipeline.cost_memory import GrowthOf
from primesvt_deploy.pipeline.cost_pace import Pace, SegmentPace
from primesvt_deploy.pruning.plan import Plan, kept_width
from primesvt_deploy.pruning.recovery.recovery import NORM_IMAGES, Recovery
from primesvt_deploy.pruning.search.chunk_evaluator import EvaluatedOn, first_segment
from primesvt_deploy.pruning.search.plan_networks import PlanNetworks
from primesvt_deploy.pruning.search.state_cache import StateCache
from primesvt_deploy.settings import SearchSettings

__all__ = ["QUICK_S", "THOROUGH_S", "measure_pace"]

QUICK_S, THOROUGH_S = 2.0, 9.0
"""Seconds of measuring: before a build, for the time left; where its cost is asked for."""
_FORWARD, _MATCHING, _RECOVERING, _RANKING = 0.2, 0.25, 0.2, 0.25
"""Shares of them; the rest is of the calibration batch."""
_STEPS = (1, 9)
"""Eliminated channels of which the time of one is told."""
_SHRINKING = 0.65
"""Of the time of the first steps, that of all on average: the matrices lose their columns."""
_DECODED = 8
"""Images that are decoded to see what one takes."""
_PLACE = (0, 1)
"""The chunk that states are cached under."""


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """A network, what it is measured on, and how long that may take.

    Args:
        model: the dense SViT.
        groups: that can lose channels.
        images: that candidates are judged on; None: random ones stand for them.
        settings: of the search.
        on: device and arithmetic.
        seconds: to spend, about.
    """

    model: SViT
    groups: Sequence[Group]
    images: ImageList | None
    settings: SearchSettings
    on: EvaluatedOn
    seconds: float

    def samples(self, count: int) -> torch.Tensor:
        """Samples as the network takes them, `count` at most."""
        if self.images is None or not len(self.images):
            return self.model.config.example(count)
        return time_first(torch.from_numpy(self.images.inputs(0, min(count, len(self.images)))))

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds of some work, with what it leaves for the device to do."""
        started = time.perf_counter()
        work()
        if self.on.device.type == "cuda":
            torch.cuda.synchronize(self.on.device)
        return time.perf_counter() - started


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
        decode_s, images = _decoding(images), cached(images.first(on.batch_of(model)), None)
    while True:
        probe = _Probe(
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
    """Seconds to read, decode and crop an image; 0: they lie decoded."""
    source = uncached(images.first(_DECODED))
    if not unread(source):
        return 0.0
    started = time.perf_counter()
    source.inputs(0, len(source))
    return (time.perf_counter() - started) / len(source)


@torch.no_grad()
def _measured(probe: _Probe, calibration: ImageList | None) -> Pace:
    networks = PlanNetworks(probe.model, probe.groups, probe.on.device)
    pace = _forward(probe, networks)
    if not probe.settings.recover or calibration is None or not probe.groups:
        return pace
    return _with_recovery(probe, networks, pace, calibration)


def _forward(probe: _Probe, networks: PlanNetworks) -> Pace:
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
    probe: _Probe, networks: PlanNetworks, entrance: Mapping[str, int], count: int
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


def _with_recovery(
    probe: _Probe, networks: PlanNetworks, pace: Pace, calibration: ImageList
) -> Pace:
    """The same with the seconds of calibration and of recovering candidates."""
    share = _MATCHING * probe.seconds
    # Norms are recorded once and matched twice, each some three times as slow as a plain pass.
    size = max(2, min(probe.model.batch_of(32), int(share / (9.0 * pace.image_s))))
    recovery = Recovery(
        probe.model,
        probe.groups,
        calibration.first(size),
        probe.settings.recover,
        device=probe.on.device,
    )
    count = min(size, len(calibration))
    calibrating = 0.0
    if recovery.needs_moments:
        calibrating = _calibrated(probe, recovery) / count
        pace = replace(pace, moment_bytes=_bytes(recovery.moments))
    if recovery.matches_norms:
        found = [_matched(probe, networks, recovery) for _ in range(2)][-1]
        pace = replace(
            pace,
            matched_images=max(2, probe.model.batch_of(NORM_IMAGES)),
            segments=tuple(
                replace(segment, match_s=seconds / count)
                for segment, seconds in zip(pace.segments, found, strict=True)
            ),
        )
    return replace(
        pace,
        calibration_s=calibrating,
        recovery_s=_recovering(probe, networks, recovery),
        importance_s=_ranking(probe, recovery),
    )


def _calibrated(probe: _Probe, recovery: Recovery) -> float:
    """Seconds of measuring a batch's inputs; the recovery has its statistics from then on."""
    found: list[BatchSums] = []
    seconds = [probe.timed(lambda: found.append(recovery.sums_of(0))) for _ in range(2)]
    recovery.sums_elsewhere = lambda _: found[:1]
    recovery.prepare()
    return min(seconds)  # the first makes the network


def _matched(probe: _Probe, networks: PlanNetworks, recovery: Recovery) -> list[float]:
    """Seconds of matching the norms of each segment."""
    network = networks.in_layout(recovery.masked(_halved(probe.groups[0])))
    state = networks.state_in_layout(recovery.state)
    times: list[float] = []

    def seen(index: int, state: torch.Tensor) -> None:
        probe.timed(lambda: times.append(time.perf_counter()))

    probe.timed(lambda: recovery.match(network, state, remember=seen))
    times.append(time.perf_counter())
    return [after - before for before, after in pairwise(times)]


def _recovering(probe: _Probe, networks: PlanNetworks, recovery: Recovery) -> dict[str, float]:
    """Seconds of all but norms in the recovery of a candidate, for each group."""

    def seconds(group: Group) -> float:
        return probe.timed(lambda: networks.lowered(recovery.masked(_halved(group))))

    work = {group.name: 1e6 + _products(group, recovery, cubed=True) for group in probe.groups}
    return _measured_first(probe.groups, work, seconds, _RECOVERING * probe.seconds)


def _ranking(probe: _Probe, recovery: Recovery) -> dict[str, float]:
    """Seconds of ranking the channels of each group, where the policy does that."""
    if probe.settings.policy != "greedy" or not recovery.needs_moments:
        return {}
    module = probe.model.module  # it stays on the CPU; the statistics lie on the device
    moments = recovery.moments

    def seconds(group: Group) -> float:
        few, more = (
            probe.timed(partial(reconstruction_importance, module, group, moments, steps=n))
            for n in _STEPS
        )
        steps = group.width // group.heads
        one = max(0.0, more - few) / (_STEPS[1] - _STEPS[0])
        return few + _SHRINKING * one * (steps - _STEPS[0])

    work = {group.name: 1e6 + _products(group, recovery) for group in probe.groups}
    return _measured_first(probe.groups, work, seconds, _RANKING * probe.seconds)


def _measured_first(
    groups: Sequence[Group],
    work: Mapping[str, float],
    seconds: Callable[[Group], float],
    budget: float,
) -> dict[str, float]:
    """Seconds of every group: the dearest are measured while there is time, others are scaled.

    Args:
        groups: of the model.
        work: of each, in whatever unit.
        seconds: measures one.
        budget: seconds to spend; the dearest and the cheapest are measured all the same.
    """
    ordered = sorted(groups, key=lambda group: -work[group.name])
    found: dict[str, float] = {}
    started = time.perf_counter()
    for group in (ordered[0], ordered[-1], *ordered[1:-1]):
        if len(found) < 2 or time.perf_counter() - started < budget:
            found[group.name] = seconds(group)
    measured = list(found)
    for group in ordered:
        if group.name not in found:
            nearest = min(measured, key=lambda name: abs(work[name] - work[group.name]))
            found[group.name] = found[nearest] * work[group.name] / work[nearest]
    return found


def _products(group: Group, recovery: Recovery, *, cubed: bool = False) -> float:
    """Products of the matrices of a group's consumer layers: to factor them, or to eliminate."""
    if not recovery.needs_moments:
        return 0.0
    seen = (recovery.moments.inputs.get(name) for name in group.inputs)
    widths = [len(each.mean) for each in seen if each is not None and each.covariance is not None]
    if cubed:
        return float(sum(columns**3 for columns in widths))
    # Every channel's columns are eliminated from the inverse, one channel after another.
    return float(sum(columns**2 * columns for columns in widths))


def _halved(group: Group) -> Plan:
    """The plan that takes half of a group's channels, as many of each head."""
    width, head = kept_width(group, 0.5, multiple=1) // group.heads, group.width // group.heads
    kept = [first * head + index for first in range(group.heads) for index in range(width)]
    return Plan().replacing(group.name, kept)


def _bytes(moments: Moments) -> int:
    """Bytes of the statistics that are kept."""
    found = (each.covariance for each in moments.inputs.values())
    return sum(each.nbytes for each in found if each is not None)
