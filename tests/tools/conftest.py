"""A tiny training, and one run of it that was never cut off."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import made, paint, recipe_text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and an ImageFolder."""
    root = tmp_path_factory.mktemp("training")
    (root / "recipe.toml").write_text(recipe_text())
    paint(root / "images")
    return root


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """A run that was never cut off."""
    assert made(place, "whole", save_seconds=1e9).go()
    return place / "whole"
