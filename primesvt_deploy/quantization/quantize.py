"""Put a SViT's weights on integer grids, layer by layer, on calibration samples.

What reaches a layer decides how it is rounded: spike counts, whole multiples of a neuron's output
value that fit a byte, or real numbers. The classifier stays float32, and so does the layer that
sees the image, unless it takes pixels (`pixel_input`). With 8 bits weights are rounded to nearest
on the grid of least error; with 4 bits errors are compensated on the calibration inputs. Each
segment of the network is rounded on the outputs of the rounded segments before it, and biases take
up the mean of what rounding leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from primesvt_deploy.compute.device import CPU
from primesvt_deploy.compute.fitting_batches import FittingBatches
from primesvt_deploy.families.network import Segment, SpikingNetwork
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
    device: torch.device = CPU,
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
        device: that the network runs on and is rounded on.
        progress: gets each segment.

    Returns:
        The quantized model, on the CPU; its weights are float32 that lie on grids.

    Raises:
        SettingsError: `integer_input`, and the first layer is no plain convolution of an image; or
            a single sample that does not fit the device's memory.
    """
    fitting, size = FittingBatches(progress.message), model.batch_of(32)
    while True:
        network = lower_for_quantization(model)
        taken = take_pixels(model, network) if integer_input else model.with_module(network)
        if (first := pixel_conv(taken.module)) is not None:
            round_pixel_layer(first, samples)
        try:
            rounded = _Rounding(taken, bits, samples, device, progress).run(size)
        except torch.OutOfMemoryError as error:
            # Layers that were rounded so far had been measured in part: it begins anew.
            size = fitting.halve(size, error)
        else:
            return taken.with_module(rounded)


class _Rounding:
    """Rounds a lowered network, segment by segment.

    States between segments lie on the CPU: those of all samples may not fit a device's memory.

    Args:
        model: a SViT whose module is lowered; it is rounded in place.
        bits: 8 or 4.
        samples: see `quantize`.
        device: that the network runs on and is rounded on.
        progress: gets each segment.
    """

    def __init__(
        self,
        model: SViT,
        bits: int,
        samples: torch.Tensor | None,
        device: torch.device,
        progress: Progress,
    ) -> None:
        network = model.module
        self._network, self._bits = network, bits
        self._device, self._progress = device, progress
        self._calibrated = samples is not None
        noise = time_first(_noise(model))
        self._batch = noise if samples is None else time_first(samples)
        classifiers = {network.get_submodule(name) for name in network.classifiers}
        self._exempt = classifiers | _first_and_last(network, network.fold(noise))
        self._values = {
            m.constants.spike_value for m in network.modules() if isinstance(m, UnrolledNeuron)
        }

    def run(self, size: int) -> SpikingNetwork:
        """The rounded network, on the CPU.

        Args:
            size: samples at a time.
        """
        network, progress = self._network.to(self._device), self._progress
        axis = 1 if self._batch.ndim == 5 else 0
        states = [network.fold(part) for part in self._batch.split(size, dim=axis)]
        names = {module: name for name, module in network.named_modules()}
        segments = network.segments()
        progress.stage(f"rounding to {self._bits} bits", len(segments), "parts of the network")
        for segment in segments:
            with self._inputs_collected() as collected:
                for _ in self._behind(segment, states, 0):
                    pass
            for layer, inputs in collected.items():
                _round(cast(Weighted, layer), inputs, self._bits, self._calibrated)
            states = list(self._behind(segment, states, len(states)))
            progress.step(", ".join(names[layer] for layer in collected))
        return network.to(CPU)

    def _inputs_collected(self) -> AbstractContextManager[dict[nn.Module, _LayerInputs]]:
        return _collect_inputs(
            self._network,
            self._exempt,
            self._values,
            rows_wanted=self._calibrated,
            moments=self._bits == 4 and self._calibrated,
        )

    def _behind(
        self, segment: Segment, states: Sequence[torch.Tensor], done: int
    ) -> Iterator[torch.Tensor]:
        """The states behind a segment, after so many batches of two passes."""
        for number, state in enumerate(states, 1):
            yield segment.run(state.to(self._device)).cpu()
            self._progress.advance(done + number, 2 * len(states), "batches")


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
