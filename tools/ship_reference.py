"""Make a model directory of a training run.

    python tools/ship_reference.py tools/recipes/NAME.toml RUN            # to models/NAME/
    python tools/ship_reference.py tools/recipes/NAME.toml RUN --half     # weights in float16

Writes `weights.safetensors` (the averaged weights; with --half layers' weights in float16, norms
and biases in float32: loading makes float32 of all), `model.toml`, and `training/`: recipe, log
and curve. A README that stands there stays. `benchmarks/models.py` then measures what was shipped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from reference.recipe import Recipe
from reference.run import LOG, WEIGHTS
from safetensors.torch import save_file

from primesvt_deploy.errors import DeployError, ModelError, OutputError
from primesvt_deploy.loading import describe
from primesvt_deploy.model import SViT

MODELS = Path(__file__).resolve().parent.parent / "models"
_README = """# {name}

{title}.

<!-- card -->
<!-- end card -->
"""


def main() -> int:
    """Write the directory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("run", type=Path, help="what train_reference.py had as --output")
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--half", action="store_true")
    options = parser.parse_args()
    try:
        path = ship(options.recipe, options.run, options.models, half=options.half)
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{path}: now run python benchmarks/models.py && python benchmarks/tables.py")
    return 0


def ship(recipe: Path, run: Path, models: Path, *, half: bool) -> Path:
    """Write the model of a run to a directory beneath `models`; each file whole or not at all.

    Raises:
        ModelError, SettingsError: the run has no weights yet, or those of another network.
        OutputError: it cannot be written.
    """
    model = Recipe.read(recipe).fresh(initial=False)
    weights = run / WEIGHTS
    if not weights.is_file():
        raise ModelError(f"{run} has no {WEIGHTS}: it comes by the end of the first epoch")
    try:
        model.module.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    except RuntimeError as error:
        raise ModelError(f"{weights} holds another network than {recipe} describes") from error
    path = models / model.name
    try:
        (path / "training").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path) as beside:
            _write(model, Path(beside), half=half)
            log = [json.loads(line) for line in (run / LOG).read_text("utf-8").splitlines()]
            draw(log, Path(beside) / "curve.png")
            shutil.copyfile(run / LOG, Path(beside) / "log.jsonl")
            shutil.copyfile(recipe, Path(beside) / "recipe.toml")
            for name in ("recipe.toml", "log.jsonl", "curve.png"):
                os.replace(Path(beside) / name, path / "training" / name)
            for name in ("weights.safetensors", "model.toml"):
                os.replace(Path(beside) / name, path / name)
        readme = path / "README.md"
        if not readme.is_file():
            readme.write_text(_README.format(name=model.name, title=model.family.title), "utf-8")
    except OSError as error:
        raise OutputError(f"cannot write at {path}: {error.strerror}") from error
    return path


def _write(model: SViT, directory: Path, *, half: bool) -> None:
    state = {
        name: tensor.half() if half and tensor.ndim > 1 else tensor
        for name, tensor in model.module.state_dict().items()
    }
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, directory / "weights.safetensors", metadata={"family": model.family.name})
    described = {"weights": "weights.safetensors", **describe(model)}
    (directory / "model.toml").write_text(toml(described), encoding="utf-8")


def toml(values: dict[str, Any]) -> str:
    """A table of plain values, and of tables of such, as TOML."""
    flat = {k: v for k, v in values.items() if not isinstance(v, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in flat.items()]
    for name, table in ((k, v) for k, v in values.items() if isinstance(v, dict)):
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(v)}" for key, v in table.items())]
    return "\n".join(lines) + "\n"


def draw(log: list[dict[str, Any]], path: Path) -> None:
    """Loss and top-1 on the search split over steps; T where it changes."""
    steps = [line for line in log if "loss" in line]
    epochs = [line for line in log if "search" in line]
    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot([e["step"] for e in steps], [e["loss"] for e in steps], color="#bbbbbb", lw=0.8)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss (grey)")
    right = axes.twinx()
    for timesteps, colour in zip(
        dict.fromkeys(e["timesteps"] for e in epochs), ("#0072b2", "#d55e00", "#009e73"),
        strict=False,
    ):  # fmt: skip
        chosen = [e for e in epochs if e["timesteps"] == timesteps]
        tops = [e["search"]["top1_percent"] for e in chosen]
        right.plot([e["step"] for e in chosen], tops, "o-", color=colour, markersize=3,
                   label=f"T = {timesteps}")  # fmt: skip
    if epochs:
        right.set_ylabel(f"search top-1, % (n = {epochs[0]['search']['n']})")
        right.legend(loc="lower right", frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
