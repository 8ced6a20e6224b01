"""Measure what the recovery of candidates takes on this machine, and the ranking of channels.

What was not measured of a layer is scaled from one that was, by the products of its consumers'
matrices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.analysis.input_statistics import BatchSums, Moments
from primesvt_deploy.analysis.reconstruction import reconstruction_importance
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.pipeline.cost_pace import Pace
from primesvt_deploy.pipeline.cost_probe import Probe
from primesvt_deploy.pruning.plan import Plan, kept_width
from primesvt_deploy.pruning.recovery.recovery import NORM_IMAGES, Recovery
from primesvt_deploy.pruning.search.plan_networks import PlanNetworks

__all__ = ["with_recovery"]

_MATCHING, _RECOVERING, _RANKING = 0.25, 0.2, 0.25
"""Shares of the seconds to spend."""
_STEPS = (1, 9)
"""Eliminated channels of which the time of one is told."""
_SHRINKING = 0.65
"""Of the time of the first steps, that of all on average: the matrices lose their columns."""


def with_recovery(probe: Probe, networks: PlanNetworks, pace: Pace, calibration: ImageList) -> Pace:
    """The pace with the seconds of calibration, of recovering candidates, and of ranking channels.

    Args:
        probe: what is measured with.
        networks: of the model, on the probe's device.
        pace: of the dense network.
        calibration: images that candidates are recovered on.
    """
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


def _calibrated(probe: Probe, recovery: Recovery) -> float:
    """Seconds of measuring a batch's inputs; the recovery has its statistics from then on."""
    found: list[BatchSums] = []
    seconds = [probe.timed(lambda: found.append(recovery.sums_of(0))) for _ in range(2)]
    recovery.sums_elsewhere = lambda _: found[:1]
    recovery.prepare()
    return min(seconds)  # the first makes the network


def _matched(probe: Probe, networks: PlanNetworks, recovery: Recovery) -> list[float]:
    """Seconds of matching the norms of each segment."""
    network = networks.in_layout(recovery.masked(_halved(probe.groups[0])))
    state = networks.state_in_layout(recovery.state)
    times: list[float] = []

    def seen(index: int, state: torch.Tensor) -> None:
        probe.timed(lambda: times.append(time.perf_counter()))

    probe.timed(lambda: recovery.match(network, state, remember=seen))
    times.append(time.perf_counter())
    return [after - before for before, after in pairwise(times)]


def _recovering(probe: Probe, networks: PlanNetworks, recovery: Recovery) -> dict[str, float]:
    """Seconds of all but norms in the recovery of a candidate, for each group."""

    def seconds(group: Group) -> float:
        return probe.timed(lambda: networks.lowered(recovery.masked(_halved(group))))

    work = {group.name: 1e6 + _products(group, recovery, cubed=True) for group in probe.groups}
    return _measured_first(probe.groups, work, seconds, _RECOVERING * probe.seconds)


def _ranking(probe: Probe, recovery: Recovery) -> dict[str, float]:
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
