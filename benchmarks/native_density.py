"""The density of spikes from which a dense integer kernel would be faster than the engine's.

    python benchmarks/native_density.py

Layers of the reference model run alone, one thread: in the native engine on drawn spikes of each
density, and as ONNX Runtime's product of all inputs with all weights, which takes the same time at
any density. Neither has windows gathered for the dense product, so that it is the least that a
dense kernel takes; neurons fire behind it as they do behind the engine's, whose time without any
spike is added.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from common import write
from native_timing import AS_IT_IS, AVX2, LIMITED, NO_AVX512, run_limited
from onnx import TensorProto, helper

from primesvt_deploy.edge.runtime.native_library import OWN_SOURCES
from primesvt_deploy.measure.latency import measure_latency

TIMESTEPS, RUNS, WARMUP = 4, 100, 5
OPTIMIZE = "-O3"
DENSITIES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
LAYERS = {
    "1x1, 192 to 768, 8x8": (192, 8, 1, 768, 1),
    "1x1, 192 to 768, 8x8, counts to 4": (192, 8, 1, 768, 4),
    "1x1, 768 to 192, 8x8": (768, 8, 1, 192, 1),
    "3x3, 96 to 192, 16x16": (96, 16, 3, 192, 1),
    "3x3, 24 to 48, 32x32": (24, 32, 3, 48, 1),
    "1x1, 512 to 2048, 14x14": (512, 14, 1, 2048, 1),
    "1x1, 512 to 2048, 14x14, counts to 16": (512, 14, 1, 2048, 16),
    "1x1, 2048 to 512, 14x14": (2048, 14, 1, 512, 1),
}
"""Channels, size, kernel, outputs and the most spikes that an input counts: layers of the reference
model, then of Spikformer-8-512. The density is that of each spike that is counted."""


def main() -> None:
    """Measure and write `results/native_density.json`; `--dense` prints dense times alone."""
    if sys.argv[1:2] == ["--dense"]:
        print(json.dumps(dense_times(json.loads(sys.argv[2]), int(sys.argv[3]))))
        return
    program = [__file__, "--dense", json.dumps(LAYERS), str(RUNS)]
    dense = {AS_IT_IS: dense_times(LAYERS, RUNS)}
    dense |= {kept: run_limited(program, kept) for kept in LIMITED}
    found: dict[str, Any] = {name: {} for name in LAYERS}
    with tempfile.TemporaryDirectory() as directory:
        for kept in (AS_IT_IS, AVX2):
            engine = compiled(Path(directory), kept)
            for name, shape in LAYERS.items():
                found[name][kept] = sparse_times(engine, shape)
    for name, rows in found.items():
        for kept in dense:
            if name in dense[kept]:
                sparse = rows[AVX2 if kept == AVX2 else AS_IT_IS]
                rows.setdefault("dense", {})[kept] = row(sparse, dense[kept][name])
    write(
        "native_density",
        {"timesteps": TIMESTEPS, "runs": RUNS, "threads": 1, "layers": found},
    )


def row(sparse: dict[str, Any], product: float) -> dict[str, Any]:
    """A dense kernel's time, and the density from which the engine takes longer; None: none."""
    whole = product + sparse["independent_ms"][0]
    return {
        "product_ms": product,
        "with_neurons_ms": round(whole, 4),
        "crossover_density": {
            kind: crossover(sparse[f"{kind}_ms"], whole) for kind in ("independent", "static")
        },
    }


def crossover(times: list[float], dense: float) -> float | None:
    """Density at which a time is first reached, between the measured ones on a straight line."""
    for i in range(1, len(times)):
        if times[i] >= dense:
            part = (dense - times[i - 1]) / max(times[i] - times[i - 1], 1e-9)
            low, high = DENSITIES[i - 1], DENSITIES[i]
            return round(low + max(part, 0.0) * (high - low), 3)
    return None


def compiled(directory: Path, kept: str) -> Path:
    """Compile the program that runs a layer in the engine."""
    sources = [str(path) for path in OWN_SOURCES.glob("svit*.c") if path.stem != "svit_mcu"]
    target = directory / kept.replace(" ", "-")
    options = ["-std=gnu99", OPTIMIZE, "-ffp-contract=off", "-I", str(OWN_SOURCES)]
    options += [NO_AVX512] * (kept == AVX2)
    own = str(Path(__file__).with_suffix(".c"))
    line = ["cc", *options, "-o", str(target), own, *sources, "-lm", "-pthread"]
    subprocess.run(line, check=True)
    return target


def sparse_times(engine: Path, shape: tuple[int, int, int, int, int]) -> dict[str, Any]:
    """Median times of a layer in the engine by density: of drawn spikes, and of static inputs."""
    found: dict[str, Any] = {"densities": list(DENSITIES)}
    for kind, extra in (("independent", []), ("static", ["same"])):
        times = []
        for density in DENSITIES:
            numbers = (*shape[:4], TIMESTEPS, density, RUNS, shape[4])
            line = [str(engine), *map(str, numbers), *extra]
            said = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
            found["kernels"], time = said.split()
            times.append(round(float(time), 4))
        found[f"{kind}_ms"] = times
    return found


def dense_times(layers: dict[str, Any], runs: int) -> dict[str, float]:
    """Median times of the layers' products in ONNX Runtime, one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    calls = {}
    for name, (channels, size, kernel, outputs, _) in layers.items():
        inner, places = channels * kernel * kernel, TIMESTEPS * size * size
        session = ort.InferenceSession(product(inner, outputs), options)
        spikes = np.random.default_rng(0).integers(0, 2, (places, inner), dtype=np.uint8)
        calls[name] = lambda s=session, x=spikes: s.run(None, {"a": x})
    found = measure_latency(calls, runs=runs, warmup=WARMUP)
    return {name: round(latency.median, 4) for name, latency in found.items()}


def product(inner: int, outputs: int) -> bytes:
    """A graph of one product of spikes `[M, inner]` and int8 weights, as artifacts have it."""
    weights = np.random.default_rng(1).integers(-127, 128, (inner, outputs), dtype=np.int8)
    constants = {
        "b": weights,
        "one": np.float32(1.0),
        "scale": np.full(outputs, 1.0 / 512.0, dtype=np.float32),
    }
    node = helper.make_node(
        "MatMulIntegerToFloat", ["a", "b", "one", "scale"], ["y"], domain="com.microsoft"
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, ["M", inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", outputs])],
        [onnx.numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    content: bytes = model.SerializeToString()
    return content


if __name__ == "__main__":
    main()
