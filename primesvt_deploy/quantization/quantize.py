"""Put a SViT's weights on integer grids, layer by layer, on calibration samples.

A layer is told by what reaches it: counts of spikes, whole multiples of a neuron's output value
that fit a byte, or real numbers. The layer that sees the image and the classifier stay float32.
With 8 bits weights are rounded to nearest on the grid of least error; with 4 bits errors are
compensated on the calibration inputs. Each segment of the network is rounded on what the rounded
segments before it give, and biases take up the mean of what rounding leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.lowering.integer.spike_counts import UINT8_MAX
from primesvt_deploy.lowering.lif import UnrolledNeuron
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.layer_matrix import (
    Weighted,
    input_rows,
    is_dense,
    set_weights,
    weight_matrix,
)
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.quantization.fold_batchnorm import fold_called_norms
from primesvt_deploy.quantization.gptq import compensated
from primesvt_deploy.quantization.rounding import (
    channel_grid,
    group_grid,
    nearest,
    rounded_bias,
)

__all__ = ["quantize", "twin_of"]

_ROWS_AT_ONCE = 16
"""Samples and timesteps whose windows are laid out at once, for memory."""


@dataclass
class _Seen:
    """Calibration inputs of one layer."""

    counts: bool = True
    moments: torch.Tensor | float = 0.0
    sums: torch.Tensor | float = 0.0
    rows: int = 0


@torch.no_grad()
def quantize(
    model: SViT, bits: int, samples: torch.Tensor | None = None, *, progress: Progress = SILENT
) -> SViT:
    """The lowered twin of `model` with its weights on grids of so many bits.

    Args:
        model: a SViT; it is not touched.
        bits: 8 or 4. Grouped convolutions and layers that real numbers reach get 8 in any case.
        samples: preprocessed samples as data sets give them, to calibrate on; None: noise, which
            tells spikes from real numbers, and then nothing is compensated.
        progress: told of each segment.
    """
    twin = twin_of(model)
    calibrated = samples is not None
    batch = time_first(_noise(model) if samples is None else samples)
    sizes = model.batch_of(32)
    axis = 1 if batch.ndim == 5 else 0
    states = [twin.fold(part) for part in batch.split(sizes, dim=axis)]
    names = {module: name for name, module in twin.named_modules()}
    exempt = {twin.get_submodule(name) for name in twin.classifiers} | _ends(twin, states[0])
    values = {m.constants.spike_value for m in twin.modules() if isinstance(m, UnrolledNeuron)}
    segments = twin.segments()
    progress.stage(f"rounding to {bits} bits", len(segments))
    for segment in segments:
        moments = bits == 4 and calibrated
        with _watched(twin, exempt, values, rows_wanted=calibrated, moments=moments) as seen:
            for state in states:
                segment.run(state)
        for layer, what in seen.items():
            _round(cast(Weighted, layer), what, bits, calibrated)
        states = [segment.run(state) for state in states]
        progress.step(", ".join(names[layer] for layer in seen))
    return model.with_module(twin)


def twin_of(model: SViT) -> SpikingNetwork:
    """The lowered module of `model`, with every norm folded that can be."""
    twin = lower_module(model.module.float())
    if model.module.couplings_declared:
        return twin
    return fold_called_norms(twin, time_first(_noise(model)))


def _noise(model: SViT) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(model.config.example(2).shape, generator=generator)
    return time_first(noise)  # an example has time first; data sets have it second


def _ends(twin: SpikingNetwork, state: torch.Tensor) -> set[nn.Module]:
    """The layer that is called first, which sees the image, and a user's own classifier."""
    called: list[nn.Module] = []
    handles = [
        layer.register_forward_pre_hook(lambda module, _inputs: called.append(module))
        for layer in twin.modules()
        if isinstance(layer, Weighted)
    ]
    try:
        twin.segments()[0].run(state)
    finally:
        for handle in handles:
            handle.remove()
    return {called[0], *(called[-1:] if not twin.couplings_declared else [])} if called else set()


@contextmanager
def _watched(
    twin: nn.Module,
    exempt: set[nn.Module],
    values: set[float],
    *,
    rows_wanted: bool,
    moments: bool,
) -> Iterator[dict[nn.Module, _Seen]]:
    """Collects what reaches each layer while the network runs, in the order of the calls."""
    seen: dict[nn.Module, _Seen] = {}

    def look(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        what = seen.setdefault(layer, _Seen())
        what.counts = what.counts and any(_is_counts(inputs[0], value) for value in values)
        if not rows_wanted:
            return
        for part in inputs[0].split(_ROWS_AT_ONCE):
            rows = input_rows(cast(Weighted, layer), part)
            what.rows += len(rows)
            what.sums = what.sums + rows.sum(dim=0)
            if moments and what.counts and is_dense(layer):
                what.moments = what.moments + rows.T @ rows

    handles = [
        layer.register_forward_pre_hook(look)
        for layer in twin.modules()
        if isinstance(layer, Weighted) and layer not in exempt
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _is_counts(x: torch.Tensor, value: float) -> bool:
    counts = x / value
    return bool(
        (counts == counts.round()).all() and counts.min() >= 0 and counts.max() <= UINT8_MAX
    )


def _round(layer: Weighted, seen: _Seen, bits: int, calibrated: bool) -> None:
    weights = weight_matrix(layer)
    dense = is_dense(layer)
    if bits == 4 and seen.counts and dense:
        if calibrated and isinstance(seen.moments, torch.Tensor):
            rounded, grid = compensated(weights, seen.moments / seen.rows)
        else:
            grid = group_grid(weights)
            rounded = nearest(weights, grid)
    else:
        grid = channel_grid(weights)
        rounded = nearest(weights, grid)
    set_weights(layer, rounded)
    if layer.bias is None:
        return
    bias = layer.bias.detach()
    if calibrated and dense and isinstance(seen.sums, torch.Tensor):
        bias = bias + (weights - rounded) @ (seen.sums / seen.rows)
    layer.bias.copy_(rounded_bias(bias, grid.powers))
