"""Firing rates of neuron layers: spikes per neuron and timestep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.model.svit import SViT

__all__ = ["FiringRate", "measure_firing_rates"]


@dataclass(frozen=True, kw_only=True)
class FiringRate:
    """Firing rate of one neuron layer.

    Args:
        layer: name of the neuron layer.
        rate: mean output over images, timesteps, channels and positions, relative to the largest
            possible output: the share of ones among spikes.
        silent: number of channels that never fired.
        channels: number of channels.
        n: number of images.
    """

    layer: str
    rate: float
    silent: int
    channels: int
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "rate": round(self.rate, 6)}


@torch.no_grad()
def measure_firing_rates(
    model: SViT, images: ImageList, *, batch_size: int | None = None
) -> tuple[FiringRate, ...]:
    """Measure the firing rate of every neuron layer.

    Args:
        model: a trained SViT; not changed.
        images: preprocessed images, at least one.
        batch_size: images at once; None: chosen for memory.

    Returns:
        Firing rates of the layers that were called, in the order of their first call.
    """
    size = batch_size or model.batch_of(32)
    neurons = {m: name for name, m in model.module.named_modules() if isinstance(m, Neuron)}
    sums: dict[str, torch.Tensor] = {}
    values: dict[str, int] = {}
    largest: dict[str, float] = {}

    def count(neuron: torch.nn.Module, _: object, spikes: torch.Tensor) -> None:
        name = neurons[neuron]  # type: ignore[index]
        owner = cast(Neuron, neuron)
        spikes = owner.folded(spikes)
        largest[name] = owner.parameters_.levels * owner.parameters_.spike_value
        per_channel = spikes.sum(dim=(0, *range(2, spikes.ndim)), dtype=torch.float64)
        sums[name] = sums.get(name, torch.zeros_like(per_channel)) + per_channel
        values[name] = values.get(name, 0) + spikes.numel()

    handles = [neuron.register_forward_hook(count) for neuron in neurons]
    try:
        for start in range(0, len(images), size):
            stop = min(start + size, len(images))
            model.logits(torch.from_numpy(images.inputs(start, stop)))
    finally:
        for handle in handles:
            handle.remove()
    return tuple(
        FiringRate(
            layer=name.removesuffix(".neuron"),
            rate=float(total.sum()) / values[name] / largest[name],
            silent=int((total == 0).sum()),
            channels=len(total),
            n=len(images),
        )
        for name, total in sums.items()
    )
