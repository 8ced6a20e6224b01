"""The native runtime beside ONNX Runtime and SpikingJelly: time, memory, sizes, operations.

    python benchmarks/native.py

Timed in one process, interleaved round by round, each round on another held-out image: networks
skip what is silent, so that one image would say little. Then once more in processes without VNNI,
and without AVX-512, on which other kernels run (`native_timing.py`).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import MEASURED, write
from latency import MeanOverTime, spikingjelly_model
from native_agreement import agreement
from native_operations import operations_by_layer, peak_additions
from native_timing import AS_IT_IS, LIMITED, THREADS, artifacts_of, timed, with_fewer_instructions
from spikingjelly.activation_based import functional

from primesvt_deploy import load, open_data
from primesvt_deploy.artifact.native_export import NativeArtifact, export_native
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.data import DataSet
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.bench.native_program import build_program
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.lowering.native.records import Data
from primesvt_deploy.lowering.passes import lower_to_program, trace_network
from primesvt_deploy.measure.accuracy import artifact_hits
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.measure.memory import measure_memory
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

RUNS, WARMUP, IMAGES, CALIBRATION, STARTS = 200, 10, 64, 128, 9
COMPARED, COUNTED, ACCURACY = 256, 32, 5000
PRECISIONS = (Precision.INT8, Precision.INT4)
_FIRST = re.compile(r"first result ([\d.]+) ms")
_PEAK = re.compile(r"([\d.]+) MB")


@dataclass(frozen=True)
class Exported:
    """A quantized model and its artifacts for both runtimes.

    Args:
        model: the quantized model.
        onnx: the ONNX file.
        native: the file of the native engine.
        bytes: of its weights, and of these with scales and biases, as they are stored there.
    """

    model: SViT
    onnx: Path
    native: NativeArtifact
    bytes: tuple[int, int]


def main() -> None:
    """Measure and write `results/native.json`."""
    model = load(MEASURED)
    data = open_data(model)
    images = data.held_out.shuffled(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "artifacts"
        folder.mkdir()
        inputs = images.inputs(0, min(IMAGES, len(images)))
        np.save(folder / "inputs.npy", inputs)
        export_onnx(model, folder / "fp32.onnx")
        exported = {p: artifacts(model, data, p, folder) for p in PRECISIONS}
        timings = {AS_IT_IS: beside_eager(model, folder, inputs)}
        for kept in LIMITED:
            timings[kept] = with_fewer_instructions(folder, kept, runs=RUNS, warmup=WARMUP)
        content = {
            "model": model.name,
            "data": data.name,
            "batch": 1,
            "images": len(inputs),
            "runs": RUNS,
            "warmup": WARMUP,
            "timings": timings,
            "memory": {
                p.value: memory(Path(name), exported[p], images.pixels(0)) for p in PRECISIONS
            },
            "agreement": {
                p.value: agreement(
                    exported[p].model, exported[p].onnx, exported[p].native, images.first(COMPARED)
                )
                for p in PRECISIONS
            },
            "operations": operations(exported[Precision.INT8], images, timings[AS_IT_IS]),
            "integer_input": integer_input(model, data, exported, Path(name)),
        }
    write("native", content)


def artifacts(
    model: SViT, data: DataSet, precision: Precision, folder: Path, *, integer_input: bool = False
) -> Exported:
    """Quantize a model as `build` does, and export it to both runtimes."""
    samples = data.search.as_pixels() if integer_input else data.search
    calibration = torch.from_numpy(samples.inputs(0, min(CALIBRATION, len(samples))))
    quantized = quantize(
        model,
        precision.bits,
        calibration if precision is Precision.INT4 else None,
        integer_input=integer_input,
    )
    traced = trace_network(quantized.module.float(), quantized.config, exact=True)
    onnx, svit = (folder / f"{precision.value}.{suffix}" for suffix in ("onnx", "svit"))
    export_onnx(quantized, onnx, precision=precision, traced=traced)
    native = export_native(quantized, svit, precision=precision, traced=traced)
    program = lower_to_program(
        quantized.module, quantized.config, precision=precision, traced=traced
    )
    return Exported(quantized, onnx, native, stored_bytes(program.operators))


def stored_bytes(operators: Any) -> tuple[int, int]:
    """Bytes of the weights of a native program, and of these with scales and biases."""

    def total(names: tuple[str, ...]) -> int:
        found = {getattr(op, name) for op in operators for name in names if hasattr(op, name)}
        return sum(x.content.nbytes for x in found if isinstance(x, Data))

    weights = ("rows", "multipliers")
    return total(weights), total((*weights, "scale", "bias"))


def beside_eager(model: SViT, folder: Path, inputs: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Latencies of the artifacts and of SpikingJelly in eager mode, by thread count."""
    rows = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        eager = MeanOverTime(spikingjelly_model(model))

        def run_eager(image: npt.NDArray[np.float32], eager: MeanOverTime = eager) -> None:
            functional.reset_net(eager)
            with torch.inference_mode():
                eager(torch.from_numpy(image))

        runners = {"spikingjelly_eager": run_eager, **artifacts_of(folder, threads)}
        rows.append({"threads": threads, **timed(runners, inputs, runs=RUNS, warmup=WARMUP)})
    return {"kernels": NativeModel(folder / "int8.svit").kernels, "by_threads": rows}


