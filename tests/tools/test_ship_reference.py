"""A run becomes a model directory that loads to the network it had trained."""

from __future__ import annotations

import io
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference.directory import IDENTITY, LOG, WEIGHTS, identity
from reference.recipe import Recipe
from ship_reference import draw, main, ship, toml
from training_runs import recipe_text

from primesvt_deploy import load
from primesvt_deploy.errors import ModelError, OutputError
from primesvt_deploy.model.svit import SViT


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Path, SViT]:
    """A recipe, what a run of it leaves, and the model that it trained."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_text())
    read = Recipe.read(recipe)
    model = read.build_model()
    with torch.no_grad():
        model.module.head.bias += 0.3  # type: ignore[union-attr, operator]
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / IDENTITY).write_text(json.dumps(identity(model, read.training, data="ab")))
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
    with pytest.raises(OutputError, match="is no run"):
        ship(recipe, tmp_path / "nothing", tmp_path / "models", half=False)
    other = tmp_path / "other.toml"
    for before, after in (("embed_dim = 16", "embed_dim = 32"), ("2e-3", "1e-3")):
        other.write_text(recipe_text().replace(before, after))
        with pytest.raises(ModelError, match="is no run of"):
            ship(other, directory, tmp_path / "models", half=False)
    weights = (directory / WEIGHTS).read_bytes()
    for content in (b"", weights[: len(weights) // 2], b"text"):
        (directory / WEIGHTS).write_bytes(content)
        with pytest.raises(ModelError, match="is damaged"):
            ship(recipe, directory, tmp_path / "models", half=False)
    state = torch.load(io.BytesIO(weights), weights_only=True)
    torch.save(state | {"head.bias": state["head.bias"] * torch.nan}, directory / WEIGHTS)
    with pytest.raises(ModelError, match="not finite"):
        ship(recipe, directory, tmp_path / "models", half=False)
    (directory / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="by the end of the first epoch"):
        ship(recipe, directory, tmp_path / "models", half=False)
    (directory / WEIGHTS).write_bytes(weights)
    (directory / LOG).unlink()
    with pytest.raises(OutputError, match=r"cannot read .*log.jsonl"):
        ship(recipe, directory, tmp_path / "models", half=False)
    assert not (tmp_path / "models").exists()


def test_what_is_in_the_way_stays_and_nothing_is_half_shipped(
    run: tuple[Path, Path, SViT], tmp_path: Path
) -> None:
    recipe, directory, _ = run
    obstacle = tmp_path / "models" / "tiny" / "weights.safetensors"
    obstacle.mkdir(parents=True)
    with pytest.raises(OutputError, match=r"weights.safetensors is a directory"):
        ship(recipe, directory, tmp_path / "models", half=False)
    assert [p.name for p in (tmp_path / "models").rglob("*")] == ["tiny", "weights.safetensors"]


def test_labels_of_any_script_are_kept(tmp_path: Path) -> None:
    labels = ["ant \U0001f41c", 'a "b"\x7f', "пчела"]
    assert tomllib.loads(toml({"labels": labels}))["labels"] == labels


def test_a_curve_shows_every_number_of_timesteps(tmp_path: Path) -> None:
    search = {"top1_percent": 50.0, "n": 60}
    log = [{"step": t, "timesteps": t, "search": search} for t in range(1, 9)]
    drawn = []
    for count in (7, 8):
        draw(log[:count], tmp_path / f"{count}.png")
        with Image.open(tmp_path / f"{count}.png") as curve:
            drawn.append(np.asarray(curve.convert("RGB")))
    assert not np.array_equal(*drawn)


def test_the_command_tells_how_far_the_run_came(
    run: tuple[Path, Path, SViT],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe, directory, _ = run
    arguments = [str(recipe), str(directory), "--models", str(tmp_path / "models")]
    monkeypatch.setattr("sys.argv", ["ship_reference.py", *arguments])
    assert main() == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'models' / 'tiny'}: weights by epoch 2 of 6"
    ]
    monkeypatch.setattr("sys.argv", ["ship_reference.py", str(recipe), str(tmp_path)])
    assert main() == 2
    assert capsys.readouterr().err.count("\n") == 1
