"""Arguments of training scripts: what is kept of them can be compared and printed at once."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest
import torch

from primesvt_deploy.model.training_arguments import training_arguments


def argument(value: Any) -> Any:
    """A stored argument as it is kept."""
    return training_arguments({"args": {"it": value}}, ())["it"]


@pytest.mark.parametrize(
    "value",
    [4, -1.5, True, None, "STAtten", [3, 224, 224], (1,), {"name": "lif"}, Namespace(T=4), 2**40],
)
def test_small_values_are_kept(value: Any) -> None:
    assert argument(value) is value


def doubled(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value, value]
    return value


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def itself() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["it"] = [Namespace(inner=value)]
    return value


@pytest.mark.parametrize(
    "value",
    [
        doubled(60), deep(10_000), itself(), list(range(10_000)), 2**70, ["x" * 10_000],
        torch.ones(3), torch.ones(1).to_sparse(), torch.empty(1, device="meta"),
    ],
    ids=["doubled", "deep", "itself", "long", "large", "text", "array", "sparse", "meta"],
)  # fmt: skip
def test_others_are_not(value: Any) -> None:
    assert argument(value) is None


def test_long_texts_are_cut() -> None:
    assert argument("x" * 10_000) == "x" * 1000


def test_a_number_as_a_tensor_is_kept() -> None:
    assert argument(torch.tensor(4)) == 4