def memory(folder: Path, exported: Exported, pixels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Sizes of files and of the arena, peak memory of a process, and its time to a first result."""
    build = folder / "build"
    build.mkdir(exist_ok=True)
    program, sample = build_program(build), folder / "sample.raw"
    sample.write_bytes(np.ascontiguousarray(pixels).tobytes())
    once = [str(program), str(exported.native.path), str(sample)]
    said, processes = [], []
    for _ in range(STARTS):
        started = time.perf_counter()
        subprocess.run(once, check=True, stdout=subprocess.DEVNULL)
        processes.append(1e3 * (time.perf_counter() - started))
        measured = [once[0], "--time", "1", *once[1:]]
        said.append(subprocess.run(measured, check=True, capture_output=True, text=True).stdout)
    weights, parameters = exported.bytes
    return {
        "onnx_file_bytes": exported.onnx.stat().st_size,
        "native_file_bytes": exported.native.bytes,
        "weights_bytes": weights,
        "parameters_bytes": parameters,
        "file_over_weights_percent": round(100 * (exported.native.bytes / weights - 1), 2),
        "file_over_parameters_percent": round(100 * (exported.native.bytes / parameters - 1), 2),
        "arena_bytes": exported.native.arena_bytes,
        "onnx_peak_bytes": measure_memory(exported.onnx, threads=1).peak,
        "native_peak_bytes": round(max(_number(_PEAK, text) for text in said) * 1e6),
        "starts": STARTS,
        "first_result_ms": round(float(np.median([_number(_FIRST, text) for text in said])), 3),
        "whole_process_ms": round(float(np.median(processes)), 3),
    }


def _number(pattern: re.Pattern[str], text: str) -> float:
    found = pattern.search(text)
    assert found is not None, text
    return float(found.group(1))


def operations(exported: Exported, images: ImageList, timing: dict[str, Any]) -> dict[str, Any]:
    """Densities and operations an image, and how many of them the engine does in a second."""
    inputs = torch.from_numpy(images.inputs(0, min(COUNTED, len(images))))
    layers = operations_by_layer(exported.model, inputs, exported.native.integer_layers)
    keys = ("dense_operations", "synaptic_operations", "grouped_additions")
    in_all = {key: sum(layer[key] for layer in layers.values()) for key in keys}
    seconds = 1e-3 * timing["by_threads"][0]["native_int8"]["median_ms"]
    peak = peak_additions()
    added = in_all["grouped_additions"] / seconds
    return {
        "images": len(inputs),
        "an_image": in_all,
        "layers": layers,
        "one_thread": {
            "synaptic_operations_a_second": round(in_all["synaptic_operations"] / seconds),
            "grouped_additions_a_second": round(added),
            "peak_additions_a_second": peak,
            "share_of_peak": {key: round(added / most, 4) for key, most in peak.items()},
        },
    }


def integer_input(
    model: SViT, data: DataSet, exported: dict[Precision, Exported], folder: Path
) -> dict[str, Any]:
    """Held-out accuracy with pixels as input and with normalised images, in the native engine."""
    images = data.held_out.first(ACCURACY)
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        own = folder / f"pixels-{precision.value}"
        own.mkdir()
        of_pixels = artifacts(model, data, precision, own, integer_input=True)
        paths = (exported[precision].native.path, of_pixels.native.path)
        before, after = (artifact_hits(NativeModel(path), images, batch_size=64) for path in paths)
        found[precision.value] = {
            "normalised": Accuracy.of(before).to_dict(),
            "pixels": Accuracy.of(after).to_dict(),
            "drop": PairedDrop.of(before, after).to_dict(),
        }
    return found


if __name__ == "__main__":
    main()
