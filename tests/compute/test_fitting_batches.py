"""Batches that do not fit a device's memory are halved, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from primesvt_deploy.compute.fitting_batches import FittingBatches
from primesvt_deploy.errors import SettingsError


def doubled(most: int, seen: list[int]) -> object:
    """A function whose device has memory for so many samples."""

    def run(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch.shape[0])
        if batch.shape[0] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 2.0 * batch

    return run


def test_what_does_not_fit_is_run_in_halves_from_then_on_and_said_once() -> None:
    lines: list[str] = []
    sizes: list[int] = []
    fitting = FittingBatches(lines.append)
    samples = torch.arange(10.0)
    for _ in range(2):
        assert torch.equal(fitting.run(doubled(5, sizes), samples), 2.0 * samples)
    assert sizes == [10, 5, 5, 5, 5]
    assert lines == ["a batch of 10 does not fit the device's memory: 5 from now on"]


def test_batches_that_fitted_are_not_run_again() -> None:
    memory = [4, 4, 3, 3, 3, 3]
    done: list[range] = []

    def run(start: int, stop: int) -> None:
        if stop - start > memory.pop(0):
            raise torch.OutOfMemoryError
        done.append(range(start, stop))

    FittingBatches().each(run, 10, 4)
    assert done == [range(4), range(4, 8), range(8, 10)]
    done, memory = [], [4, 3, 2, 2, 2]
    FittingBatches().each(run, 10, 4)
    assert done == [range(4), range(4, 6), range(6, 8), range(8, 10)]


def test_along_another_axis() -> None:
    batch = torch.arange(12.0).reshape(2, 6)

    def run(part: torch.Tensor) -> torch.Tensor:
        if part.shape[1] > 3:
            raise torch.OutOfMemoryError
        return part + 1.0

    assert torch.equal(FittingBatches().run(run, batch, axis=1), batch + 1.0)


@pytest.mark.parametrize(
    ("fixed", "told"),
    [(False, "a single sample does not fit"), (True, "the artifact's batch of 4 does not fit")],
)
def test_what_cannot_be_halved_is_one_line(fixed: bool, told: str) -> None:
    with pytest.raises(SettingsError, match=told) as raised:
        FittingBatches(fixed=fixed).run(doubled(0, []), torch.zeros(4))
    assert "--device cpu" in str(raised.value) and "\n" not in str(raised.value)
