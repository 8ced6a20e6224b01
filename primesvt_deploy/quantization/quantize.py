"""Put a SViT's weights on integer grids, layer by layer, on calibration samples.

What reaches a layer decides how it is rounded: spike counts, whole multiples of a neuron's output
value that fit a byte, or real numbers. The classifier stays float32, and so does the layer that
sees the image, unless it takes pixels (`pixel_input`). With 8 bits weights are rounded to nearest
on the grid of least error; with 4 bits errors are compensated on the calibration inputs. Each
segment of the network is rounded on the outputs of the rounded segments before it, and biases take
up the mean of what rounding leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.lowering.integer.spike_counts import UINT8_MAX
from primesvt_deploy.lowering.lif import UnrolledNeuron
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.lowering.pixel_conv import LARGEST_PIXEL, pixel_conv
from primesvt_deploy.model.layer_matrix import (
    Weighted,
    input_rows,
    is_dense,
    set_weights,
    weight_matrix,
)
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.quantization.fold_batchnorm import fold_following_norms
from primesvt_deploy.quantization.gptq import round_compensated
from primesvt_deploy.quantization.pixel_input import round_pixel_layer, take_pixels
from primesvt_deploy.quantization.rounding import (
    channel_grid,
    group_grid,
    round_bias,
    round_to_grid,
)

__all__ = ["lower_for_quantization", "quantize"]

_ROWS_AT_ONCE = 16
"""Samples and timesteps whose windows are laid out at once, for memory."""


@dataclass
class _LayerInputs:
    """Statistics of a layer's inputs.

    Args:
        spike_counts: whether all of them were spike counts.
        moments: `[K, K]` sum of the products of an input's values.
        sums: `[K]` sum of the inputs.
        rows: how many there were.
    """

    spike_counts: bool = True
    moments: torch.Tensor | float = 0.0
    sums: torch.Tensor | float = 0.0
    rows: int = 0


@torch.no_grad()
def quantize(
    model: SViT,
    bits: int,
    samples: torch.Tensor | None = None,
    *,
    integer_input: bool = False,
    progress: Progress = SILENT,
) -> SViT:
    """Quantize a model: lower it, and round its weights to grids.

    Args:
        model: a SViT; it is left as it is.
        bits: 8 or 4. Grouped convolutions and layers that real numbers reach get 8 in any case.
        samples: preprocessed samples as data sets give them, to calibrate on, or pixels with
            `integer_input`; None: noise, which tells spikes from real numbers, and then nothing is
            compensated.
        integer_input: have the first layer take pixels, uint8, with weights of 8 bits.
        progress: gets each segment.

    Returns:
        The quantized model; its weights are float32 that lie on grids.

    Raises:
        SettingsError: `integer_input`, and the first layer is no plain convolution of an image.
    """
    network = lower_for_quantization(model)
    if integer_input:
        model = take_pixels(model, network)
        network = model.module
    calibrated = samples is not None
    batch = time_first(_noise(model) if samples is None else samples)
    sizes = model.batch_of(32)
    axis = 1 if batch.ndim == 5 else 0
    states = [network.fold(part) for part in batch.split(sizes, dim=axis)]
    names = {module: name for name, module in network.named_modules()}
    first = pixel_conv(network)
    if first is not None:
        round_pixel_layer(first, samples)
    classifiers = {network.get_submodule(name) for name in network.classifiers}
    exempt = classifiers | _first_and_last(network, states[0])
    values = {m.constants.spike_value for m in network.modules() if isinstance(m, UnrolledNeuron)}
    segments = network.segments()
    progress.stage(f"rounding to {bits} bits", len(segments), "parts of the network")
    for segment in segments:
        moments = bits == 4 and calibrated
        with _collect_inputs(
            network, exempt, values, rows_wanted=calibrated, moments=moments
        ) as collected:
            for number, state in enumerate(states, 1):
                segment.run(state)
                progress.advance(number, 2 * len(states), "batches")
        for layer, inputs in collected.items():
            _round(cast(Weighted, layer), inputs, bits, calibrated)
        rounded: list[torch.Tensor] = []
        for state in states:
            rounded.append(segment.run(state))
            progress.advance(len(states) + len(rounded), 2 * len(states), "batches")
        states = rounded
        progress.step(", ".join(names[layer] for layer in collected))
    return model.with_module(network)


def lower_for_quantization(model: SViT) -> SpikingNetwork:
    """Lower a model's network, with every norm folded that can be; the model is left as it is."""
    network = lower_module(model.module.float())
    if model.module.couplings_declared:
        return network
    return fold_following_norms(network, time_first(_noise(model)))


