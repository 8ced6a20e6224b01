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

__all__ = ["InputMoments", "Moments", "measure_moments"]

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


@dataclass
class _Sums:
    rows: int = 0
    first: torch.Tensor | float = 0.0
    second: torch.Tensor | float = 0.0
    low: torch.Tensor | None = None
    high: torch.Tensor | None = None


@dataclass
class _Collector:
    """Collects sums over the inputs of layers and the outputs of neurons."""

    sums: dict[str, _Sums] = field(default_factory=dict)
    spikes: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def input(self, name: str, layer: nn.Module, x: torch.Tensor) -> None:
        seen = self.sums.setdefault(name, _Sums())
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

    def output(self, name: str, spikes: torch.Tensor) -> None:
        total = spikes.sum(dim=(0, *range(2, spikes.ndim)), dtype=torch.float64)
        self.spikes[name] = self.spikes.get(name, torch.zeros_like(total)) + total
        self.counts[name] = self.counts.get(name, 0) + spikes.numel() // spikes.shape[1]


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
    with _collecting(lowered, groups) as seen:
        for batch in batches:
            lowered(batch)
    inputs = {name: _moments(lowered.get_submodule(name), sums) for name, sums in seen.sums.items()}
    rates = {name: total / seen.counts[name] for name, total in seen.spikes.items()}
    return Moments(inputs, rates)


@contextmanager
def _collecting(lowered: nn.Module, groups: Sequence[Group]) -> Iterator[_Collector]:
    collector = _Collector()
    handles = []
    for name in sorted({name for group in groups for name in group.plain_inputs}):
        handles.append(
            lowered.get_submodule(name).register_forward_pre_hook(
                lambda layer, args, name=name: collector.input(name, layer, args[0])
            )
        )
    for name in sorted({name for group in groups for name in group.outputs}):
        neuron = _neuron_behind(lowered, name)
        if neuron is not None:
            handles.append(
                neuron.register_forward_hook(
                    lambda _m, _a, spikes, name=name, neuron=neuron: collector.output(
                        name, neuron.folded(spikes)
                    )
                )
            )
    try:
        yield collector
    finally:
        for handle in handles:
            handle.remove()


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
