"""Synaptic operations of a quantized network, and the additions that this machine can do."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from primesvt_deploy.model.svit import SViT, time_first

_SET = 4
"""Timesteps over which the engine adds a weight row once."""
_LOOP = r"""
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#ifdef __AVX512BW__
#define BYTES 64
#elif defined(__AVX2__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define LANES (BYTES / 2)
#define OUTPUTS 384
#define ROWS 1024
typedef int16_t sums __attribute__((vector_size(BYTES)));
typedef int8_t codes __attribute__((vector_size(LANES), aligned(1)));
#if defined(__x86_64__)
#define KEEP(x) __asm__ volatile("" : "+v"(x))
#else
#define KEEP(x) __asm__ volatile("" : "+w"(x))
#endif
static int8_t rows[ROWS][OUTPUTS] __attribute__((aligned(64)));

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Additions a second of vectors in registers. */
static double in_registers(long rounds) {
    sums a[8] = {{0}}, one = (sums){0} + 1;
    const double start = seconds();
    for (long i = 0; i < rounds; i++)
        for (int k = 0; k < 8; k++) {
            a[k] += one;
            KEEP(a[k]);
        }
    return (double)rounds * 8 * LANES / (seconds() - start);
}

/* Additions a second of int8 weight rows, in an order that nothing can foresee. */
static double of_rows(long rounds) {
    uint32_t row = 1;
    volatile int16_t taken = 0;
    const double start = seconds();
    for (long i = 0; i < rounds; i++)
        for (int at = 0; at < OUTPUTS; at += 8 * LANES) {
            sums a[8] = {{0}};
            const int n = (OUTPUTS - at) / LANES < 8 ? (OUTPUTS - at) / LANES : 8;
            for (int j = 0; j < 64; j++) {
                row = row * 1664525u + 1013904223u;
                const int8_t *from = rows[row >> 22] + at;
                if (n == 8)
                    for (int k = 0; k < 8; k++)
                        a[k] += __builtin_convertvector(*(const codes *)(from + k * LANES), sums);
                else
                    for (int k = 0; k < 4; k++)
                        a[k] += __builtin_convertvector(*(const codes *)(from + k * LANES), sums);
            }
            for (int k = 0; k < 8; k++) taken += a[k][0];
        }
    return (double)rounds * 64 * OUTPUTS / (seconds() - start);
}

int main(void) {
    double best[2] = {0, 0};
    for (int i = 0; i < 5; i++) {
        const double found[2] = {in_registers(20000000), of_rows(20000)};
        for (int k = 0; k < 2; k++) best[k] = found[k] > best[k] ? found[k] : best[k];
    }
    printf("%.4g %.4g\n", best[0], best[1]);
}
"""


def peak_additions() -> dict[str, float]:
    """16-bit additions a second on one thread, best of five: in registers, and of int8 rows."""
    with tempfile.TemporaryDirectory() as name:
        source, program = Path(name) / "peak.c", Path(name) / "peak"
        source.write_text(_LOOP)
        native = ["cc", "-O3", "-march=native", "-o", str(program), str(source)]
        subprocess.run(native, check=True)
        said = subprocess.run([str(program)], check=True, stdout=subprocess.PIPE, text=True).stdout
    in_registers, of_rows = map(float, said.split())
    return {"in_registers": in_registers, "of_int8_rows_in_cache": of_rows}


@torch.no_grad()
def operations_by_layer(
    model: SViT, inputs: torch.Tensor, layers: Collection[str]
) -> dict[str, dict[str, float]]:
    """Density and operations of each layer that adds integer rows, means of an image.

    Args:
        model: the quantized model.
        inputs: preprocessed samples.
        layers: names of the layers.

    Returns:
        By layer: the share of its inputs and timesteps that are not 0; its multiply-accumulates
        were it dense; its synaptic operations, one for each spike and weight; and its grouped
        additions, where what an input gives over four timesteps is added once. Several spikes of an
        input in one timestep are as many.
    """
    found: dict[str, dict[str, float]] = {}
    steps, n = model.config.timesteps, len(inputs)

    def count(name: str, layer: Any, x: torch.Tensor) -> None:
        counts = _counts(x, steps, n)
        step, every = (_fan_out(layer, c) for c in (counts.sum(dim=0), _grouped(counts)))
        dense = _fan_out(layer, torch.full_like(counts[0], float(steps)))
        found[name] = {
            "density": round(float((counts > 0).float().mean()), 4),
            "dense_operations": round(dense / n),
            "synaptic_operations": round(step / n),
            "grouped_additions": round(every / n),
        }

    wanted = {name: module for name, module in model.module.named_modules() if name in layers}
    handles = [
        module.register_forward_pre_hook(lambda layer, x, name=name: count(name, layer, x[0]))
        for name, module in wanted.items()
    ]
    try:
        model.module(time_first(inputs))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _counts(x: torch.Tensor, steps: int, n: int) -> torch.Tensor:
    """Spike counts `[T, N, ...]` of a layer's inputs; of static ones T times the same."""
    unit = x[x > 0].min() if bool((x > 0).any()) else x.new_tensor(1.0)
    counts = torch.round(x / unit)
    return counts.expand(steps, *x.shape) if len(x) == n else counts.unflatten(0, (steps, n))


def _grouped(counts: torch.Tensor) -> torch.Tensor:
    """How often the rows of inputs are added: once for each count that is reached in a set."""
    sets = counts.split(_SET)
    return torch.stack([part.amax(dim=0) for part in sets]).sum(dim=0)


def _fan_out(layer: Any, counts: torch.Tensor) -> float:
    """Sum over all inputs `[N, ...]` of their counts times the outputs that they reach."""
    if not isinstance(layer, nn.Conv2d):
        return float(counts.double().sum()) * float(layer.weight.shape[0])
    ones = torch.ones(1, 1, *layer.kernel_size, dtype=torch.float64)
    reached = nn.functional.conv2d(
        counts.double().sum(dim=1, keepdim=True),
        ones,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
    )
    return float(reached.sum()) * layer.out_channels
