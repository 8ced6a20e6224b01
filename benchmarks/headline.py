"""Size, latency and memory of one model in each form that people run it in: README's table.

    python benchmarks/headline.py

On `common.MEASURED`, one thread, one image. Latencies are of one process, in rounds in which all
forms take turns; peak memory is of a fresh process for each. The pruned model has the widths that
greedy with recovery reached in `frontier.json`, whose accuracy stands there; latency and memory do
not depend on the values of weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import MEASURED, RESULTS, write
from latency import MeanOverTime, check_same, naive_export, spikingjelly_model
from native import artifacts, memory
from native_timing import over_samples
from spikingjelly.activation_based import functional

from primesvt_deploy import load, open_data
from primesvt_deploy.analysis.equal_heads import keep_most_important
from primesvt_deploy.analysis.groups import find_groups
from primesvt_deploy.analysis.importance import l2_importance
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.measure.latency import measure_latency
from primesvt_deploy.measure.memory import measure_memory
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.cut import cut
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.settings import Precision

RUNS, WARMUP, IMAGES, PROCESSES = 200, 20, 64, 3
SAVING = 60.0
EAGER = "spikingjelly_eager"
ONNX = ("naive", "fp32", "pruned", "int8")
_EAGER_ALONE = """
import json, sys, torch
from spikingjelly.activation_based import functional
torch.set_num_threads(1)
network, image = torch.load(sys.argv[1], weights_only=False), torch.zeros(*json.loads(sys.argv[2]))
for _ in range(int(sys.argv[3])):
    functional.reset_net(network)
    with torch.inference_mode():
        network(image)
(peak,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(1024 * int(peak.split()[1]))
"""
"""A process that has loaded nothing but the network, torch and SpikingJelly."""


def main() -> None:
    """Measure and write `results/headline.json`."""
    model = load(MEASURED)
    data = open_data(model)
    inputs = data.held_out.shuffled(0).inputs(0, IMAGES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {kind: folder / f"{kind}.onnx" for kind in ONNX}
        exported = artifacts(model, data, Precision.INT8, folder)
        export_onnx(model, paths["fp32"])
        export_onnx(with_widths(model, widths_of_greedy()), paths["pruned"])
        naive_export(model, paths["naive"])
        check_same(model, {"dense": paths["fp32"], "naive": paths["naive"]}, inputs[:1])
        native = memory(folder, exported, data.held_out.pixels(0))
        sizes = {kind: path.stat().st_size for kind, path in paths.items()}
        peaks = {kind: _median_peak(path) for kind, path in paths.items()}
        peaks |= {"native": native["native_peak_bytes"], EAGER: _eager_peak(model, folder)}
        content = {
            "model": model.name,
            "data": data.name,
            "batch": 1,
            "threads": 1,
            "runs": RUNS,
            "images": len(inputs),
            "processes": PROCESSES,
            "pruned_saving_percent": SAVING,
            "file_bytes": {**sizes, "native": exported.native.bytes, EAGER: _weight_bytes(model)},
            "peak_bytes": peaks,
            **latencies(model, paths, exported.native.path, inputs),
        }
    write("headline", content)


def latencies(
    model: SViT, paths: dict[str, Path], native: Path, inputs: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """Latencies of interleaved rounds on one thread, and speed as multiples of eager's."""
    torch.set_num_threads(1)
    eager = MeanOverTime(spikingjelly_model(model))

    def run_eager(image: npt.NDArray[np.float32]) -> None:
        functional.reset_net(eager)
        with torch.inference_mode():
            eager(torch.from_numpy(image))

    runners = {EAGER: run_eager, "native": NativeModel(native, threads=1).logits}
    runners |= {kind: OnnxModel(path, threads=1).logits for kind, path in paths.items()}
    calls = {kind: over_samples(run, inputs) for kind, run in runners.items()}
    found = measure_latency(calls, runs=RUNS, warmup=WARMUP)
    rounds = {
        kind: np.divide(found[EAGER].milliseconds, latency.milliseconds)
        for kind, latency in found.items()
    }
    return {
        "latency": {kind: latency.to_dict() for kind, latency in found.items()},
        "times_faster_than_eager": {
            kind: round(float(np.median(ratios)), 3) for kind, ratios in rounds.items()
        },
    }


def widths_of_greedy() -> dict[str, int]:
    """Widths that greedy with recovery reached at `SAVING`."""
    series = json.loads((RESULTS / "frontier.json").read_text())["series"]
    (greedy,) = (s for s in series if (s["policy"], s["recovery"]) == ("greedy", "all"))
    (point,) = (p for p in greedy["points"] if p["asked_saving_percent"] == SAVING)
    return dict(point["widths"])


def with_widths(model: SViT, widths: dict[str, int]) -> SViT:
    """The model cut to given widths, by L2 norm."""
    groups = find_groups(model.module, model.config.input_shape)
    plan = Plan()
    for group in groups:
        importance = l2_importance(model.module, group)
        kept = keep_most_important(importance, group, widths[group.name])
        plan = plan.replacing(group.name, kept)
    return model.with_module(cut(model.module, groups, plan))


def _weight_bytes(model: SViT) -> int:
    """Bytes of the weights that eager mode reads, in float32."""
    return sum(4 * value.numel() for value in spikingjelly_model(model).state_dict().values())


def _median_peak(path: Path) -> int:
    return int(median(measure_memory(path, threads=1).peak for _ in range(PROCESSES)))


def _eager_peak(model: SViT, folder: Path) -> int:
    """Peak resident memory of a fresh process that classifies images in eager mode."""
    path = folder / "eager.pt"
    torch.save(spikingjelly_model(model), path)
    shape = json.dumps([1, *model.config.input_shape])
    command = [sys.executable, "-c", _EAGER_ALONE, str(path), shape, str(WARMUP)]
    peaks = [
        int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(PROCESSES)
    ]
    return int(median(peaks))


if __name__ == "__main__":
    main()
