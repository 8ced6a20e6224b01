"""A recipe is what it says, or one line says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from reference.recipe import Recipe
from training_runs import recipe_text

from primesvt_deploy.errors import ModelError, SettingsError
from primesvt_deploy.model.reference_models import model_names

RECIPES = Path(__file__).parents[2] / "tools" / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_that_come_with_it_can_be_built(path: Path) -> None:
    recipe = Recipe.read(path)
    model = recipe.build_model(initial=False)
    assert model.name == path.stem
    known = (*model_names(), *(other.stem for other in RECIPES.glob("*.toml")))
    assert recipe.model.get("initial", path.stem) in known
    assert model.timesteps == recipe.training.phases[-1].timesteps


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (recipe_text(training="phases = [[2, 1]]\nmomentum = 0.9"), "unknown 'momentum'"),
        (recipe_text(training="phases = []"), "phases are pairs"),
        (recipe_text(training="phases = [[1, 2]]"), "the last phase must have the model's T = 2"),
        (recipe_text(training="phases = [[4, 1], [2, 1]]"), "timesteps are 4"),
        (recipe_text(training="phases = [[2, 1]]\nerasing = 2"), "erasing is 2"),
        (recipe_text(training="phases = [[2, 1]]\naugmentation = 'all'"), "augmentation is 'all'"),
        (recipe_text(training="phases = [[2, 1]]\nbatch_size = 'all'"), "recipe.toml"),
        (recipe_text(arguments="depth = 1"), "incomplete configuration"),
        (recipe_text(model='initial = "nowhere"'), "no model 'nowhere'"),
        (recipe_text(model='initial = "spikformer-2-192-cifar10"'), "no such network"),
        (recipe_text(model='intial = "x"'), "unknown 'intial' in [model]"),
        (recipe_text(model="initial = 3"), "initial in [model] is 3: expected a text"),
        (recipe_text(model="data = 3"), "data in [model] is 3: expected a text"),
        (recipe_text().replace('"cat"]', "3]"), "not all texts"),
        (recipe_text().replace('"tiny"', '"../escaped"'), "expected a directory's name"),
        (recipe_text().replace('"tiny"', '"data"'), "expected a directory's name"),
        (recipe_text().replace('"tiny"', '""'), "expected a directory's name"),
        (recipe_text().replace('name = "tiny"', ""), "[model] has no 'name'"),
        (recipe_text() + "\n[trainings]\nseed = 1", "unknown 'trainings'"),
        (recipe_text(training="phases = [[2, 1.5]]"), "phases are pairs"),
        (recipe_text(training="phases = 3"), "phases are pairs"),
        (recipe_text(training="phases = [[2, 1]]\nbatch_size = 8.5"), "expected a whole number"),
        (recipe_text(training="phases = [[2, 1]]\nseed = 'a'"), "seed is 'a'"),
        (recipe_text(training="phases = [[2, 1]]\nseed = -1"), "seed is -1"),
        (recipe_text(training=f"phases = [[2, 1]]\nseed = {10**23}"), "seed is 1000"),
        (recipe_text(training="phases = [[2, 1]]\nlearning_rate = inf"), "final_learning_rate"),
        (recipe_text(training="phases = [[2, 1]]\nweight_decay = nan"), "weight_decay is nan"),
        (recipe_text(training="phases = [[2, 1]]\nmixup = true"), "mixup is True"),
        ("model = 3\n[training]", "it has no table [model]"),
        ("[model]", "it has no table [training]"),
        ("what", "is no recipe"),
    ],
)
def test_a_wrong_recipe_is_one_line(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises((SettingsError, ModelError)) as caught:
        Recipe.read(tmp_path / "recipe.toml").build_model()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(SettingsError, match="no recipe file at"):
            Recipe.read(path)
