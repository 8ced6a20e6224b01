"""A device of little memory for tests: batches above a size run out of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from primesvt_deploy.lowering import lif

__all__ = ["memory_for"]


@contextmanager
def memory_for(samples: int, timesteps: int) -> Iterator[list[int]]:
    """Have neurons of lowered networks run out of memory above so many samples.

    Args:
        samples: that fit.
        timesteps: T of the network.

    Yields:
        The samples of each batch that failed.
    """
    failed: list[int] = []
    fire = lif.integrate_and_fire

    def firing(x: torch.Tensor, constants: lif.ChargeFireReset) -> torch.Tensor:
        count = len(x) if constants.static_input else len(x) // timesteps
        if count > samples and not constants.static_input:  # some layers have been run by then
            failed.append(count)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fire(x, constants)

    with mock.patch.object(lif, "integrate_and_fire", firing):
        yield failed
