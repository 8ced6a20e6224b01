"""One image as the shipped model sees it: its spikes, and where its attention fires."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.lowering.lif import UnrolledNeuron
from primesvt_deploy.measure.accuracy import Predictions
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.report_content.pictures import picture
from primesvt_deploy.report.content import SampleImage, SpikeRaster
from primesvt_deploy.verification.spikes import neuron_layers, observed

__all__ = ["sample_image"]

_MOST_TRIED = 32
_MOST_LAYERS, _MOST_CHANNELS = 8, 64
_LARGEST_PICTURE = 224
_GRID_AXES = 4
_DIGITS = 4


def sample_image(shipped: SViT, images: ImageList) -> SampleImage | None:
    """The first of some images that the shipped model classifies rightly; None: it gets none right.

    Args:
        shipped: what the artifact computes, in torch.
        images: none that is reported on.
    """
    taken = images.for_model(shipped.sample_dtype)
    for index in range(min(_MOST_TRIED, len(images))):
        batch = torch.from_numpy(taken.inputs(index, index + 1))
        with _attention_observed(shipped) as attention:
            logits, spikes = observed(shipped, batch)
        found = Predictions.of(logits.numpy())
        if found.classes[0] != images.labels[index]:
            continue
        name, grid = attention.popitem() if attention else ("", ())
        return SampleImage(
            image=picture(images, index, most=_LARGEST_PICTURE),
            label=on_one_line(shipped.labels[images.labels[index]]),
            predicted=on_one_line(shipped.labels[found.classes[0]]),
            probability=round(float(found.probabilities[0]), 6),
            rasters=_rasters(neuron_layers(shipped), spikes),
            attention=grid,
            attention_layer=name,
        )
    return None


def _rasters(
    neurons: dict[str, Neuron | UnrolledNeuron], spikes: dict[str, torch.Tensor]
) -> tuple[SpikeRaster, ...]:
    """Rasters of a few layers, in the order in which they fired."""
    names = list(spikes)
    rows = []
    for name in (names[i] for i in _evenly(len(names), _MOST_LAYERS)):
        neuron = neurons[name]
        constants = neuron.parameters_ if isinstance(neuron, Neuron) else neuron.constants
        fired = spikes[name]  # [T, C, ...], of one image
        shown = fired[:, _evenly(fired.shape[1], _MOST_CHANNELS)].double()
        rates = shown.unsqueeze(-1).flatten(2).mean(dim=2) / (
            constants.levels * constants.spike_value
        )
        values = tuple(tuple(round(rate, _DIGITS) for rate in row) for row in rates.tolist())
        rows.append(SpikeRaster(layer=name, rates=values))
    return tuple(rows)


def _evenly(count: int, most: int) -> list[int]:
    """Up to `most` of `count` indices, evenly, with the first and the last."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most)).round()})


@contextmanager
def _attention_observed(
    model: SViT,
) -> Iterator[dict[str, tuple[tuple[float, ...], ...]]]:
    """Keep the attention map of the last attention, by its name, while the model runs."""
    found: dict[str, tuple[tuple[float, ...], ...]] = {}
    named = _last_attention(model)
    if named is None:
        yield found
        return
    name, projection = named

    def keep(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].ndim == _GRID_AXES and inputs[0].shape[-2:].numel() > 1:
            grid = inputs[0].double().mean(dim=(0, 1)).tolist()
            found[name] = tuple(tuple(round(x, _DIGITS) for x in row) for row in grid)

    handle = projection.register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def _last_attention(model: SViT) -> tuple[str, nn.Module] | None:
    """Name of the last attention and the projection behind it; None: none is known.

    Attentions of the families have a projection `proj` and queries, keys or values; where in a
    user's own module the tokens lie is not known.
    """
    if not model.module.couplings_declared:
        return None
    found: tuple[str, nn.Module] | None = None
    for name, module in model.module.named_modules():
        parts = {part for part, _ in module.named_children()}
        if "proj" in parts and "k" in parts:
            found = name, module.get_submodule("proj")
    return found
