"""The sequential test on hits that were recorded of candidates of the reference model.

`tools/record_hits.py` wrote them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from primesvt_deploy.measure.intervals import PairedDrop
from primesvt_deploy.measure.sequential import ERROR_RATE, SequentialTest

FIXTURE = Path(__file__).parents[1] / "fixtures" / "recorded_hits.npz"
CHUNK, ORDERS = 32, 12
LIMITS = (1.0, 3.0, 5.0)


@pytest.fixture(scope="module")
def recorded() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Hits of the dense model, `[images]`, and of the candidates, `[candidates, images]`."""
    with np.load(FIXTURE) as found:
        count = int(found["images"])
        dense = np.unpackbits(found["dense"], count=count).astype(np.bool_)
        others = np.unpackbits(found["candidates"], axis=1, count=count).astype(np.bool_)
    return dense, others


def test_decisions_in_any_order_are_those_on_all_images(
    recorded: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]],
) -> None:
    dense, candidates = recorded
    assert len(dense) >= 1000
    assert len(candidates) >= 20
    generator = np.random.default_rng(0)
    wrong, seen = [], []
    for candidate in candidates:
        points = PairedDrop.of(dense, candidate).points
        for allowed in LIMITS:
            for _ in range(ORDERS):
                order = generator.permutation(len(dense))
                test = SequentialTest(len(dense), allowed)
                for start in range(0, len(dense), CHUNK):
                    part = order[start : start + CHUNK]
                    if test.see(dense[part], candidate[part]):
                        break
                wrong.append(test.within is not (points <= allowed))
                seen.append(test.seen)
    # Three standard errors above the stated rate, were every decision as hard as the hardest.
    most = ERROR_RATE + 3 * np.sqrt(ERROR_RATE * (1 - ERROR_RATE) / len(wrong))
    assert np.mean(wrong) < most
    assert np.mean(seen) < 0.6 * len(dense), "most decisions take few images"
