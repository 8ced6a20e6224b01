"""Halve a batch that does not fit the device's memory, and say so."""

from __future__ import annotations

from collections.abc import Callable

import torch

from primesvt_deploy.errors import SettingsError

__all__ = ["FittingBatches"]


class FittingBatches:
    """Runs batches on a device; what does not fit its memory is run in halves from then on.

    Args:
        tell: gets a line when a batch had to be halved.
    """

    def __init__(self, tell: Callable[[str], None] = lambda line: None) -> None:
        self._tell = tell
        self.most: int | None = None
        """Samples a batch has at most; None: whatever it was asked for has fitted."""

    def run(
        self, function: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, axis: int = 0
    ) -> torch.Tensor:
        """`function` of a batch, whose parts it treats as it does the whole.

        Args:
            function: run on parts of the batch along `axis`; its results are joined along `axis`.
            batch: the samples.
            axis: of the samples.

        Raises:
            SettingsError: a single sample does not fit.
        """
        while True:
            size = batch.shape[axis]
            parts = batch.split(min(self.most or size, size), dim=axis)
            try:
                found = [function(part) for part in parts]
            except torch.OutOfMemoryError as error:
                self.halve(parts[0].shape[axis], error)
                continue
            return found[0] if len(found) == 1 else torch.cat(found, dim=axis)

    def halve(self, size: int, error: torch.OutOfMemoryError) -> int:
        """Take half of the batch that did not fit from now on; returns how many that is.

        Args:
            size: samples of that batch.
            error: what the device said.

        Raises:
            SettingsError: it was a single sample.
        """
        if size <= 1:
            raise SettingsError(
                "a single sample does not fit the device's memory: free some, or pass --device cpu"
            ) from error
        self.most = size // 2
        torch.cuda.empty_cache()
        self._tell(f"a batch of {size} does not fit the device's memory: {self.most} from now on")
        return self.most
