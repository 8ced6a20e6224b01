"""Statistics of the inputs of a group's consumer layers: means, covariances, ranges.

They are measured on the lowered network with calibration samples, and do not depend on the
consumers' weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn

from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.families.blocks.units import ConvBNNeuron
from primesvt_deploy.lowering.lif import UnrolledNeuron
from primesvt_deploy.model.layer_matrix import Weighted, input_rows, is_dense

__all__ = ["BatchSums", "InputMoments", "Moments", "measure_moments", "moments_of", "sum_inputs"]

_ROWS_AT_ONCE = 16
"""Rows `[T*N]` of an input whose windows are unfolded at once, to save memory."""


@dataclass(frozen=True)
class InputMoments:
    """Statistics of one layer's input over samples, timesteps and positions.

    Args:
        mean: mean `[K]`, float64; columns as in `model.layer_matrix`.
        covariance: covariance `[K, K]`, float64; None for layers that are not dense (see
            `layer_matrix.is_dense`).
        low: least value of each channel, `[channels]`.
        high: largest value of each channel, `[channels]`.
        padded: whether the layer pads its input with zeros.
    """

    mean: torch.Tensor
    covariance: torch.Tensor | None
    low: torch.Tensor
    high: torch.Tensor
    padded: bool

    @property
    def constant(self) -> torch.Tensor:
        """Whether each channel `[channels]` had one value only, padding included."""
        same = self.low == self.high
        return same & (self.high == 0.0) if self.padded else same

    def to(self, device: torch.device) -> InputMoments:
        """The same on a device."""
        covariance = None if self.covariance is None else self.covariance.to(device)
        own = (each.to(device) for each in (self.mean, self.low, self.high))
        mean, low, high = own
        return InputMoments(mean, covariance, low, high, self.padded)


@dataclass(frozen=True)
class Moments:
    """Statistics of the inputs and firing rates of all groups' layers.

    Args:
        inputs: statistics of a consumer layer's input, by name of the layer.
        rates: mean output `[channels]`, float64, of the neuron behind a layer that loses output
            channels, by name of the layer; only for layers in units that have their neuron behind.
    """

    inputs: Mapping[str, InputMoments]
    rates: Mapping[str, torch.Tensor]

    def to(self, device: torch.device) -> Moments:
        """The same on a device."""
        inputs = {name: seen.to(device) for name, seen in self.inputs.items()}
        return Moments(inputs, {name: rate.to(device) for name, rate in self.rates.items()})


@dataclass
class _Sums:
    """Sums over the rows of one layer's input, and its least and largest values."""

    rows: int = 0
    first: torch.Tensor | float = 0.0
    second: torch.Tensor | float = 0.0
    low: torch.Tensor | None = None
    high: torch.Tensor | None = None

    def add(self, other: _Sums) -> None:
        """Add the sums of further rows."""
        assert other.low is not None
        assert other.high is not None
        self.rows += other.rows
        self.first, self.second = self.first + other.first, self.second + other.second
        self.low = other.low if self.low is None else torch.minimum(self.low, other.low)
        self.high = other.high if self.high is None else torch.maximum(self.high, other.high)

    def cpu(self) -> _Sums:
        """The same on the CPU."""
        first, second, low, high = (
            value.cpu() if isinstance(value, torch.Tensor) else value
            for value in (self.first, self.second, self.low, self.high)
        )
        return _Sums(self.rows, first, second, low, high)  # type: ignore[arg-type]


@dataclass
class BatchSums:
    """Sums over the inputs of layers and the outputs of neurons, of one batch.

    Those of several batches are added in the order of the batches: rounding is then the same,
    whoever summed them.

    Args:
        sums: of each consumer layer's input, by its name.
        spikes: summed output of each neuron `[channels]`, float64, by name of the layer before.
        counts: how many outputs were summed.
    """

    sums: dict[str, _Sums] = field(default_factory=dict)
    spikes: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, other: BatchSums) -> None:
        """Add the sums of the next batch."""
        for name, sums in other.sums.items():
            self.sums.setdefault(name, _Sums()).add(sums)
        for name, total in other.spikes.items():
            self.spikes[name] = self.spikes.get(name, torch.zeros_like(total)) + total
            self.counts[name] = self.counts.get(name, 0) + other.counts[name]

    def cpu(self) -> BatchSums:
        """The same on the CPU."""
        sums = {name: each.cpu() for name, each in self.sums.items()}
        return BatchSums(sums, {n: t.cpu() for n, t in self.spikes.items()}, self.counts)


