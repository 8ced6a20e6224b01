"""Runs that stop early: accuracy against mean time, beside fixed timesteps and SpikingJelly.

    python benchmarks/anytime.py           # minutes
    python benchmarks/anytime.py --pruned  # and a pruned, fine-tuned model: a quarter of an hour

Margins are set on the search split, accuracies are of the held-out one, which no choice has seen
but that of `PRUNED`: the fifth recipe tried, with the held-out accuracy of the others known.
All are timed in one process on one thread, in turns, each round on another held-out image; means
are what counts, as a run takes one time or another.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import MEASURED, write
from latency import MeanOverTime, spikingjelly_model
from spikingjelly.activation_based import functional

from primesvt_deploy import BuildSettings, SearchSettings, build, load, open_data
from primesvt_deploy.artifact.native_export import EarlyModel, export_native
from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.artifact.onnx_stages import join_stages
from primesvt_deploy.data import DataSet
from primesvt_deploy.edge.runtime.native import NATIVE_FILE, NativeModel
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.edge.runtime.stages import Stage
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.measure.latency import Latency, measure_latency
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.anytime import make_stages, native_stages, stage_results
from primesvt_deploy.pipeline.ladder import Ladder, StageResult, choose_ladder, climb
from primesvt_deploy.pruning.recovery.timesteps import with_timesteps
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import BudgetOn, ComputeSettings, FinetuneSettings, Precision, Runtime

WITH_PRUNED = "--pruned" in sys.argv[1:]
RUNS, WARMUP, IMAGES, CALIBRATION = 300, 20, 100, 128
SEARCH_IMAGES, HELD_OUT_IMAGES = 5000, 5000
DROPS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Points that may be lost on the search split by stopping early."""
PRUNED = BuildSettings(
    saving=87.5,  # of the float32 weights: int8, and half of them
    budget_on=BudgetOn.PARAMS,
    precision=Precision.INT8,
    runtime=Runtime.NATIVE,
    integer_input=True,
    anytime=0.8,
    search=SearchSettings(max_drop=0.2, policy="greedy", search_images=3000),
    finetune=FinetuneSettings(epochs=5, timesteps=(1, 1, 1, 2, 2)),
    compute=ComputeSettings(device="cpu"),
    threads=os.cpu_count() or 1,
)
"""Half of the model at T = 2, within one point in all of what that loses."""

Samples = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
Call = Callable[[Any], object]


@dataclass(frozen=True)
class Row:
    """One way to run the model.

    Args:
        call: runs it on samples.
        facts: of it, for the results.
        takes_pixels: whether samples are uint8, which no preprocessing has seen.
    """

    call: Call
    facts: Mapping[str, Any]
    takes_pixels: bool = False


