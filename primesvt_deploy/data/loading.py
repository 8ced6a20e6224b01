"""Decode many samples at once, in processes of PyTorch's `DataLoader`."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Generator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from primesvt_deploy.data.decoders import Decoder, Numbers, cropped
from primesvt_deploy.edge.runtime.steps import InputSteps

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = ["decoded", "loading_workers"]

_LEAST = 128
"""Samples for which a process is worth its start."""
_BATCH = 8
"""Samples that a process hands over at once."""


def loading_workers(count: int) -> int:
    """Processes that decode so many samples best; 0: this one alone.

    They are as many as PyTorch uses threads, or as there are cores, where these are fewer.
    """
    if count < 2 * _LEAST or multiprocessing.current_process().daemon:
        return 0  # a daemon may have no children
    import torch

    cores = min(len(os.sched_getaffinity(0)), torch.get_num_threads())
    workers = min(cores, count // _LEAST)
    return workers if workers > 1 else 0


def decoded(
    decode: Decoder, steps: InputSteps, numbers: Numbers, workers: int
) -> Generator[npt.NDArray[Any], None, None]:
    """Samples resized and cropped, one by one, in their order; close it to end it early.

    Args:
        decode: of the samples.
        steps: preprocessing, of which the resize and the crop are done.
        numbers: of the samples, `[n]`.
        workers: processes that decode them; 0: this one alone.

    Raises:
        DeployError: a sample cannot be read; the first in their order, and one line that names it.
        OSError, RuntimeError: a process could not be started, or was killed.
    """
    here = _Samples(decode, steps, numbers)
    if not workers:
        yield from (here.sample(index) for index in range(len(numbers)))
        return
    batches = iter(_loader(_Samples(decode.only(numbers), steps), workers, len(numbers)))
    try:
        for index, sample in enumerate(chain.from_iterable(batches)):
            # One that a process failed at fails here again, and says why.
            yield here.sample(index) if sample is None else sample
    finally:
        del batches  # which ends the processes


class _Samples:
    """The samples by their place, as a `DataLoader` takes them."""

    def __init__(self, decode: Decoder, steps: InputSteps, numbers: Numbers | None = None) -> None:
        self._decode, self._steps, self._numbers = decode, steps, numbers

    def sample(self, index: int) -> npt.NDArray[Any]:
        number = index if self._numbers is None else int(self._numbers[index])
        return cropped(self._steps, self._decode(number))

    def __getitem__(self, index: int) -> npt.NDArray[Any] | None:
        try:
            return self.sample(index)
        except Exception:
            return None


def _loader(samples: _Samples, workers: int, count: int) -> DataLoader[Any]:
    import torch
    from torch.utils.data import DataLoader

    return DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=_BATCH,
        sampler=range(count),
        num_workers=workers,
        collate_fn=list,  # arrays as they are: what they are made of does not go through /dev/shm
        generator=torch.Generator(),  # else the global one goes on by a number
        # A child that is started afresh would import torch, and run a script of the user again.
        multiprocessing_context="fork",
    )
