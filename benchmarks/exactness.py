"""Integer artifacts against torch on real images, and against emulated ARM bit by bit.

    python benchmarks/exactness.py [--arm SANDBOX]

The quantized twin is the torch network with the artifact's weights as floats. Spikes are compared
over 256 held-out images: as both run, and with the outputs of the float first layer handed over.
With a sandbox of `tools/arm_sandbox.py` the part of the artifact behind the float layers runs
there, too, on the currents that this machine's float layers give, and every spike tensor is
hashed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from common import RESULTS, write

from primesvt_deploy import load, open_data
from primesvt_deploy.artifact.onnx_file import export_onnx
from primesvt_deploy.config import Precision
from primesvt_deploy.lowering.trace import OUTPUT
from primesvt_deploy.lowering.unroll import REAL_KEY
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.runtime.session import OnnxModel
from primesvt_deploy.verify import verify_artifact

IMAGES, ARM_IMAGES, CALIBRATION = 256, 8, 128
CPUS = ("cortex-a72", "cortex-a76")
TOOL = Path(__file__).parent.parent / "tools" / "arm_sandbox.py"
HASHES = """
import hashlib, json, sys
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
inputs = dict(np.load(sys.argv[2]))
names = [output.name for output in session.get_outputs()]
found = session.run(names, inputs)
hashes = {n: hashlib.sha256(np.ascontiguousarray(v).tobytes()).hexdigest()
          for n, v in zip(names, found)}
print(json.dumps({"onnxruntime": ort.__version__, "hashes": hashes}))
"""


def main() -> None:
    """Measure and write `results/exactness.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arm", type=Path, help="a sandbox made by tools/arm_sandbox.py")
    sandbox = parser.parse_args().arm
    model = load()
    data = open_data(model)
    calibration = torch.from_numpy(data.search.shuffled(0).inputs(0, CALIBRATION))
    held_out = data.held_out.shuffled(0).first(IMAGES)
    path = RESULTS / "exactness.json"
    known = json.loads(path.read_text())["precisions"] if path.is_file() else {}
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        for precision in (Precision.INT8, Precision.INT4):
            samples = calibration if precision is Precision.INT4 else None
            twin = quantize(model, precision.bits, samples)
            file = Path(directory) / f"{precision.value}.onnx"
            artifact = export_onnx(twin, file, precision=precision)
            outcome = verify_artifact(twin, file, held_out)
            rows[precision.value] = {
                "images": outcome.n,
                "spikes_compared": outcome.spikes_compared,
                "flipped_spikes": outcome.flipped_spikes,
                "flips_by_layer": {k: sum(v) for k, v in outcome.flips.items() if any(v)},
                "flips_behind_float_layers": outcome.flips_behind_real,
                "top1_disagreements": outcome.top1_disagreements,
                "max_logit_difference": outcome.max_difference,
                "float_layers": dict(artifact.real),
                "standard_operators_equal": standard_is_equal(twin, file, precision, held_out),
                "arm": on_arm(file, held_out.inputs(0, ARM_IMAGES), sandbox, Path(directory))
                if sandbox
                else known.get(precision.value, {}).get("arm"),
            }
            print(precision.value, json.dumps(rows[precision.value])[:400])
    write("exactness", {"model": model.name, "data": data.name, "precisions": rows})


def standard_is_equal(twin: Any, file: Path, precision: Precision, images: Any) -> bool:
    """Whether the variant of standard operators gives the same logits to the last bit."""
    other = file.with_suffix(".standard.onnx")
    export_onnx(twin, other, precision=precision, standard=True)
    batch = images.inputs(0, 32)
    return bool((OnnxModel(file).logits(batch) == OnnxModel(other).logits(batch)).all())


def on_arm(file: Path, batch: np.ndarray, sandbox: Path, directory: Path) -> dict[str, Any]:
    """Hashes of every spike tensor behind the float layers, here and on emulated CPUs."""
    part, currents = integer_part(file, batch, directory)
    script = directory / "hashes.py"
    script.write_text(HASHES)
    here = ran([sys.executable, str(script), str(part), str(currents)])
    found: dict[str, Any] = {"images": len(batch), "tensors": len(here["hashes"])}
    for cpu in CPUS:
        line = [sys.executable, str(TOOL), "run", str(sandbox), "--cpu", cpu, str(script)]
        there = ran([*line, str(part), str(currents)])
        same = [name for name, known in here["hashes"].items() if there["hashes"][name] == known]
        found[cpu] = {
            "onnxruntime": there["onnxruntime"],
            "bit_identical_tensors": len(same),
            "different": sorted(set(here["hashes"]) - set(same)),
        }
    return found


def integer_part(file: Path, batch: np.ndarray, directory: Path) -> tuple[Path, Path]:
    """The graph from the float layers' outputs on, every spike tensor an output; its inputs."""
    graph = onnx.load(file)
    told = {entry.key: entry.value for entry in graph.metadata_props}
    produced = {output for node in graph.graph.node for output in node.output}
    # The classifier is behind all spikes, so nothing is taken from it.
    real = [name for name in json.loads(told[REAL_KEY]) if name in produced]
    spikes = [
        output
        for node in graph.graph.node
        for output in node.output
        if ".spikes.t" in output and output.rpartition(".t")[2].isdigit()
    ]
    whole = directory / "whole.onnx"
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in real)
    onnx.save(graph, whole)
    session = OnnxModel(whole).session
    found = session.run(real, {session.get_inputs()[0].name: batch})
    currents = directory / "currents.npz"
    np.savez(currents, **dict(zip(real, found, strict=True)))
    kept = [node for node in graph.graph.node if not set(node.output) & set(real)]
    del graph.graph.node[:], graph.graph.input[:], graph.graph.output[:]
    graph.graph.node.extend(kept)
    for name, value in zip(real, found, strict=True):
        shape = ["n", *value.shape[1:]]
        graph.graph.input.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        )
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (*spikes, OUTPUT))
    part = directory / "integer.onnx"
    onnx.save(graph, part)
    return part, currents


def ran(line: list[str]) -> dict[str, Any]:
    """What a command prints as JSON on its last line."""
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
