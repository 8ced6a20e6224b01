"""Runs of a tiny recipe on images whose classes differ in colour."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from reference.directory import LOG
from reference.execution import Execution
from reference.recipe import Phase, Recipe, Training
from reference.run import Run

from primesvt_deploy.data import DataSet, ImageList, open_data
from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.svit import SViT

__all__ = ["ARGUMENTS", "STEPS", "TRAINING", "logged", "made", "paint", "recipe_text", "train_in"]

STEPS = 36
"""Of a whole run."""

ARGUMENTS = """
timesteps = 2
image_size = 16
in_channels = 3
num_classes = 3
num_heads = 2
embed_dim = 16
depth = 1
pooling = "0011"
"""
TRAINING = """
phases = [[1, 3], [2, 3]]
batch_size = 8
learning_rate = 2e-3
mixup = 0.5
cutmix = 1.0
mixing = 0.5
erasing = 0.3
plain_epochs = 1
averaging = 0.9
"""


def recipe_text(model: str = "", arguments: str = ARGUMENTS, training: str = TRAINING) -> str:
    return (
        f'[model]\nname = "tiny"\nfamily = "spikformer"\nlabels = ["ant", "bee", "cat"]\n{model}\n'
        f"[model.arguments]\n{arguments}\n[training]\n{training}\n"
    )


def paint(root: Path, seed: int = 0) -> None:
    """An ImageFolder of three classes: 18 images of each to train on, 40 to search and report."""
    generator = np.random.default_rng(seed)
    for part, count in (("train", 18), ("test", 40)):
        for k, name in enumerate(("ant", "bee", "cat")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 160, (16, 16, 3), dtype=np.uint8)
                pixels[..., k] += 90
                Image.fromarray(pixels).save(folder / f"{i}.png")


def made(place: Path, directory: str, images: str = "images", **execution: Any) -> Run:
    """A run of the recipe at `place`, not begun."""
    recipe = Recipe.read(place / "recipe.toml")
    torch.manual_seed(recipe.training.seed)
    model = recipe.build_model()
    values = {"log_steps": 1, "save_seconds": 0.0, **execution}
    cpu = Execution(device=torch.device("cpu"), **values)
    return Run(model, open_data(model, place / images), recipe.training, place / directory, cpu)


def train_in(place: Path, model: SViT, images: ImageList) -> list[float]:
    """Losses of a run on four images, a step at the least T it runs at and one at its own."""
    data = DataSet(
        name="noise", digest="", train=images.first(4), search=images, held_out=images.first(0)
    )
    phases = tuple(Phase(steps, 1) for steps in sorted({least_timesteps(model), model.timesteps}))
    training = Training(phases=phases, batch_size=4, warmup_epochs=0.0)
    run = Run(model, data, training, place, Execution(device=torch.device("cpu"), log_steps=1))
    assert run.go()
    return [line["loss"] for line in logged(place) if "loss" in line]


def least_timesteps(model: SViT) -> int:
    """The smallest T that a model runs at."""
    for timesteps in range(1, model.timesteps):
        with contextlib.suppress(ModelError):
            return model.at_timesteps(timesteps).timesteps
    return model.timesteps


def logged(run: Path) -> list[dict[str, Any]]:
    """The lines of its log."""
    return [json.loads(line) for line in (run / LOG).read_text().splitlines()]
