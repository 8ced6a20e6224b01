"""A checkpoint that no family recognises is compared with every form of every family."""

from __future__ import annotations

from functools import partial

import pytest
from families.vectors import FIXTURES, family_of, vector
from list_upstream_layers import asked, listed

from primesvt_deploy.families import FAMILIES
from primesvt_deploy.families.asked_options import ASKED, asked_options
from primesvt_deploy.families.nearest import (
    LISTED,
    difference_from,
    is_like_none,
    layers_of,
    nearest,
)
from primesvt_deploy.families.options import ModelOptions, missing_options

VECTORS = sorted(path.stem for path in FIXTURES.glob("*.pt"))


def test_the_list_is_that_of_the_test_vectors() -> None:
    assert LISTED.read_text() == listed(), "run tools/list_upstream_layers.py"
    assert ASKED.read_text() == asked(), "run tools/list_upstream_layers.py"


@pytest.mark.parametrize("name", VECTORS)
def test_no_option_is_asked_for_that_the_conversion_does_not_miss(name: str) -> None:
    state, family = vector(name)["state_dict"], family_of(name)
    missing = missing_options(partial(family.convert, state), ModelOptions())
    asked_for = asked_options(state, (), family.name)
    assert set(asked_for) <= set(missing)
    assert {"timesteps", "image_size"} & set(missing) <= set(asked_for)
    assert not {"timesteps"} & set(asked_options(state, ("timesteps",), family.name))


def test_an_option_that_another_replaces_is_not_asked_for() -> None:
    keys = list(vector("sdt_v1_0011")["state_dict"])
    assert asked_options(keys, ("pooling",)) == ("timesteps", "image_size")
    assert asked_options(keys, ("patch_size",)) == ("timesteps", "image_size")
    assert asked_options(["a.weight"], ()) == ()


def test_every_family_is_listed() -> None:
    assert {family_of(name) for name in VECTORS} == set(FAMILIES)


@pytest.mark.parametrize("name", VECTORS)
def test_a_checkpoint_with_changed_layers_is_nearest_to_its_own_family(name: str) -> None:
    keys = list(vector(name)["state_dict"])
    layers = layers_of(keys)
    gone = layers[len(layers) // 2]
    changed = [key.replace(f"{gone}.", f"{gone}_mine.") for key in keys]
    changed = [key for key in changed if layers_of([key]) != [gone]] + ["extra.3.norm.weight"]
    told = nearest(changed)
    assert family_of(name).name in told.partition(":")[0].split()
    assert f": 1 of its {len(layers)} layers are missing" in told
    assert f"missing ({gone})" in told and "extra.N.norm" in told


def test_numbers_of_blocks_are_one() -> None:
    keys = ["a.0.w.weight", "a.0.w.bias", "a.11.w.weight", "conv1.weight", "gain", "b.3.1.weight"]
    assert layers_of(keys) == ["a.N.w", "conv1", "gain", "b.N.N"]


def test_few_layers_are_named_and_the_rest_counted() -> None:
    told = difference_from("sdt-v3", ["head.weight"])
    assert told.startswith("60 of its 61 layers are missing (downsample1_1.encode_conv, ")
    assert told.endswith(", ...)")


def test_what_is_like_none_is_not_compared() -> None:
    assert nearest(["bias", "weight"]) == ""
    assert nearest(["layer1.0.conv1.weight", "fc.weight"]) == ""


@pytest.mark.parametrize("name", VECTORS)
def test_a_family_is_never_taken_for_none(name: str) -> None:
    keys = list(vector(name)["state_dict"])
    for prefix in ("", "student.net."):
        assert not is_like_none([prefix + key for key in keys])
    assert not is_like_none([*keys, *(f"teacher.features.{i}.weight" for i in range(999))])


def test_another_network_is_like_none() -> None:
    assert is_like_none(["features.0.weight", "features.3.weight", "classifier.0.weight"])
    assert is_like_none([])
