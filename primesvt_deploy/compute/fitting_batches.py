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
        fixed: batches cannot be halved: what does not fit ends the run.
    """

    def __init__(
        self, tell: Callable[[str], None] = lambda line: None, *, fixed: bool = False
    ) -> None:
        self._tell, self._fixed = tell, fixed
        self.most: int | None = None
        """Samples a batch has at most; None: whatever it was asked for has fitted."""

    def each(self, run: Callable[[int, int], object], total: int, size: int) -> None:
        """Run all samples, batch by batch, in order.

        Args:
            run: takes the first and the last (exclusive) sample of a batch; where it runs out of
                memory it leaves nothing changed.
            total: number of samples.
            size: samples of a batch at most.

        Raises:
            SettingsError: a single sample does not fit, or a batch that cannot be halved.
        """
        start = 0
        while start < total:
            stop = min(start + min(size, self.most or size), total)
            try:
                run(start, stop)
            except torch.OutOfMemoryError as error:
                self.halve(stop - start, error)
            else:
                start = stop

    def run(
        self, function: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, axis: int = 0
    ) -> torch.Tensor:
        """`function` of a batch, whose parts it treats as it does the whole.

        Args:
            function: run on parts of the batch along `axis`; its results are joined along `axis`.
            batch: the samples, one at least.
            axis: of the samples.

        Raises:
            SettingsError: see `each`.
        """
        found: list[torch.Tensor] = []

        def part(start: int, stop: int) -> None:
            found.append(function(batch.narrow(axis, start, stop - start)))

        self.each(part, batch.shape[axis], batch.shape[axis])
        return found[0] if len(found) == 1 else torch.cat(found, dim=axis)

    def halve(self, size: int, error: torch.OutOfMemoryError) -> int:
        """Take half of the batch that did not fit from now on; returns how many that is.

        Args:
            size: samples of that batch.
            error: what the device said.

        Raises:
            SettingsError: it was a single sample, or batches cannot be halved.
        """
        error.with_traceback(None)  # its frames hold what fills the memory
        if size <= 1 or self._fixed:
            batch = "a single sample" if size <= 1 else f"the artifact's batch of {size}"
            raise SettingsError(
                f"{batch} does not fit the device's memory: free some, or pass --device cpu"
            ) from error
        self.most = size // 2
        torch.cuda.empty_cache()
        self._tell(f"a batch of {size} does not fit the device's memory: {self.most} from now on")
        return self.most
