"""Instructions of both runtimes on emulated ARM CPUs, and the engine on microcontrollers.

    python benchmarks/native_arm.py

Bundles of the dense reference model with both runtimes run as `verify --arm` runs them: logits are
compared with this machine's, and the instructions of an image are counted. It sets up the emulated
machine if it is not there yet (some 240 MB). On emulated Cortex-M7 and M55 the reference runs with
4-bit weights, cut evenly to fit 512 KB of flash: of a pruned model's size, not of its accuracy.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import MEASURED, write

from primesvt_deploy import BuildSettings, SearchSettings, build, load, open_data
from primesvt_deploy.analysis.groups import find_groups
from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.artifact.native_source import write_native_source
from primesvt_deploy.data import DataSet
from primesvt_deploy.devices.emulated_arm.check import ArmSettings, verify_on_arm
from primesvt_deploy.devices.emulated_arm.cpus import CPUS
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.native_library import OWN_SOURCES
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress.shown import Lines
from primesvt_deploy.pruning.cut import cut
from primesvt_deploy.pruning.plan import Plan, kept_width
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision, Runtime

ARM_IMAGES, BUILD_IMAGES, MCU_IMAGES = 6, 64, 2
PRECISIONS = (Precision.INT8, Precision.INT4)
KEPT = 0.75
"""Channels that the microcontrollers' model keeps of each group."""
CORES = ("m7", "m55")
FLASH, RAM = 512 * 1024, 96 * 1024
TOOLS = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}
_TICKS = 40  # instructions of a count of the timer
_LINE = re.compile(r"^(\w+) (\w+)$", re.MULTILINE)


def main() -> None:
    """Measure and write `results/native_arm.json`."""
    missing = {tool: package for tool, package in TOOLS.items() if not shutil.which(tool)}
    if missing:
        packages = " ".join(missing.values())
        sys.exit(f"error: found no {', '.join(missing)}: apt install {packages}")
    model = load(MEASURED)
    data = open_data(model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = {
            "model": model.name,
            "data": data.name,
            "timesteps": model.config.timesteps,
            "precisions": {p.value: on_arm(model, data, p, folder) for p in PRECISIONS},
            "microcontrollers": on_microcontrollers(model, data, folder / "mcu"),
        }
    write("native_arm", content)


def on_arm(model: SViT, data: DataSet, precision: Precision, folder: Path) -> dict[str, Any]:
    """Agreement and instructions of a bundle with both runtimes, by CPU."""
    few = replace(
        data, search=data.search.first(BUILD_IMAGES), held_out=data.held_out.first(BUILD_IMAGES)
    )
    settings = BuildSettings(
        budget_mb=1000.0,  # so that nothing is pruned
        precision=precision,
        runtime=Runtime.BOTH,
        verify_images=ARM_IMAGES,
        search=SearchSettings(max_drop=None, recover=()),
    )
    result = build(model, folder / precision.value, settings, data=few)
    arm = ArmSettings(cpus=tuple(CPUS), images=ARM_IMAGES, threads=1)
    outcomes = verify_on_arm(result.path, arm, progress=Lines())
    return {outcome.cpu: outcome.to_dict() for outcome in outcomes}


def on_microcontrollers(model: SViT, data: DataSet, folder: Path) -> dict[str, Any]:
    """Flash, memory and instructions of the cut reference model by core."""
    folder.mkdir()
    small = evenly_cut(model)
    path = folder / "model.svit"
    quantized = quantize(small, Precision.INT4.bits)
    artifact = export_native(quantized, path, precision=Precision.INT4, little_memory=True)
    images = np.stack([data.search.pixels(i) for i in range(MCU_IMAGES)])
    expected = NativeModel(path).logits_of_pixels(images)
    return {
        "precision": Precision.INT4.value,
        "kept_channels": KEPT,
        "model_bytes": artifact.bytes,
        "arena_bytes": artifact.arena_bytes,
        "images": MCU_IMAGES,
        "cores": {core: on_core(core, path, images, expected) for core in CORES},
    }


def evenly_cut(model: SViT) -> SViT:
    """A model without the last channels of each group and head: of the size of a pruned one."""
    groups = find_groups(model.module, model.config.input_shape)
    plan = Plan()
    for group in groups:
        head = group.width // group.heads
        kept = kept_width(group, 1.0 - KEPT, multiple=1) // group.heads
        stay = (h * head + i for h in range(group.heads) for i in range(kept))
        plan = plan.replacing(group.name, stay)
    return model.with_module(cut(model.module, groups, plan))


def on_core(
    core: str, model: Path, images: npt.NDArray[np.uint8], expected: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """Build and run the firmware on an emulated core; linking fails where it does not fit."""
    folder = model.parent / core
    folder.mkdir()
    write_native_source(folder, model.read_bytes())
    declared = f"const uint8_t svit_images[{len(images)}][{images[0].size}]"
    lines = "".join(f"    {{{', '.join(map(str, image.reshape(-1)))}}},\n" for image in images)
    (folder / "images.h").write_text(
        f"#include <stdint.h>\n#define SVIT_IMAGES {len(images)}\nextern {declared};\n"
    )
    (folder / "images.c").write_text(f'#include "images.h"\n{declared} = {{\n{lines}}};\n')
    given = {"MODEL": folder, "IMAGES": folder, "BUILD": folder, "CORE": core}
    given |= {"FLASH": FLASH, "RAM": RAM}
    line = ["make", "--silent", "-C", str(OWN_SOURCES / "mcu")]
    line += [f"{name}={value}" for name, value in given.items()]
    sizes = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
    said = subprocess.run([*line, "run"], check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, list[str]] = {}
    for key, value in _LINE.findall(said):
        found.setdefault(key, []).append(value)
    bits = np.array([int(value, 16) for value in found["logit"]], dtype=np.uint32)
    text, initialised, _ = map(int, sizes.splitlines()[-1].split()[:3])
    flash = text + initialised - images.nbytes
    return {
        "same_logits": bool((bits.view(np.float32).reshape(expected.shape) == expected).all()),
        "flash_bytes_without_images": flash,
        "stack_bytes": int(found["stack"][0]),
        "arena_bytes": int(found["arena"][0]),
        "instructions": round(_TICKS * float(np.mean([int(t) for t in found["ticks"]]))),
    }


if __name__ == "__main__":
    main()
