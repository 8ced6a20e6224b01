"""A family uses the options of a checkpoint that it lists, and no others."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest
from families.test_artifacts import OPTIONS
from families.vectors import family_of, vector

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import FAMILIES, Family, family_named
from primesvt_deploy.families.options import MissingOption, ModelOptions, with_options

NAMES = {field.name for field in fields(ModelOptions)}
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


class Watched(ModelOptions):
    """Options that record which of them are read."""

    def __getattribute__(self, name: str) -> Any:
        if name in NAMES:
            vars(self).setdefault("_read", set()).add(name)
        return super().__getattribute__(name)


def read_options(family: Family, name: str, options: ModelOptions) -> set[str]:
    """Options that the conversion of a test vector reads."""
    watched = Watched(**vars(options))
    family.convert(vector(name)["state_dict"], watched)
    read: set[str] = vars(watched)["_read"]
    return read


@every_family
def test_conversion_reads_the_options_that_the_family_lists(family: Family) -> None:
    names = [name for name in OPTIONS if family_of(name) is family]
    assert set().union(*(read_options(family, n, OPTIONS[n]) for n in names)) == family.options


@pytest.mark.parametrize(
    ("name", "changes", "unused"),
    [
        ("spikformer_cifar", {"pooling": "0011", "patch_size": 4}, "patch_size"),
        ("qkformer_imagenet", {"stage_heads": (2, 2, 2), "num_heads": 2}, "num_heads"),
    ],
)
def test_an_option_is_not_used_where_another_supersedes_it(
    name: str, changes: dict[str, Any], unused: str
) -> None:
    family = family_named(name.partition("_")[0])
    assert unused not in read_options(family, name, replace(OPTIONS[name], **changes))
    flag = unused.removeprefix("num_").replace("_", "-")
    with pytest.raises(ModelError, match=f"^--{flag} is given by the weights, or means nothing"):
        family.check_options(changes)


@every_family
def test_options_that_the_family_does_not_list_are_refused_by_their_flag(family: Family) -> None:
    family.check_options([name for name in family.options if name not in family.superseded])
    for name in NAMES - family.options:
        flag = name.removeprefix("num_").replace("_", "-")
        with pytest.raises(ModelError, match=f"^--{flag} .* {family.name}: drop it$"):
            family.check_options([name])


def test_all_options_that_are_missing_are_named_at_once() -> None:
    state = vector("statten_imagenet")["state_dict"]
    convert = partial(family_named("statten").convert, state)
    with pytest.raises(MissingOption) as caught:
        with_options(convert, ModelOptions(timesteps=4))
    assert caught.value.names == ("image_size", "pooling", "attention_mode", "chunk_size")
    said = str(caught.value)
    assert said.startswith("the image size, which stem stages pool, the attention mode and the ")
    assert "pass --image-size, --pooling, such as 1111, --attention-mode" in said
    assert said.endswith("and --chunk-size") and "\n" not in said
    with pytest.raises(ModelError, match=r"^patch size 5: this stem has 4 or 16"):
        state = vector("spikformer_cifar")["state_dict"]
        given = ModelOptions(timesteps=4, image_size=32, num_heads=2, patch_size=5)
        with_options(partial(family_named("spikformer").convert, state), given)
