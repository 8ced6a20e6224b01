"""The native runtime beside ONNX Runtime and SpikingJelly: time, memory, sizes, densities.

    python benchmarks/native.py

All in one process, interleaved round by round, each round on another held-out image: networks skip
what is silent, so that one image would say little.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import MEASURED, write
from latency import MeanOverTime, spikingjelly_model
from spikingjelly.activation_based import functional

from primesvt_deploy import load, open_data
from primesvt_deploy.artifact.native_export import NativeArtifact, export_native
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.native_library import OWN_SOURCES
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.measure.latency import Latency, measure_latency
from primesvt_deploy.measure.memory import measure_memory
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

RUNS, WARMUP, IMAGES, CALIBRATION, STARTS = 300, 20, 64, 128, 9
_FIRST = re.compile(r"first result ([\d.]+) ms")
_PEAK = re.compile(r"([\d.]+) MB")


def main() -> None:
    """Measure and write `results/native.json`."""
    model = load(MEASURED)
    data = open_data(model)
    images = data.held_out.first(IMAGES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_onnx(model, folder / "fp32.onnx")
        artifacts = {}
        for precision in (Precision.INT8, Precision.INT4):
            samples = torch.from_numpy(data.search.inputs(0, CALIBRATION))
            quantized = quantize(model, precision.bits, samples)
            export_onnx(quantized, folder / f"{precision}.onnx", precision=precision)
            artifacts[precision.value] = export_native(
                quantized, folder / f"{precision}.svit", precision=precision
            )
        inputs = images.inputs(0, len(images))
        content = {
            "model": model.name,
            "batch": 1,
            "images": len(images),
            "runs": RUNS,
            "warmup": WARMUP,
            "kernels": NativeModel(artifacts["int8"].path).kernels,
            "agreement": agreement(folder, inputs),
            "by_threads": [measured(model, folder, inputs, threads) for threads in (1, 2)],
            "memory": memory(folder, artifacts, images),
            "density": density(artifacts["int8"].path, inputs),
        }
    write("native", content)


def agreement(folder: Path, inputs: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Images on which both runtimes name one class, and the median logit difference, int8."""
    onnx = OnnxModel(folder / "int8.onnx").logits(inputs)
    native = NativeModel(folder / "int8.svit").logits(inputs)
    return {
        "same_class": int((onnx.argmax(axis=1) == native.argmax(axis=1)).sum()),
        "median_logit_difference": float(np.median(np.abs(onnx - native).max(axis=1))),
    }


def measured(
    model: SViT, folder: Path, inputs: npt.NDArray[np.float32], threads: int
) -> dict[str, Any]:
    """Latencies at one thread count, and medians as multiples of the native int8 one's."""
    torch.set_num_threads(threads)
    eager = MeanOverTime(spikingjelly_model(model))

    def run_eager(image: npt.NDArray[np.float32]) -> None:
        functional.reset_net(eager)
        with torch.inference_mode():
            eager(torch.from_numpy(image))

    runners: dict[str, Callable[[npt.NDArray[np.float32]], object]] = {
        "spikingjelly_eager": run_eager
    }
    for name in ("fp32", "int8", "int4"):
        runners[f"onnx_{name}"] = OnnxModel(folder / f"{name}.onnx", threads=threads).logits
    for name in ("int8", "int4"):
        runners[f"native_{name}"] = NativeModel(folder / f"{name}.svit", threads=threads).logits
    calls = {name: over_images(run, inputs) for name, run in runners.items()}
    latencies = measure_latency(calls, runs=RUNS, warmup=WARMUP)
    ours = latencies["native_int8"].median
    return {
        "threads": threads,
        **{name: latency.to_dict() for name, latency in latencies.items()},
        "native_int8_times_faster_than": {
            name: _ratio(latency, ours)
            for name, latency in latencies.items()
            if name != "native_int8"
        },
    }


def over_images(
    run: Callable[[npt.NDArray[np.float32]], object], inputs: npt.NDArray[np.float32]
) -> Callable[[], object]:
    """A call that runs another image each time."""
    samples = itertools.cycle([inputs[i : i + 1] for i in range(len(inputs))])
    return lambda: run(next(samples))


def _ratio(latency: Latency, ours: float) -> float:
    return round(latency.median / ours, 3)


def memory(folder: Path, artifacts: dict[str, NativeArtifact], images: ImageList) -> dict[str, Any]:
    """Sizes of files and arenas, resident memory of a process, and its time to a first result."""
    found: dict[str, Any] = {}
    build = folder / "build"
    subprocess.run(["make", "--silent", "-C", str(OWN_SOURCES), f"BUILD={build}"], check=True)
    sample = folder / "sample.raw"
    sample.write_bytes(np.ascontiguousarray(images.pixels(0)).tobytes())
    for name, artifact in artifacts.items():
        command = [str(build / "classify"), "--time", "1", str(artifact.path), str(sample)]
        said = [
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
            for _ in range(STARTS)
        ]
        found[name] = {
            "onnx_file_bytes": (folder / f"{name}.onnx").stat().st_size,
            "native_file_bytes": artifact.bytes,
            "native_arena_bytes": artifact.arena_bytes,
            "onnx_peak_bytes": measure_memory(folder / f"{name}.onnx", threads=1).peak,
            "native_peak_bytes": round(max(_number(_PEAK, text) for text in said) * 1e6),
            "native_first_result_ms": float(np.median([_number(_FIRST, text) for text in said])),
        }
    return found


def _number(pattern: re.Pattern[str], text: str) -> float:
    found = pattern.search(text)
    assert found is not None, text
    return float(found.group(1))


def density(path: Path, inputs: npt.NDArray[np.float32]) -> dict[str, float]:
    """Share of a layer's neurons and timesteps that fire, over all images."""
    model = NativeModel(path)
    fired: dict[str, list[float]] = {}
    for sample in inputs:
        for name, counts in model.observe(sample).items():
            if counts.dtype != np.float32:
                fired.setdefault(name, []).append(float((counts > 0).mean()))
    return {name: round(float(np.mean(shares)), 4) for name, shares in fired.items()}


if __name__ == "__main__":
    main()
