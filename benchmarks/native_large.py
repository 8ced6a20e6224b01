"""The native runtime beside ONNX Runtime's int8 at the widths of published ImageNet models.

    python benchmarks/native_large.py [NAME ...]

224 pixels, T = 4, random weights. Norms are calibrated on natural images, CIFAR-10's, resized: each
takes its statistics from what reaches it, and one shift of its bias is then moved until the neurons
behind it fire at the rate that the trained reference model has in layers of that role
(`results/models.json`); the rates that are reached are in the results. Each network is a process
of its own; only named ones are measured again. Other images than those are timed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import MEASURED, RESULTS, write
from native_operations import operations_by_layer
from native_timing import AS_IT_IS, LIMITED, THREADS, artifacts_of, timed, with_fewer_instructions
from torch import nn
from wide import network

from primesvt_deploy import load, open_data
from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.lowering.passes import trace_network
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.spikes import neuron_layers

MODELS = Path(__file__).parent / "results" / "models.json"
NETWORKS = ("Spikformer-8-512", "SDT-8-512", "QKFormer-10-384")
PASSES, CALIBRATION = 8, 2
RUNS, WARMUP, IMAGES = 20, 2, 8
STREAM = {"sdt-v1": ("entry", "fc1")}
"""Roles of neurons on a residual stream, by family: they fire as the stem's do."""
_LEAST, _MOST = 0.005, 0.5


def main() -> None:
    """Measure the networks named on the command line, all by default."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measured(sys.argv[2])))
        return
    path = RESULTS / "native_large.json"
    rows = json.loads(path.read_text())["models"] if path.is_file() else {}
    for name in sys.argv[1:] or NETWORKS:
        rows[name] = in_own_process(name)
        write(
            "native_large",
            {
                "precision": "int8",
                "images": f"CIFAR-10, resized: {CALIBRATION} to calibrate, {IMAGES} timed",
                "target_rates": rates_by_role(),
                "models": {name: rows[name] for name in NETWORKS if name in rows},
            },
        )


def in_own_process(name: str) -> dict[str, Any]:
    """Measure a network in a process of its own, so that its memory is free again afterwards."""
    line = [sys.executable, __file__, "--one", name]
    found = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return row


def measured(name: str) -> dict[str, Any]:
    """Calibrate a network, export it to both runtimes, and time them."""
    model = network(name)
    calibrate(model, torch.from_numpy(samples(model, 0, CALIBRATION)))
    inputs = samples(model, CALIBRATION, CALIBRATION + IMAGES)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        np.save(folder / "inputs.npy", inputs)
        quantized = quantize(model, Precision.INT8.bits)
        traced = trace_network(quantized.module.float(), quantized.config, exact=True)
        paths = [folder / f"int8.{suffix}" for suffix in ("onnx", "svit")]
        onnx = export_onnx(quantized, paths[0], precision=Precision.INT8, traced=traced)
        native = export_native(quantized, paths[1], precision=Precision.INT8, traced=traced)
        counted = operations_by_layer(
            quantized, torch.from_numpy(inputs[:1]), native.integer_layers
        )
        del traced, quantized
        engine = NativeModel(paths[1])
        rates = densities(engine, inputs)
        return {
            "onnx_file_bytes": onnx.bytes,
            "native_file_bytes": native.bytes,
            "arena_bytes": native.arena_bytes,
            "integer_layers": len(native.integer_layers),
            "float_layers": dict(native.float_layers),
            "median_logit_difference": difference(OnnxModel(paths[0]), engine, inputs),
            "density": {
                "median": statistics.median(rates.values()),
                "least": min(rates.values()),
                "most": max(rates.values()),
                "layers": rates,
            },
            "operations": {
                key: sum(layer[key] for layer in counted.values())
                for key in ("dense_operations", "synaptic_operations", "grouped_additions")
            },
            "input_density": {layer: row["density"] for layer, row in counted.items()},
            "timings": timings(folder, inputs),
        }


def samples(model: SViT, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Held-out images of CIFAR-10, resized and normalised as the model takes them."""
    images = open_data(load(MEASURED)).held_out
    return np.stack([model.preprocessing.apply(images.pixels(i)) for i in range(start, stop)])


def difference(onnx: OnnxModel, native: NativeModel, inputs: npt.NDArray[np.float32]) -> float:
    """Median over images of the largest difference of a logit."""
    theirs = np.concatenate([onnx.logits(inputs[i : i + 1]) for i in range(len(inputs))])
    return float(np.median(np.abs(theirs - native.logits(inputs)).max(axis=1)))


