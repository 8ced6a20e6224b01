"""Size, held-out accuracy and memory of every precision; also at the widths of published models.

    python benchmarks/precision.py [--memory] [reference | NAME ...]

On `common.MEASURED` each row is a whole `build`, decided on the search split, reported on the
held-out one. At published widths weights and images are random, so only size, latency (all
precisions interleaved in one process, at one and two threads) and peak memory of a fresh process
are measured there: the median of three on the reference model, a single one at published widths.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import MEASURED, RESULTS, write
from wide import network

from primesvt_deploy import BuildSettings, SearchSettings, build, export, load, open_data
from primesvt_deploy.artifact.ort_export import write_ort_file
from primesvt_deploy.edge.runtime.profiles import make_profile
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.lowering.integer.int4_packing import UNPACK
from primesvt_deploy.measure.latency import measure_latency
from primesvt_deploy.measure.memory import measure_memory
from primesvt_deploy.settings import Precision

WIDE = ("Spikformer-8-512", "SDT-8-512", "QKFormer-10-384")
BUILDS = {
    "int8": BuildSettings(saving=73.0, precision=Precision.INT8),
    "int4": BuildSettings(saving=85.0, precision=Precision.INT4, search=SearchSettings(recover=())),
    "int4, pruned": BuildSettings(
        saving=90.0, precision=Precision.INT4, search=SearchSettings(policy="greedy")
    ),
}
PROCESSES = 3
RUNS, SECONDS = 40, 60.0


def main() -> None:
    """Measure the parts named on the command line, all by default; the others stay as they are."""
    path = RESULTS / "precision.json"
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    content = {key: earlier.get(key, {}) for key in ("reference", "widths")}
    again = sys.argv[1:2] == ["--memory"]  # of published widths alone, the rest as it is
    for name in sys.argv[1 + again :] or ("reference", *WIDE):
        if name == "reference":
            reference(content)
        elif again:
            content["widths"][name]["memory"] = at_width(name, timed=False)["memory"]
        else:
            content["widths"][name] = at_width(name)
        write("precision", content)


def reference(content: dict[str, Any]) -> None:
    """Build the reference model in each precision; each row is written when it is done."""
    model = load(MEASURED)
    data = open_data(model)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        export(model, Path(directory) / "fp32.onnx")
        memory = {"fp32": memory_of(Path(directory) / "fp32.onnx")}
        content["reference"] = {
            "model": model.name,
            "data": data.name,
            "builds": rows,
            "memory": memory,
        }
        for name, settings in BUILDS.items():
            result = build(model, Path(directory) / name, settings, data=data)
            manifest = result.manifest
            rows[name] = {
                "met": manifest["constraints"]["met"],
                "stopped_by": manifest["constraints"]["stopped_by"],
                "size": manifest["size"],
                "integer_layers": manifest["precision"]["integer_layers"],
                "real_layers": manifest["precision"]["real_layers"],
                "accuracy": {
                    k: manifest["accuracy"][k] for k in ("dense", "shipped", "drop", "search")
                },
                "verification": {
                    k: manifest["verification"][k]
                    for k in ("n", "flipped_spikes", "flips_behind_real", "spikes_compared")
                },
                "seconds": manifest["seconds"],
            }
            memory[name] = memory_of(result.path / "model.onnx")
            write("precision", content)


def at_width(name: str, *, timed: bool = True) -> dict[str, Any]:
    """The dense model of random weights in every precision."""
    model = network(name)
    shape = (1, *model.config.input_shape)
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    with tempfile.TemporaryDirectory() as directory:
        paths = {p.value: Path(directory) / f"{p.value}.onnx" for p in Precision}
        artifacts = {p.value: export(model, paths[p.value], precision=p) for p in Precision}
        latency = {str(t): latencies(paths, image, t) for t in (1, 2) if timed}
        return {
            "file_bytes": {k: artifact.bytes for k, artifact in artifacts.items()},
            "integer_layers": len(artifacts["int8"].integer_layers),
            "real_layers": dict(artifacts["int8"].float_layers),
            "latency_by_threads": latency,
            "memory": {k: memory_of(path, processes=1) for k, path in paths.items()},
        }


def latencies(paths: dict[str, Path], image: np.ndarray, threads: int) -> dict[str, Any]:
    """Interleaved latencies, and speeds as multiples of float32's."""
    models = {name: OnnxModel(path, threads=threads) for name, path in paths.items()}
    calls = {name: (lambda m=model: m.logits(image)) for name, model in models.items()}
    found = measure_latency(calls, runs=RUNS, warmup=3, seconds=SECONDS)
    times = {name: latency.to_dict() for name, latency in found.items()}
    faster = {
        f"{name}_than_fp32": round(found["fp32"].median / found[name].median, 3)
        for name in ("int8", "int4")
    }
    return {"runs": len(found["fp32"].milliseconds), **times, "times_faster": faster}


def memory_of(path: Path, processes: int = PROCESSES) -> dict[str, Any]:
    """Peak resident memory of fresh processes under each profile, bytes, one thread."""
    mapped = write_ort_file(path, path.with_suffix(".bench.ort"))
    frugal = make_profile("low-memory")
    if any(function.name == UNPACK for function in onnx.load(path).functions):
        # As a bundle's session.json has it for weights that would be unpacked at load.
        frugal = replace(frugal, graph_optimization_level="disabled")
    kinds = {
        "defaults": (path, make_profile("defaults")),
        "latency": (path, make_profile("latency")),
        "low-memory": (path, frugal),
        "low-memory, .ort": (mapped, make_profile("low-memory", mapped.name)),
    }
    found: dict[str, Any] = {"processes": processes}
    for name, (file, profile) in kinds.items():
        uses = [measure_memory(file, profile=profile, threads=1) for _ in range(processes)]
        found[name] = {
            "peak_bytes": statistics.median(use.peak for use in uses),
            "anonymous_bytes": statistics.median(use.anonymous for use in uses),
        }
        found["imported_bytes"] = statistics.median(use.imported for use in uses)
    mapped.unlink()
    return found


if __name__ == "__main__":
    main()