def main() -> None:
    """Measure and write `results/anytime.json`."""
    torch.set_num_threads(1)
    model = load(MEASURED)
    data = open_data(model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = {"spikingjelly_eager": Row(eager(model), {"timesteps": model.timesteps})}
        rows |= unpruned(model, data, folder)
        if WITH_PRUNED:
            rows["native_pruned_anytime"] = pruned(model, data, folder)
        images = data.held_out.first(IMAGES)
        normalised, pixels = (x.inputs(0, len(x)) for x in (images, images.as_pixels()))
        calls = {
            name: over_images(row.call, pixels if row.takes_pixels else normalised)
            for name, row in rows.items()
        }
        times = measure_latency(calls, runs=RUNS, warmup=WARMUP)
    content = {
        "model": model.name,
        "precision": "int8",
        "threads": 1,
        "batch": 1,
        "images_timed": len(images),
        "runs": RUNS,
        "search_images": min(SEARCH_IMAGES, len(data.search)),
        "rows": {
            name: {**row.facts, **timed(times[name], times["spikingjelly_eager"])}
            for name, row in rows.items()
        },
    }
    write("anytime", content)


def over_images(call: Call, inputs: Samples) -> Callable[[], object]:
    """A call that runs another image each time."""
    samples = itertools.cycle([inputs[i : i + 1] for i in range(len(inputs))])
    return lambda: call(next(samples))


def timed(latency: Latency, eager: Latency) -> dict[str, float]:
    """Times of a row, and how many times faster than eager it is by the mean."""
    mean, of_eager = (float(np.mean(x.milliseconds)) for x in (latency, eager))
    return {
        **latency.to_dict(),
        "mean_ms": round(mean, 3),
        "times_faster_than_eager": round(of_eager / mean, 3),
    }


def eager(model: SViT) -> Call:
    """The model in SpikingJelly, eager, fp32."""
    network = MeanOverTime(spikingjelly_model(model))

    def run(image: npt.NDArray[np.float32]) -> None:
        functional.reset_net(network)
        with torch.inference_mode():
            network(torch.from_numpy(image))

    return run


def unpruned(model: SViT, data: DataSet, folder: Path) -> dict[str, Row]:
    """The model at every T, and with stages for each of `DROPS`, in both runtimes."""
    quantized = quantize(model, 8)
    source = data.train if len(data.train) else data.search
    stages = make_stages(model, quantized, source.shuffled(0).first(CALIBRATION))
    models = [*(stage.model for stage in stages), quantized]
    path = folder / "all.svit"
    early = [stage.early(np.inf) for stage in stages]
    export_native(quantized, path, precision=Precision.INT8, early=early)
    alone = native_stages(path)
    search = stage_results(alone, data.search.first(SEARCH_IMAGES))
    held_out = stage_results(alone, data.held_out.first(HELD_OUT_IMAGES))
    rows, exported = {}, {}
    for number, (each, found) in enumerate(zip(models, held_out, strict=True)):
        onnx = folder / f"{number}.onnx"
        exported[each.timesteps] = export_onnx(each, onnx, precision=Precision.INT8)
        facts = {"timesteps": each.timesteps, **accuracy(found.hits, held_out[-1].hits)}
        rows[f"native_T{each.timesteps}"] = Row(
            NativeModel(path, threads=1, stage=number).logits, facts
        )
        rows[f"onnx_T{each.timesteps}"] = Row(OnnxModel(onnx, threads=1).logits, facts)
    for allowed in DROPS:
        ladder = choose_ladder(search, allowed)
        facts = {
            "max_drop_points": allowed,
            "search_drop_points": round(ladder.drop.points, 4),
            "stages": [stage.to_dict() for stage in ladder.stages],
            **on_held_out(ladder, held_out),
        }
        target = folder / f"{allowed}.svit"
        given = [EarlyModel(_at(models, s.timesteps), s.margin) for s in ladder.stages[:-1]]
        export_native(quantized, target, precision=Precision.INT8, early=given)
        onnx = joined(ladder, exported, folder / f"{allowed}.onnx")
        for name, file, opened in (
            ("native", target, NativeModel(target, threads=1)),
            ("onnx", onnx, OnnxModel(onnx, threads=1)),
        ):
            rows[f"{name}_anytime_{allowed:g}"] = Row(
                opened.logits, {"file_bytes": file.stat().st_size, **facts}
            )
    return rows


def joined(ladder: Ladder, exported: Mapping[int, Artifact], path: Path) -> Path:
    """The ONNX file of a ladder: that of the whole model, if no run stops early."""
    stages = [Stage(stage.timesteps, stage.margin) for stage in ladder.stages]
    artifacts = [exported[stage.timesteps] for stage in stages]
    return join_stages(artifacts, stages, path).path if stages[1:] else artifacts[-1].path


def _at(models: Sequence[SViT], timesteps: int) -> SViT:
    return next(model for model in models if model.timesteps == timesteps)


def accuracy(hits: npt.NDArray[np.bool_], whole: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Held-out accuracy, and what is lost against all timesteps."""
    return {
        "held_out": Accuracy.of(hits).to_dict(),
        "drop": PairedDrop.of(whole, hits).to_dict(),
    }


def on_held_out(ladder: Ladder, results: Sequence[StageResult]) -> dict[str, Any]:
    """What stages and margins, chosen elsewhere, come to on the held-out images."""
    chosen = {stage.timesteps for stage in ladder.stages}
    found = climb(
        [result for result in results if result.timesteps in chosen],
        [stage.margin for stage in ladder.stages[:-1]],
    )
    whole = results[-1].hits
    right = int(whole.sum()) - found.drop.lost + found.drop.gained
    return {
        "timesteps": round(found.timesteps, 4),
        "held_out_shares": [round(stage.share, 4) for stage in found.stages],
        "held_out": Accuracy(right, len(whole)).to_dict(),
        "drop": found.drop.to_dict(),
    }


def pruned(model: SViT, data: DataSet, folder: Path) -> Row:
    """The model at T = 2 pruned and trained on, which stops early as well."""
    samples = torch.from_numpy(data.train.inputs(0, CALIBRATION))
    result = build(with_timesteps(model, 2, samples), folder / "pruned", PRUNED, data=data)
    torch.set_num_threads(1)
    manifest, anytime = result.manifest, result.manifest["anytime"]
    facts = {
        "saved_percent": manifest["size"]["saved_percent"],
        "met": result.met,
        "file_bytes": manifest["native"]["file_bytes"],
        "search_drop_points": {
            "pruning": manifest["accuracy"]["search"]["drop_points"],
            "stopping_early": anytime["search"]["drop_points"],
        },
        "stages": anytime["stages"],
        "timesteps": (anytime["held_out"] or anytime["search"])["mean_timesteps"],
        "held_out": manifest["accuracy"]["shipped"],
        "drop": manifest["accuracy"]["drop"],
    }
    return Row(
        NativeModel(result.path / NATIVE_FILE, threads=1).logits,
        facts,
        takes_pixels=PRUNED.integer_input,
    )


if __name__ == "__main__":
    main()
