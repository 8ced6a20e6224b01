"""Rules that end a candidate early, tried on recorded hits in many orders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.measure.intervals import PairedDrop
from primesvt_deploy.measure.sequential import ERROR_RATE, SequentialTest, most_lost

__all__ = ["RULES", "recorded_hits", "simulated"]

FIXTURE = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "recorded_hits.npz"
Hits = npt.NDArray[np.bool_]
Rule = Callable[[Hits, Hits, float], tuple[bool, int]]
"""Whether the drop is within a limit, by hits of reference and candidate, and images seen."""
_PRIOR = (1.5, 1.0, 40.0)
"""Of images lost, gained and neither, for the mixture likelihood ratio."""


def one_sided(dense: Hits, other: Hits, allowed: float) -> tuple[bool, int]:
    """The rule before: beyond at 2.576 standard errors at a look every 128; all images to keep."""
    for n in range(128, len(dense), 128):
        if PairedDrop.of(dense, other[:n]).surely_exceeds(allowed, 2.576):
            return False, n
    return PairedDrop.of(dense, other).points <= allowed, len(dense)


def betting(dense: Hits, other: Hits, allowed: float) -> tuple[bool, int]:
    """The rule now."""
    test = SequentialTest(len(dense), allowed)
    for start in range(0, len(dense), 32):
        if test.see(dense[start : start + 32], other[start : start + 32]):
            break
    return bool(test.within), test.seen


def z_test(dense: Hits, other: Hits, allowed: float, z: float = 3.7) -> tuple[bool, int]:
    """Standard errors of a finite population at a look every 32 images."""
    images, limit = len(dense), (most_lost(len(dense), allowed) + 0.5) / len(dense)
    losses = dense.astype(float) - other
    for n in range(32, images, 32):
        mean = losses[:n].mean()
        variance = max(((losses[:n] ** 2).sum() + 1) / (n + 2) - mean**2, 1e-9)
        error = math.sqrt(variance / n * (images - n) / (images - 1))
        if abs(mean - limit) > z * error:
            return bool(mean < limit), n
    return PairedDrop.of(dense, other).points <= allowed, images


def mixture(dense: Hits, other: Hits, allowed: float) -> tuple[bool, int]:
    """Likelihood of the counts, mixed by a Dirichlet prior, against the best null hypothesis.

    Waudby-Smith and Ramdas (2020), section 2, for three kinds of images; exact at every look.
    """
    images, most = len(dense), most_lost(len(dense), allowed)
    for n in range(32, images, 32):
        drop = PairedDrop.of(dense, other[:n])
        mixed = _mixed(drop)
        bar = -math.log(ERROR_RATE)
        mean = (drop.lost - drop.gained) / n
        if mean * images <= most and mixed - _best(drop, images, most + 1) >= bar:
            return True, n
        if mean * images > most and mixed - _best(drop, images, most) >= bar:
            return False, n
    return PairedDrop.of(dense, other).points <= allowed, images


RULES: dict[str, Rule] = {
    "before: one-sided, 2.576 standard errors": one_sided,
    "betting, two-sided (now)": betting,
    "z-test, two-sided, 3.7 standard errors": z_test,
    "mixture likelihood ratio, two-sided": mixture,
}


def recorded_hits() -> tuple[list[str], Hits, Hits]:
    """Names of candidates, and hits `[images]` of the dense model, `[candidates, images]`."""
    with np.load(FIXTURE) as found:
        count = int(found["images"])
        dense = np.unpackbits(found["dense"], count=count).astype(np.bool_)
        others = np.unpackbits(found["candidates"], axis=1, count=count).astype(np.bool_)
        return [str(name) for name in found["names"]], dense, others


def simulated(allowed: float, orders: int) -> dict[str, Any]:
    """Images and errors of each rule on the recorded candidates, and on worst cases.

    Args:
        allowed: points that may be lost.
        orders: random orders of the images for each candidate.
    """
    _, dense, others = recorded_hits()
    found = {}
    for name, rule in RULES.items():
        images, wrong, worst = [], [], 0.0
        for other in others:
            seen, errors = _tried(rule, dense, other, allowed, orders)
            images.append(seen)
            wrong.append(errors)
        for reference, candidate in worst_cases(len(dense), allowed):
            worst = max(worst, _tried(rule, reference, candidate, allowed, 4 * orders)[1])
        found[name] = {
            "images": round(float(np.mean(images)), 1),
            "median_images": float(np.median(images)),
            "wrong_percent": round(100.0 * float(np.mean(wrong)), 3),
            "worst_wrong_percent": round(100.0 * worst, 3),
        }
    return found


def worst_cases(images: int, allowed: float) -> Iterator[tuple[Hits, Hits]]:
    """Populations at the limit and just beyond it: nothing gained, and half of all changed."""
    for net in (most_lost(images, allowed), most_lost(images, allowed) + 1):
        for gained in (0, (images // 2 - net) // 2):
            reference, candidate = np.zeros(images, bool), np.zeros(images, bool)
            reference[: net + gained] = True
            candidate[net + gained : net + 2 * gained] = True
            yield reference, candidate


def _tried(
    rule: Rule, dense: Hits, other: Hits, allowed: float, orders: int
) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    expected = PairedDrop.of(dense, other).points <= allowed
    seen, wrong = 0, 0
    for _ in range(orders):
        order = generator.permutation(len(dense))
        within, images = rule(dense[order], other[order], allowed)
        seen, wrong = seen + images, wrong + (within is not expected)
    return seen / orders, wrong / orders


def _mixed(drop: PairedDrop) -> float:
    counts = (drop.lost, drop.gained, drop.n - drop.lost - drop.gained)
    each = sum(math.lgamma(a + n) - math.lgamma(a) for a, n in zip(_PRIOR, counts, strict=True))
    return each - math.lgamma(sum(_PRIOR) + drop.n) + math.lgamma(sum(_PRIOR))


def _best(drop: PairedDrop, images: int, net: int) -> float:
    """Log-likelihood of the counts in the likeliest population that loses so many more."""
    same = drop.n - drop.lost - drop.gained

    def likelihood(gained: int) -> float:
        whole = (gained + net, gained, images - 2 * gained - net)
        total = -math.lgamma(images + 1) + math.lgamma(images - drop.n + 1)
        for count, seen in zip(whole, (drop.lost, drop.gained, same), strict=True):
            total += math.lgamma(count + 1) - math.lgamma(count - seen + 1)
        return total

    low, high = max(drop.gained, drop.lost - net, 0), (images - same - net) // 2
    if low > high:
        return -math.inf
    while high - low > 2:  # it is concave
        middle = (low + high) // 2
        low, high = (
            (middle + 1, high) if likelihood(middle) < likelihood(middle + 1) else (low, middle)
        )
    return max(likelihood(gained) for gained in range(low, high + 1))
