"""Make a model directory of a training run.

    python tools/ship_reference.py tools/recipes/NAME.toml RUN            # to models/NAME/
    python tools/ship_reference.py tools/recipes/NAME.toml RUN --half     # weights in float16

Writes `weights.safetensors` (the averaged weights by the end of the last whole epoch; with --half
layers' weights in float16, norms and biases in float32; loading converts all to float32),
`model.toml`, and `training/`: recipe, log and curve. An existing README stays.
`benchmarks/models.py` then measures what was shipped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from reference.directory import LOG, WEIGHTS, RunDirectory, identity, read_log
from reference.recipe import Recipe
from safetensors import SafetensorError
from safetensors.torch import save_file

from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.errors import DeployError, ModelError, OutputError
from primesvt_deploy.model.description import describe
from primesvt_deploy.model.svit import SViT

MODELS = Path(__file__).resolve().parent.parent / "models"
_README = """# {name}

{title}.

<!-- card -->
<!-- end card -->
"""
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_TRAINING = ("recipe.toml", "log.jsonl", "curve.png")
_FILES = (*(f"training/{name}" for name in _TRAINING), "weights.safetensors", "model.toml")


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
        recipe = Recipe.read(options.recipe)
        path = ship(options.recipe, options.run, options.models, half=options.half)
        ended = sum("search" in line for line in read_log(path / "training" / "log.jsonl"))
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{path}: weights by epoch {ended} of {recipe.training.epochs}")
    if options.models == MODELS and "data" in recipe.model:
        print("now run python benchmarks/models.py && python benchmarks/tables.py")
    return 0


def ship(recipe: Path, run: Path, models: Path, *, half: bool) -> Path:
    """Write the model of a run to a directory in `models`, each file whole or not at all.

    Args:
        recipe: path of the recipe.
        run: directory of the run.
        models: parent of the model's directory.
        half: store layers' weights in float16.

    Returns:
        The model's directory.

    Raises:
        ModelError, SettingsError: the run has no weights yet, or is of another recipe.
        OutputError: it cannot be read or written.
    """
    read = Recipe.read(recipe)
    model = read.build_model(initial=False)
    written = RunDirectory(run).identity()
    if {**written, **identity(model, read.training)} != written:
        raise ModelError(f"{run} is no run of {recipe}: pass the recipe that it was trained by")
    _take_weights(model, run / WEIGHTS)
    try:
        log = read_log(run / LOG)
    except OSError as error:
        raise OutputError(f"cannot read {run / LOG}: {error.strerror}") from error
    path = models / model.name
    try:
        models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{model.name}-", dir=models) as directory:
            staged = Path(directory) / "model"  # hidden from the list of models
            (staged / "training").mkdir(parents=True)
            _write(model, staged, half=half)
            draw(log, staged / "training" / "curve.png")
            shutil.copyfile(run / LOG, staged / "training" / "log.jsonl")
            shutil.copyfile(recipe, staged / "training" / "recipe.toml")
            _place(staged, path)
        readme = path / "README.md"
        if not readme.exists():
            write_whole(readme, _README.format(name=model.name, title=model.family.title))
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OutputError(f"cannot write at {path}: {reason}") from error
    return path


def _take_weights(model: SViT, path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"{path.parent} has no {WEIGHTS}: it comes by the end of the first epoch")
    try:
        state = dict(torch.load(path, weights_only=True, map_location="cpu"))
    except Exception as error:  # a damaged archive raises nearly everything
        raise ModelError(f"{path} is damaged: run the training again for another epoch") from error
    try:
        model.module.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{path} holds another network than the recipe describes") from error
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise ModelError(f"{path} holds weights that are not finite: the training diverged")


def _write(model: SViT, directory: Path, *, half: bool) -> None:
    state = {
        name: tensor.half() if half and tensor.ndim > 1 else tensor
        for name, tensor in model.module.state_dict().items()
    }
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    weights = directory / "weights.safetensors"
    save_file(state, weights, metadata={"family": model.family.name})
    weights.chmod(0o644)  # as any other file: safetensors lets only the owner read
    described = {"weights": weights.name, **describe(model)}
    (directory / "model.toml").write_text(toml(described), encoding="utf-8")


def _place(staged: Path, path: Path) -> None:
    """Move complete files to the model's directory, in place of files alone."""
    for name in _FILES:
        if (path / name).is_dir():
            raise IsADirectoryError(0, f"{name} is a directory there")
    (path / "training").mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        os.replace(staged / name, path / name)


def toml(values: dict[str, Any]) -> str:
    """TOML of a table of plain values and of tables of plain values."""
    flat = {k: v for k, v in values.items() if not isinstance(v, dict)}
    lines = [f"{key} = {_value(value)}" for key, value in flat.items()]
    for name, table in ((k, v) for k, v in values.items() if isinstance(v, dict)):
        lines += ["", f"[{name}]", *(f"{key} = {_value(v)}" for key, v in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """A value in JSON that is TOML as well."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def draw(log: list[dict[str, Any]], path: Path) -> None:
    """Plot loss and top-1 on the search split over steps, with a colour for each T."""
    steps = [line for line in log if "loss" in line]
    epochs = [line for line in log if "search" in line]
    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot([e["step"] for e in steps], [e["loss"] for e in steps], color="#bbbbbb", lw=0.8)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss (grey)")
    right = axes.twinx()
    trained_at = dict.fromkeys(e["timesteps"] for e in epochs)
    for timesteps, colour in zip(trained_at, cycle(_COLOURS), strict=False):
        chosen = [e for e in epochs if e["timesteps"] == timesteps]
        tops = [e["search"]["top1_percent"] for e in chosen]
        right.plot([e["step"] for e in chosen], tops, "o-", color=colour, markersize=3,
                   label=f"T = {timesteps}")  # fmt: skip
    if epochs:
        right.set_ylabel(f"search top-1, % (n = {epochs[0]['search']['n']})")
        figure.legend(loc="outside upper center", ncols=len(trained_at), frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
