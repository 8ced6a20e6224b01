"""Containers of training scripts: the weights are found by what they are, or named to choose."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.container import find_weights


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"a.weight": torch.randn(3, 2, generator=generator), "a.bias": torch.zeros(3)}


def optimizer() -> dict[str, Any]:
    """State of a real optimizer: numbers of parameters, and moments of each."""
    layer = nn.Linear(2, 3)
    adam = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    adam.step()
    return adam.state_dict()


OTHERS: dict[str, Any] = {
    "epoch": 3,
    "max_test_acc": 0.9,
    "loss": torch.tensor(0.3),
    "confusion": torch.rand(7),
    "args": argparse.Namespace(T=4),
    "optimizer": optimizer(),
    "lr_scheduler": {"last_epoch": 3, "_last_lr": [0.1]},
    "scaler": {"scale": 65536.0},
    "rng": torch.get_rng_state(),
    "rng_states": {"torch": torch.get_rng_state(), "numpy": ("MT19937", [1, 2], 3)},
    "criterion": {"weight": torch.ones(10)},
    "history": [0.1, 0.2],
    "arch": None,
}
"""Entries that stand beside weights."""
NAMES = (
    "state_dict",
    "model",
    "module",
    "net",
    "model_state",
    "model_state_dict",
    "ema",
    "weights",
)


def same(found: Any, expected: dict[str, torch.Tensor]) -> bool:
    return list(found.state) == list(expected) and all(
        torch.equal(found.state[key], tensor) for key, tensor in expected.items()
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("outer", [(), ("state",), ("checkpoint",), ("model",)])
def test_the_one_state_dict_is_found_under_any_name(name: str, outer: tuple[str, ...]) -> None:
    content: Any = {**OTHERS, name: OrderedDict(weights())}
    for key in outer:
        content = {**OTHERS, key: content}
    found = find_weights(content)
    assert same(found, weights())
    assert found.name == ".".join((*outer, name))
    assert find_weights(content, key=found.name) == found


def test_usual_names_may_lie_deeper() -> None:
    content = {"state_dict": {"model": {"module": {"net": {"ema": weights()}}}}}
    assert same(find_weights(content), weights())
    with pytest.raises(ModelError, match="'a' is a dict, expected a tensor"):
        find_weights({"a": {"b": {"c": weights()}}})


@pytest.mark.parametrize("name", [key for key in OTHERS if key != "optimizer"])
def test_entries_beside_the_tensors_of_a_bare_state_dict(name: str) -> None:
    value = OTHERS[name]
    found = find_weights({**weights(), name: value})
    assert found.path == ()
    assert same(found, {**weights(), **({name: value} if torch.is_tensor(value) else {})})
    holds_some = isinstance(value, dict) and any(map(torch.is_tensor, value.values()))
    assert found.ignored == (() if torch.is_tensor(value) or holds_some else (name,))


def test_a_bare_state_dict_beside_its_average() -> None:
    content = {**weights(), "ema": weights(1)}
    assert same(find_weights(content), weights())
    assert same(find_weights(content, ema=True), weights(1))


def test_a_bare_state_dict_that_holds_tensors_in_other_ways_is_refused() -> None:
    for value in ([torch.ones(2)], {"optimizer": optimizer()}):
        with pytest.raises(ModelError, match=r"'kept' is a (list|dict), expected a tensor"):
            find_weights({**weights(), "kept": value})


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema", "ema_state_dict", "ema", "swa"])
@pytest.mark.parametrize("name", ["state_dict", "model", "net"])
def test_averaged_twins_are_read_on_request(name: str, average: str) -> None:
    content = {average: weights(1), name: weights(0), **OTHERS}
    assert same(find_weights(content), weights(0))
    assert same(find_weights(content, ema=True), weights(1))


def test_a_usual_name_comes_before_others() -> None:
    assert same(find_weights({"teacher": weights(1), "model": weights(0)}), weights(0))


@pytest.mark.parametrize(
    ("names", "ema"),
    [
        (("student", "teacher"), False),
        (("state_dict", "model"), False),
        (("net", "head.inner"), False),
        (("ema", "model_ema"), True),
    ],
)
def test_of_several_models_one_is_chosen_by_key(names: tuple[str, ...], ema: bool) -> None:
    content: dict[str, Any] = {}
    for seed, name in enumerate(names):
        *outer, last = name.split(".")
        inner = content
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = weights(seed)
    with pytest.raises(ModelError, match=r"several models' weights .*: choose one with --key") as e:
        find_weights(content, ema=ema)
    for seed, name in enumerate(names):
        assert name in str(e.value)
        assert same(find_weights(content, key=name), weights(seed))


def test_a_key_may_have_dots_itself_or_name_a_container() -> None:
    content = {"v1.0": {"net": weights(0)}, "v1.1": {"net": weights(1)}}
    assert same(find_weights(content, key="v1.1"), weights(1))
    assert same(find_weights(content, key="v1.0.net"), weights(0))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"net": weights(), "epoch": 3}, "no weights at 'wrong' .*expected one of net"),
        (weights(), "no weights at 'wrong' .*drop --key"),
        ({"epoch": 3}, "no weights at 'wrong' .*it holds none"),
    ],
)
def test_a_key_that_is_not_there(content: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        find_weights(content, key="wrong")
    with pytest.raises(ModelError, match="drop --ema"):
        find_weights(content, key="net", ema=True)


def test_one_object_under_two_names_is_one_model() -> None:
    state = weights()
    assert same(find_weights({"state_dict": state, "model": state}), state)


def test_containers_that_hold_themselves_end() -> None:
    content: dict[str, Any] = {"list": []}
    content["model"] = content["list"].append(content) or content
    with pytest.raises(ModelError, match=r"is a dict|is a list"):
        find_weights(content)
    content["net"] = weights()
    assert same(find_weights(content), weights())