@torch.no_grad()
def measure_moments(
    lowered: nn.Module, groups: Sequence[Group], batches: Iterable[torch.Tensor]
) -> Moments:
    """Run a lowered network on calibration samples and measure the statistics of its groups.

    Args:
        lowered: the lowered dense network; not changed.
        groups: its prunable groups.
        batches: samples as the network takes them, images `[N, C, H, W]` or frames
            `[T, N, C, H, W]`.
    """
    return moments_of(lowered, (sum_inputs(lowered, groups, batch) for batch in batches))


@torch.no_grad()
def sum_inputs(lowered: nn.Module, groups: Sequence[Group], batch: torch.Tensor) -> BatchSums:
    """Sums over the inputs of a lowered dense network for one batch, on the CPU.

    Args:
        lowered: see `measure_moments`.
        groups: its prunable groups.
        batch: samples, on the network's device.
    """
    with _collecting(lowered, groups) as seen:
        lowered(batch)
    return seen.cpu()


def moments_of(lowered: nn.Module, batches: Iterable[BatchSums]) -> Moments:
    """Moments from the sums of all batches, on the CPU; they are added in their order.

    Args:
        lowered: the network that they are of.
        batches: the sums of each.
    """
    seen = BatchSums()
    for batch in batches:
        seen.add(batch)
    inputs = {name: _moments(lowered.get_submodule(name), sums) for name, sums in seen.sums.items()}
    rates = {name: total / seen.counts[name] for name, total in seen.spikes.items()}
    return Moments(inputs, rates)


@contextmanager
def _collecting(lowered: nn.Module, groups: Sequence[Group]) -> Iterator[BatchSums]:
    collected = BatchSums()
    handles = []
    for name in sorted({name for group in groups for name in group.plain_inputs}):
        handles.append(
            lowered.get_submodule(name).register_forward_pre_hook(
                lambda layer, args, name=name: _add_input(collected, name, layer, args[0])
            )
        )
    for name in sorted({name for group in groups for name in group.outputs}):
        neuron = _neuron_behind(lowered, name)
        if neuron is not None:
            handles.append(
                neuron.register_forward_hook(
                    lambda _m, _a, spikes, name=name, neuron=neuron: _add_output(
                        collected, name, neuron.folded(spikes)
                    )
                )
            )
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()


def _add_input(collected: BatchSums, name: str, layer: nn.Module, x: torch.Tensor) -> None:
    seen = collected.sums.setdefault(name, _Sums())
    axis = x.ndim - 1 if isinstance(layer, nn.Linear) else x.ndim - _kernel_axes(layer) - 1
    others = [i for i in range(x.ndim) if i != axis]
    low, high = x.amin(dim=others), x.amax(dim=others)
    seen.low = low if seen.low is None else torch.minimum(seen.low, low)
    seen.high = high if seen.high is None else torch.maximum(seen.high, high)
    weighted = cast(Weighted, layer)
    for part in x.split(_ROWS_AT_ONCE):
        rows = input_rows(weighted, part)
        seen.rows += len(rows)
        seen.first = seen.first + rows.sum(dim=0).double()
        if is_dense(layer):
            seen.second = seen.second + (rows.T @ rows).double()


def _add_output(collected: BatchSums, name: str, spikes: torch.Tensor) -> None:
    total = spikes.sum(dim=(0, *range(2, spikes.ndim)), dtype=torch.float64)
    collected.spikes[name] = collected.spikes.get(name, torch.zeros_like(total)) + total
    count = spikes.numel() // spikes.shape[1]
    collected.counts[name] = collected.counts.get(name, 0) + count


def _neuron_behind(lowered: nn.Module, layer: str) -> UnrolledNeuron | None:
    """The neuron behind a producing layer, if they are one unit that has its neuron behind."""
    unit = lowered.get_submodule(layer.rpartition(".")[0])
    neuron = getattr(unit, "neuron", None)
    return neuron if isinstance(unit, ConvBNNeuron) and isinstance(neuron, UnrolledNeuron) else None


def _kernel_axes(layer: nn.Module) -> int:
    return 1 if isinstance(layer, nn.Conv1d) else 2


def _moments(layer: nn.Module, sums: _Sums) -> InputMoments:
    assert isinstance(sums.first, torch.Tensor)
    assert sums.low is not None
    assert sums.high is not None
    mean = sums.first / sums.rows
    covariance = None
    if isinstance(sums.second, torch.Tensor):
        covariance = sums.second / sums.rows - torch.outer(mean, mean)
    padded = any(getattr(layer, "_reversed_padding_repeated_twice", ()))
    return InputMoments(mean, covariance, sums.low, sums.high, padded)
