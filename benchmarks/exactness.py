"""Integer artifacts against torch on real images, and against emulated ARM bit by bit.

    python benchmarks/exactness.py [--arm SANDBOX]

The quantized model is the torch network with the artifact's weights as floats. Spikes are compared
over 256 held-out images: as both run, and with the outputs of the float first layer shared. With a
sandbox of `tools/arm_sandbox.py` the part of the artifact after the float layers also runs there,
on the currents of this machine's float layers, and every spike tensor is hashed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import MEASURED, RESULTS, write

from primesvt_deploy import load, open_data
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.devices.emulated_arm.cpus import CPUS
from primesvt_deploy.devices.emulated_arm.guest import output_digests
from primesvt_deploy.devices.emulated_arm.integer_part import split_integer_part
from primesvt_deploy.devices.emulated_arm.qemu import Guest
from primesvt_deploy.devices.emulated_arm.sandbox import Sandbox
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.verify import verify_artifact

IMAGES, ARM_IMAGES, CALIBRATION = 256, 8, 128
TIMEOUT_S = 3600.0


def main() -> None:
    """Measure and write `results/exactness.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arm", type=Path, help="a sandbox made by tools/arm_sandbox.py")
    sandbox = parser.parse_args().arm
    model = load(MEASURED)
    data = open_data(model)
    calibration = torch.from_numpy(data.search.shuffled(0).inputs(0, CALIBRATION))
    held_out = data.held_out.shuffled(0).first(IMAGES)
    path = RESULTS / "exactness.json"
    earlier = json.loads(path.read_text())["precisions"] if path.is_file() else {}
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        for precision in (Precision.INT8, Precision.INT4):
            samples = calibration if precision is Precision.INT4 else None
            quantized = quantize(model, precision.bits, samples)
            file = Path(directory) / f"{precision.value}.onnx"
            artifact = export_onnx(quantized, file, precision=precision)
            outcome = verify_artifact(quantized, file, held_out)
            rows[precision.value] = {
                "images": outcome.n,
                "spikes_compared": outcome.spikes_compared,
                "flipped_spikes": outcome.flipped_spikes,
                "flips_by_layer": {k: sum(v) for k, v in outcome.flips.items() if any(v)},
                "flips_behind_float_layers": outcome.flips_behind_float_layers,
                "top1_disagreements": outcome.top1_disagreements,
                "max_logit_difference": outcome.max_difference,
                "float_layers": dict(artifact.float_layers),
                "standard_operators_equal": standard_is_equal(quantized, file, precision, held_out),
                "arm": on_arm(file, held_out.inputs(0, ARM_IMAGES), sandbox, Path(directory))
                if sandbox
                else earlier.get(precision.value, {}).get("arm"),
            }
            print(precision.value, json.dumps(rows[precision.value])[:400])
    write("exactness", {"model": model.name, "data": data.name, "precisions": rows})


def standard_is_equal(quantized: Any, file: Path, precision: Precision, images: Any) -> bool:
    """Whether the variant of standard operators gives the same logits to the last bit."""
    other = file.with_suffix(".standard.onnx")
    export_onnx(quantized, other, precision=precision, standard=True)
    batch = images.inputs(0, 32)
    return bool((OnnxModel(file).logits(batch) == OnnxModel(other).logits(batch)).all())


def on_arm(file: Path, batch: np.ndarray, sandbox: Path, directory: Path) -> dict[str, Any]:
    """Compare every spike tensor after the float layers with emulated CPUs', by its hash."""
    folder = directory / f"{file.stem}-arm"
    folder.mkdir()
    part = split_integer_part(file, batch, folder)
    assert part is not None, f"{file} has no integer part"
    here = output_digests(part.model, part.inputs)
    found: dict[str, Any] = {"images": part.images, "tensors": len(here)}
    for cpu in CPUS:
        (folder / cpu).mkdir()
        guest = Guest(Sandbox(sandbox), cpu, folder / cpu, timeout_s=TIMEOUT_S)
        there = guest.run(["--part", str(part.model), "--inputs", str(part.inputs)])
        same = [name for name, digest in here.items() if there["digests"][name] == digest]
        found[cpu] = {
            "onnxruntime": there["onnxruntime"],
            "bit_identical_tensors": len(same),
            "different": sorted(set(here) - set(same)),
        }
    return found


if __name__ == "__main__":
    main()
