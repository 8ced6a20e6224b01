"""A run becomes a model directory that loads to the network it had trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference.recipe import Recipe
from reference.run import LOG, WEIGHTS
from ship_reference import ship
from tools_recipes import recipe_text

from primesvt_deploy import load
from primesvt_deploy.errors import ModelError
from primesvt_deploy.model import SViT


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Path, SViT]:
    """A recipe, what a run of it leaves, and the model that it trained."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_text())
    model = Recipe.read(recipe).fresh()
    with torch.no_grad():
        model.module.head.bias += 0.3  # type: ignore[union-attr, operator]
    directory = tmp_path / "run"
    directory.mkdir()
    torch.save(model.module.state_dict(), directory / WEIGHTS)
    search = {"top1_percent": 50.0, "n": 60}
    log = [
        {"step": 0, "started": "2026"},
        {"step": 1, "loss": 1.1, "timesteps": 1},
        {"step": 2, "epoch": 1, "timesteps": 1, "search": search},
        {"step": 3, "epoch": 2, "timesteps": 2, "search": search},
    ]
    (directory / LOG).write_text("".join(json.dumps(line) + "\n" for line in log))
    return recipe, directory, model


def test_what_is_shipped_is_what_was_trained(run: tuple[Path, Path, SViT], tmp_path: Path) -> None:
    recipe, directory, trained = run
    path = ship(recipe, directory, tmp_path / "models", half=False)
    assert sorted(p.name for p in path.iterdir()) == [
        "README.md", "model.toml", "training", "weights.safetensors",
    ]  # fmt: skip
    shipped = load(path)
    assert shipped.digest == trained.digest
    assert shipped.preprocessing == trained.preprocessing
    assert shipped.labels == trained.labels
    assert (path / "training" / "recipe.toml").read_text() == recipe.read_text()
    with Image.open(path / "training" / "curve.png") as curve:
        assert len(np.unique(np.asarray(curve.convert("L")))) > 10


def test_in_half_it_takes_half(run: tuple[Path, Path, SViT], tmp_path: Path) -> None:
    recipe, directory, trained = run
    whole = ship(recipe, directory, tmp_path / "whole", half=False) / "weights.safetensors"
    path = ship(recipe, directory, tmp_path / "models", half=True)
    assert (path / "weights.safetensors").stat().st_size < 0.7 * whole.stat().st_size
    found, expected = load(path).module.state_dict(), trained.module.state_dict()
    assert {v.dtype for v in found.values()} == {v.dtype for v in expected.values()}
    for name, value in expected.items():
        same = value.half().float() if value.ndim > 1 else value
        assert torch.equal(found[name], same), name


def test_a_readme_that_stands_there_stays(run: tuple[Path, Path, SViT], tmp_path: Path) -> None:
    recipe, directory, _ = run
    readme = tmp_path / "models" / "tiny" / "README.md"
    readme.parent.mkdir(parents=True)
    readme.write_text("mine")
    ship(recipe, directory, tmp_path / "models", half=False)
    ship(recipe, directory, tmp_path / "models", half=True)
    assert readme.read_text() == "mine"


def test_what_cannot_be_shipped(run: tuple[Path, Path, SViT], tmp_path: Path) -> None:
    recipe, directory, _ = run
    with pytest.raises(ModelError, match="by the end of the first epoch"):
        ship(recipe, tmp_path / "nothing", tmp_path / "models", half=False)
    other = tmp_path / "other.toml"
    other.write_text(recipe_text().replace("embed_dim = 16", "embed_dim = 32"))
    with pytest.raises(ModelError, match="another network"):
        ship(other, directory, tmp_path / "models", half=False)
    assert not (tmp_path / "models").exists()
