"""Settings are refused in one line where they make no sense, and mean what they say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primesvt_deploy.errors import SettingsError
from primesvt_deploy.settings import (
    DEFAULT_RATES,
    BuildSettings,
    ComputeSettings,
    FinetuneSettings,
    SearchSettings,
)

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"max_drop": -0.1},
            "max drop is -0.1 points: expected 0 to 100, or off; change",
        ),
        ({"max_drop": 100.1}, "max drop is 100.1 points"),
        ({"max_drop": NAN}, "max drop is nan points"),
        ({"rates": ()}, "rates are [].*at least one"),
        ({"rates": (0.5, 1.0)}, "rates are [0.5, 1.0]: expected shares between 0 and 1"),
        ({"rates": (0.0,)}, "rates are [0.0]"),
        ({"rates": (50.0,)}, "rates are [50.0]"),
        ({"rates": (NAN,)}, "rates are [nan]"),
        ({"channel_multiple": 0}, "channel multiple is 0: expected 1 or more"),
        ({"robustness_images": 49}, "robustness images is 49: expected 50 or more"),
        ({"seed": -1}, "seed is -1: expected 0 or more"),
        ({"search_images": 49}, "search images are 49: expected 50 or more"),
        ({"channel_multiple": 1025}, "channel multiple is 1025: expected 1 to 1024"),
        ({"seed": 2**63}, "seed has more than 64 bits"),
    ],
)
def test_search_settings_out_of_range(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        SearchSettings(**values)
    for part in said.split(".*"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "no target: pass --budget-mb MEGABYTES, --saving PERCENT, or both"),
        ({"budget_mb": 0.0}, "budget is 0.0 MB: expected a finite number, more than 0; change"),
        ({"budget_mb": -3.0}, "budget is -3.0 MB"),
        ({"budget_mb": NAN}, "budget is nan MB"),
        ({"budget_mb": INFINITY}, "budget is inf MB"),
        ({"saving": -1.0}, "saving is -1.0%"),
        ({"saving": 100.0}, "saving is 100.0%: expected 0 up to, not including, 100"),
        ({"saving": NAN}, "saving is nan%"),
        ({"saving": 20.0, "budget_mb": -1.0}, "budget is -1.0 MB"),
        ({"saving": 20.0, "batch": 0}, "batch is 0: expected 1 to 65536"),
        ({"saving": 20.0, "threads": -1}, "threads are -1: expected 0 (automatic) to 1024"),
        ({"saving": 20.0, "batch": 65537}, "batch is 65537: expected 1 to 65536"),
        ({"saving": 20.0, "threads": 10**12}, "expected 0 (automatic) to 1024"),
        ({"saving": 20.0, "held_out_images": 0}, "held-out images are 0: expected 1 or more"),
        ({"saving": 20.0, "verify_images": 0}, "verify images are 0: expected 1 or more"),
    ],
)
def test_build_settings_out_of_range(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        BuildSettings(**values)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"budget_mb": "x"}, "budget_mb is 'x' (str): expected a number or None"),
        ({"budget_mb": True}, "budget_mb is True (bool): expected a number or None"),
        ({"budget_mb": 10**400}, "budget_mb is a number of more than 60 digits"),
        ({"budget_mb": 10**5000}, "budget_mb is a number of more than 60 digits"),
        ({"saving": "50"}, "saving is '50' (str)"),
        ({"saving": 50, "batch": "a"}, "batch is 'a' (str): expected a whole number or None"),
        ({"saving": 50, "threads": 1.5}, "threads is 1.5 (float): expected a whole number"),
        ({"saving": 50, "mcu": 1}, "mcu is 1 (int): expected True or False"),
        ({"saving": 50, "precision": 8}, "expected one of fp32, int8, int4 or None"),
        ({"saving": 50, "search": {}}, "search is {} (dict): expected SearchSettings"),
    ],
)
def test_a_value_of_another_type_is_told_by_its_field(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        BuildSettings(**values)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_is_no_list_of_names_and_a_rate_is_a_number() -> None:
    for wrong in ({"ignore": "head"}, {"rates": ("0.5",)}, {"rates": 0.5}, {"policy": 1}):
        with pytest.raises(SettingsError, match=f"^{next(iter(wrong))} is .*: expected"):
            SearchSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"^epochs is"):
        FinetuneSettings(epochs="2")  # type: ignore[arg-type]


def test_numbers_of_numpy_become_plain_ones() -> None:
    search = SearchSettings(seed=np.int64(3), rates=[np.float32(0.5)])  # type: ignore[arg-type]
    assert json.loads(json.dumps(search.to_dict()))["seed"] == 3
    assert search.rates == (0.5,)


@pytest.mark.parametrize(
    "values",
    [
        {"max_drop": 0.0},
        {"max_drop": 100.0},
        {"channel_multiple": 1},
        {"robustness_images": 50},
        {"search_images": 50},
        {"search_images": None},
        {"seed": 0},
        {"rates": (0.999, 0.001)},
    ],
)
def test_search_settings_at_their_bounds(values: dict[str, Any]) -> None:
    settings = SearchSettings(**values)
    name, value = next(iter(values.items()))
    assert getattr(settings, name) == (tuple(sorted(value)) if name == "rates" else value)


def test_rates_are_sorted_and_tried_once() -> None:
    assert SearchSettings(rates=(0.5, 0.1, 0.5)).rates == (0.1, 0.5)
    assert SearchSettings().rates == DEFAULT_RATES


def test_settings_that_mean_the_same_are_equal() -> None:
    assert SearchSettings(rates=(0.2, 0.1)) == SearchSettings(rates=(0.1, 0.2, 0.2))


def test_search_settings_as_json() -> None:
    settings = SearchSettings(max_drop=1.5, rates=(0.2,), search_images=100)
    assert json.loads(json.dumps(settings.to_dict())) == {
        "max_drop": 1.5,
        "rates": [0.2],
        "channel_multiple": 1,
        "search_images": 100,
        "robustness_images": 512,
        "seed": 0,
        "policy": "prioritized",
        "recover": ["free", "bias", "refit", "norms"],
        "ignore": [],
        "evaluation_precision": "fp32",
    }


@pytest.mark.parametrize(
    ("budget_mb", "expected"),
    [
        (1.0, 1_000_000),
        (5.82, 5_820_000),
        (0.5, 500_000),
        (1.001, 1_001_000),  # 1000999.9999999999 in binary
        (4.35, 4_350_000),
        (1.0000009, 1_000_000),
    ],
)
def test_a_megabyte_is_a_million_bytes(budget_mb: float, expected: int) -> None:
    assert BuildSettings(budget_mb=budget_mb).budget_bytes(10**9) == expected


@pytest.mark.parametrize(
    ("saving", "dense", "expected"),
    [
        (0.0, 1000, 1000),
        (25.0, 1000, 750),
        (90.0, 1000, 100),  # 1 - 0.9 is below 0.1 in binary
        (30.0, 1000, 700),
        (12.3, 1000, 877),
        (50.0, 1001, 500),
        (99.9, 5_819_816, 5_819),
    ],
)
def test_saving_is_of_the_dense_file(saving: float, dense: int, expected: int) -> None:
    assert BuildSettings(saving=saving).budget_bytes(dense) == expected


def test_the_stricter_target_counts() -> None:
    settings = BuildSettings(budget_mb=1.0, saving=50.0)
    assert settings.budget_bytes(4_000_000) == 1_000_000
    assert settings.budget_bytes(1_000_000) == 500_000


def test_a_budget_of_megabytes_does_not_depend_on_the_dense_file() -> None:
    assert BuildSettings(budget_mb=2.0).budget_bytes(10) == 2_000_000


@given(kilobytes=st.integers(1, 10**7), percent=st.integers(0, 99), dense=st.integers(1, 10**10))
def test_budget_is_exact_for_round_targets(kilobytes: int, percent: int, dense: int) -> None:
    both = BuildSettings(budget_mb=kilobytes / 1000, saving=float(percent))
    assert both.budget_bytes(dense) == min(kilobytes * 1000, dense * (100 - percent) // 100)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": "gpu"}, "device is 'gpu': expected cpu, cuda, cuda:0 .* or auto"),
        ({"device": "cuda:"}, "device is 'cuda:'"),
        ({"workers": 0}, "workers are 0: expected 1 to 4096; change --workers, or leave it out"),
        ({"workers": 5000}, "workers are 5000"),
        ({"ray": " "}, "the address of the Ray cluster is ' ': expected HOST:PORT of its head"),
        ({"ray": "h:0"}, "the address of the Ray cluster is 'h:0': expected HOST:PORT"),
    ],
)
def test_where_nothing_can_compute(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{message}"):
        ComputeSettings(**wrong)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:11"])
def test_devices_that_have_a_name(device: str) -> None:
    assert ComputeSettings(device=device).to_dict()["device"] == device


def test_workers_evaluate_where_they_are_asked_for() -> None:
    assert not ComputeSettings().distributed
    assert ComputeSettings(workers=1).distributed
    assert ComputeSettings(ray="auto").distributed


def test_a_precision_of_evaluation_that_is_none() -> None:
    with pytest.raises(SettingsError, match=r"^evaluation precision is 'tf32': expected one of"):
        SearchSettings(evaluation_precision="tf32")
