"""Firing rates of neuron layers: spikes per neuron and timestep."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from primesvt_deploy.compute.device import CPU
from primesvt_deploy.compute.fitting_batches import FittingBatches
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.lowering.lif import ChargeFireReset, UnrolledNeuron
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.progress import SILENT, Progress

__all__ = ["FiringRate", "measure_firing_rates"]


@dataclass(frozen=True, kw_only=True)
class FiringRate:
    """Firing rate of one neuron layer.

    Args:
        layer: name of the neuron layer.
        rate: mean output over images, timesteps, channels and positions, relative to the largest
            possible output: the share of ones among spikes.
        silent: number of channels that never fired.
        by_timestep: the rate in each timestep.
        constant: number of channels that fired in every timestep, at every position.
        channels: number of channels.
        n: number of images.
    """

    layer: str
    rate: float
    silent: int
    by_timestep: tuple[float, ...] = field(repr=False)
    constant: int
    channels: int
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        steps = [round(rate, 6) for rate in self.by_timestep]
        return {**vars(self), "rate": round(self.rate, 6), "by_timestep": steps}


@torch.no_grad()
def measure_firing_rates(
    model: SViT,
    images: ImageList,
    *,
    batch_size: int | None = None,
    device: torch.device = CPU,
    progress: Progress = SILENT,
) -> tuple[FiringRate, ...]:
    """Measure the firing rate of every neuron layer.

    Args:
        model: a trained SViT, or a quantized one; not changed.
        images: preprocessed images, at least one.
        batch_size: images at once; None: chosen for memory.
        device: that the model runs on.
        progress: gets the images done; no step.

    Returns:
        Firing rates of the layers that were called, in the order of their first call.
    """
    size = batch_size or model.batch_of(32)
    lowered = lower_module(model.module).to(device)
    images = images.for_model(model.sample_dtype)
    found: dict[str, _Spikes] = {}

    def follow(name: str, neuron: UnrolledNeuron) -> None:
        def count(_module: nn.Module, _inputs: object, fired: torch.Tensor) -> None:
            found.setdefault(name, _Spikes(neuron.constants)).add(neuron.folded(fired))

        neuron.register_forward_hook(count)

    for name, module in lowered.named_modules():
        if isinstance(module, UnrolledNeuron):
            follow(name.removesuffix(".neuron"), module)

    def run(start: int, stop: int) -> None:
        before = {name: copy.copy(spikes) for name, spikes in found.items()}
        try:
            lowered(time_first(torch.from_numpy(images.inputs(start, stop))).to(device))
        except torch.OutOfMemoryError:
            found.clear()
            found.update(before)
            raise
        progress.advance(stop, len(images))

    FittingBatches(progress.message).each(run, len(images), size)
    return tuple(spikes.rate(layer, len(images)) for layer, spikes in found.items())


class _Spikes:
    """Sums over the outputs of one neuron.

    Args:
        constants: of the neuron.
    """

    def __init__(self, constants: ChargeFireReset) -> None:
        self._timesteps = constants.timesteps
        self._largest = constants.levels * constants.spike_value
        self._sums = torch.zeros((), dtype=torch.float64)
        self._always = torch.ones((), dtype=torch.bool)
        self._values = 0

    def add(self, spikes: torch.Tensor) -> None:
        """Count outputs `[T*N, C, ...]`."""
        by_step = spikes.unflatten(0, (self._timesteps, -1))
        others = (1, *range(3, by_step.ndim))
        self._sums = self._sums + by_step.sum(dim=others, dtype=torch.float64)
        self._always = self._always & (spikes > 0).unsqueeze(-1).flatten(2).all(dim=2).all(dim=0)
        self._values += spikes.numel()

    def rate(self, layer: str, images: int) -> FiringRate:
        """Rates that the sums, `[T, C]`, come to."""
        by_timestep = self._sums.sum(dim=1) * self._timesteps / self._values / self._largest
        return FiringRate(
            layer=layer,
            rate=float(self._sums.sum()) / self._values / self._largest,
            silent=int((self._sums.sum(dim=0) == 0).sum()),
            by_timestep=tuple(by_timestep.tolist()),
            constant=int(self._always.sum()),
            channels=self._sums.shape[1],
            n=images,
        )