def densities(engine: NativeModel, inputs: npt.NDArray[np.float32]) -> dict[str, float]:
    """Share of each layer's neurons and timesteps that fire."""
    fired: dict[str, list[float]] = {}
    for sample in inputs:
        for name, counts in engine.observe(sample).items():
            if counts.dtype != np.float32:
                fired.setdefault(name, []).append(float((counts > 0).mean()))
    return {name: round(float(np.mean(shares)), 4) for name, shares in fired.items()}


def timings(folder: Path, inputs: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Latencies by vector instructions and threads."""
    rows = [
        {"threads": n, **timed(artifacts_of(folder, n), inputs, runs=RUNS, warmup=WARMUP)}
        for n in THREADS
    ]
    found: dict[str, Any] = {AS_IT_IS: {"by_threads": rows}}
    one, two = (row["native_int8"]["median_ms"] for row in rows)
    found["two_threads_times_faster_than_one"] = round(one / two, 3)
    for kept in LIMITED:
        found[kept] = with_fewer_instructions(folder, kept, runs=RUNS, warmup=WARMUP, threads=(1,))
    return found


def rates_by_role() -> dict[str, float]:
    """Mean firing rate of the trained reference model's neurons by the role of their layer."""
    firing = json.loads(MODELS.read_text())["models"][MEASURED]["firing"]
    roles: dict[str, list[float]] = {}
    for row in firing:
        roles.setdefault(role_of(row["layer"]), []).append(row["rate"])
    return {role: round(statistics.mean(rates), 4) for role, rates in roles.items()}


def role_of(layer: str) -> str:
    """Last part of a layer's name that is no number."""
    parts = layer.removesuffix(".neuron").split(".")
    return next(part for part in reversed(parts) if not part.isdigit())


@torch.no_grad()
def calibrate(model: SViT, inputs: torch.Tensor) -> None:
    """Set norms so that neurons fire at the reference's rates on samples.

    A pass sets the statistics of every norm to those of its input, which the norms before it have
    made; between passes the norm before a neuron layer is shifted by the distance of normal
    quantiles between its rate and the wanted one. Attention, whose neurons have no norm, is brought
    to its rate by the rates that are wanted of q, k and v.
    """
    by_role, stream = rates_by_role(), STREAM.get(model.family.name, ())
    target = {
        name: by_role["stem" if role_of(name) in stream else role_of(name)]
        if role_of(name) in (*by_role, *stream)
        else by_role["stem"]
        for name in neuron_layers(model)
    }
    wanted = dict(target)
    for layer in model.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.bias.sub_(layer.bias.mean())
    for _ in range(PASSES):
        for name, norm, rate in _observed_rates(model, inputs):
            if norm is None:
                factor = min(max((target[name] / max(rate, _LEAST)) ** (1 / 6), 0.7), 1.4)
                for other in wanted:
                    if other.startswith(f"{name}.") and role_of(other) in ("q", "k", "v"):
                        wanted[other] = min(max(wanted[other] * factor, _LEAST), _MOST)
            else:
                distance = _quantile(wanted[name]) - _quantile(rate)
                norm.bias.add_(distance * float(norm.weight.abs().mean()))
    _observed_rates(model, inputs)


def _observed_rates(
    model: SViT, inputs: torch.Tensor
) -> list[tuple[str, nn.BatchNorm2d | None, float]]:
    """Run a pass that sets norms' statistics; by neuron layer the norm before it, and its rate."""
    found: list[tuple[str, nn.BatchNorm2d | None, float]] = []
    waiting: list[nn.BatchNorm2d] = []

    def take(norm: nn.BatchNorm2d, given: tuple[torch.Tensor]) -> None:
        x = given[0]
        norm.running_mean.copy_(x.mean(dim=(0, 2, 3)))
        norm.running_var.copy_(x.var(dim=(0, 2, 3)) + 1e-6)
        waiting.append(norm)

    def fire(name: str, output: torch.Tensor) -> None:
        rate = float((output > 0).float().mean())
        found.append((name, waiting[-1] if waiting else None, rate))
        waiting.clear()

    norms = [layer for layer in model.module.modules() if isinstance(layer, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(take) for norm in norms]
    handles += [
        neuron.register_forward_hook(lambda _, given, output, name=name: fire(name, output))
        for name, neuron in neuron_layers(model).items()
    ]
    try:
        model.module(time_first(inputs))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _quantile(share: float) -> float:
    return statistics.NormalDist().inv_cdf(min(max(share, 1e-3), 1.0 - 1e-3))


if __name__ == "__main__":
    main()
