"""Layers of the native engine by the density of spikes: rows of active inputs, or all products.

    python benchmarks/native_density.py

Layers of the reference model and of Spikformer-8-512 run alone, one thread, on drawn spikes of each
density, both ways in turn: the weight rows of active inputs are added, or all counts are multiplied
by all weights. The engine chooses between them when it runs, by a model of their costs; what its
choice takes is set against the faster one.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from common import write
from native_timing import AS_IT_IS, AVX2, ENGINE_OPTIONS, NO_VNNI

from primesvt_deploy.edge.runtime.native_library import OWN_SOURCES

TIMESTEPS, RUNS = 4, 100
OPTIMIZE = "-O3"
DENSITIES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
KINDS = {"independent": (), "static": ("same",)}
"""Spikes are drawn for each timestep, or once for all: rows are shared by timesteps."""
LAYERS = {
    "1x1, 192 to 768, 8x8": (192, 8, 1, 768, 1),
    "1x1, 192 to 768, 8x8, counts to 4": (192, 8, 1, 768, 4),
    "1x1, 768 to 192, 8x8": (768, 8, 1, 192, 1),
    "3x3, 96 to 192, 16x16": (96, 16, 3, 192, 1),
    "3x3, 24 to 48, 32x32": (24, 32, 3, 48, 1),
    "1x1, 512 to 512, 14x14, counts to 8": (512, 14, 1, 512, 8),
    "1x1, 512 to 2048, 14x14": (512, 14, 1, 2048, 1),
    "1x1, 512 to 2048, 14x14, counts to 16": (512, 14, 1, 2048, 16),
    "1x1, 2048 to 512, 14x14": (2048, 14, 1, 512, 1),
}
"""Channels, size, kernel, outputs and the most spikes that an input counts: layers of the reference
model, then of Spikformer-8-512. The density is that of each spike that is counted."""


def main() -> None:
    """Measure and write `results/native_density.json`."""
    layers: dict[str, Any] = {name: {} for name in LAYERS}
    with tempfile.TemporaryDirectory() as directory:
        for instructions in (AS_IT_IS, NO_VNNI, AVX2):
            engine = compiled(Path(directory), instructions)
            for name, shape in LAYERS.items():
                layers[name][instructions] = measured(engine, shape)
    write(
        "native_density",
        {
            "timesteps": TIMESTEPS,
            "runs": RUNS,
            "threads": 1,
            "densities": DENSITIES,
            "layers": layers,
            "choice_over_faster": {
                instructions: regret([layers[name][instructions] for name in LAYERS])
                for instructions in (AS_IT_IS, NO_VNNI, AVX2)
            },
        },
    )


def compiled(directory: Path, instructions: str) -> Path:
    """Compile the program that runs a layer in the engine."""
    sources = [str(path) for path in OWN_SOURCES.glob("svit*.c") if path.stem != "svit_mcu"]
    target = directory / instructions.replace(" ", "-")
    options = ["-std=gnu99", OPTIMIZE, "-ffp-contract=off", "-I", str(OWN_SOURCES)]
    own = str(Path(__file__).with_suffix(".c"))
    line = ["cc", *options, *ENGINE_OPTIONS[instructions], "-o", str(target), own, *sources]
    subprocess.run([*line, "-lm", "-pthread"], check=True)
    return target


def measured(engine: Path, shape: tuple[int, int, int, int, int]) -> dict[str, Any]:
    """Median times of a layer by kind of spikes and density, of either way and of the choice."""
    found: dict[str, Any] = {}
    for kind, extra in KINDS.items():
        rows, products, chosen = [], [], []
        for density in DENSITIES:
            numbers = (*shape[:4], TIMESTEPS, density, RUNS, shape[4])
            line = [str(engine), *map(str, numbers), *extra]
            said = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
            found["kernels"], by_rows, *others = said.split()
            rows.append(round(float(by_rows), 4))
            if others:
                found["products"] = others[0]
                products.append(round(float(others[1]), 4))
                chosen.append(("rows", "products")[int(others[2])])
        found[kind] = {
            "rows_ms": rows,
            "products_ms": products,
            "chosen": chosen,
            "products_faster_from": crossover(rows, products),
        }
    return found


def crossover(rows: list[float], products: list[float]) -> float | None:
    """Density from which products are faster, on a straight line between measured ones.

    0: they are at any; None: they never are.
    """
    ahead = [a - b for a, b in zip(rows, products, strict=False)]
    if ahead and min(ahead) >= 0.0:
        return 0.0
    for i in range(1, len(ahead)):
        if ahead[i] >= 0.0 > ahead[i - 1]:
            part = -ahead[i - 1] / (ahead[i] - ahead[i - 1])
            low, high = DENSITIES[i - 1], DENSITIES[i]
            return round(low + part * (high - low), 3)
    return None


def regret(layers: list[dict[str, Any]]) -> dict[str, float]:
    """What the engine chooses, as a multiple of the faster way's time: geometric mean and most."""
    over = []
    for layer in layers:
        for kind in KINDS:
            row = layer[kind]
            for way, *times in zip(row["chosen"], row["rows_ms"], row["products_ms"], strict=False):
                over.append(times[way == "products"] / min(times))
    if not over:
        return {}
    return {"mean": round(statistics.geometric_mean(over), 3), "most": round(max(over), 3)}


if __name__ == "__main__":
    main()