def _noise(model: SViT) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if model.sample_dtype == np.uint8:
        shape = (2, *model.config.input_shape)
        return torch.randint(LARGEST_PIXEL + 1, shape, generator=generator, dtype=torch.uint8)
    noise = torch.randn(model.config.example(2).shape, generator=generator)
    return time_first(noise)  # an example has time first; data sets have it second


def _first_and_last(network: SpikingNetwork, state: torch.Tensor) -> set[nn.Module]:
    """Layers not rounded here: the one called first, and the classifier of a user's own class."""
    called: list[nn.Module] = []
    handles = [
        layer.register_forward_pre_hook(lambda module, _inputs: called.append(module))
        for layer in network.modules()
        if isinstance(layer, Weighted)
    ]
    try:
        network.segments()[0].run(state)
    finally:
        for handle in handles:
            handle.remove()
    last = [] if network.couplings_declared else called[-1:]
    return {*called[:1], *last}


@contextmanager
def _collect_inputs(
    network: nn.Module,
    exempt: set[nn.Module],
    values: set[float],
    *,
    rows_wanted: bool,
    moments: bool,
) -> Iterator[dict[nn.Module, _LayerInputs]]:
    """Collect statistics of each layer's inputs while the network runs, in the order of calls."""
    collected: dict[nn.Module, _LayerInputs] = {}

    def collect(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found = collected.setdefault(layer, _LayerInputs())
        found.spike_counts = found.spike_counts and any(
            _are_spike_counts(inputs[0], value) for value in values
        )
        if not rows_wanted:
            return
        for part in inputs[0].split(_ROWS_AT_ONCE):
            rows = input_rows(cast(Weighted, layer), part)
            found.rows += len(rows)
            found.sums = found.sums + rows.sum(dim=0)
            if moments and found.spike_counts and is_dense(layer):
                found.moments = found.moments + rows.T @ rows

    handles = [
        layer.register_forward_pre_hook(collect)
        for layer in network.modules()
        if isinstance(layer, Weighted) and layer not in exempt
    ]
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()


def _are_spike_counts(x: torch.Tensor, value: float) -> bool:
    counts = x / value
    whole = bool((counts == counts.round()).all())
    return whole and bool(counts.min() >= 0) and bool(counts.max() <= UINT8_MAX)


def _round(layer: Weighted, inputs: _LayerInputs, bits: int, calibrated: bool) -> None:
    weights = weight_matrix(layer)
    dense = is_dense(layer)
    if bits == 4 and inputs.spike_counts and dense:
        if calibrated and isinstance(inputs.moments, torch.Tensor):
            rounded, grid = round_compensated(weights, inputs.moments / inputs.rows)
        else:
            grid = group_grid(weights)
            rounded = round_to_grid(weights, grid)
    else:
        grid = channel_grid(weights)
        rounded = round_to_grid(weights, grid)
    set_weights(layer, rounded)
    if layer.bias is None:
        return
    bias = layer.bias.detach()
    if calibrated and dense and isinstance(inputs.sums, torch.Tensor):
        bias = bias + (weights - rounded) @ (inputs.sums / inputs.rows)
    layer.bias.copy_(round_bias(bias, grid.powers))
