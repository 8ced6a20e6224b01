"""What a build or an analysis will take, asked for on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_models import (
    SHALLOW,
    Ended,
    make_prunable,
    primesvt,
    write_arrays,
    write_model_directory,
)

OPTIONS = (
    *("--model", "tiny", "--data", "d.npz", "--robustness-images", "60"),
    *("--search-images", "80", "--quiet"),
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a model and data."""
    model = make_prunable(SHALLOW)
    write_model_directory(tmp_path / "tiny", model)
    write_arrays(tmp_path / "d.npz", model)
    return tmp_path


def asked(place: Path, *arguments: str) -> Ended:
    """A command about the model."""
    return primesvt(*arguments, *OPTIONS, cwd=place)


@pytest.mark.slow
def test_a_dry_run_tells_the_cost_and_writes_nothing(place: Path) -> None:
    before = sorted(place.rglob("*"))
    ended = asked(place, "build", "--dry-run", "--saving", "20", "--policy", "greedy")
    said = ended.stdout
    assert ended.returncode == 0, ended.stderr
    for told in ("sensitivity", "in all", "Peak memory", "--search-images", "80 (chosen)"):
        assert told in said, told
    assert "within reach by size alone" in said
    assert sorted(place.rglob("*")) == before


@pytest.mark.slow
def test_a_dry_run_of_a_budget_out_of_reach_ends_with_1(place: Path) -> None:
    ended = asked(place, "build", "--dry-run", "--budget-mb", "0.0001", "--json")
    content = json.loads(ended.stdout)
    assert ended.returncode == 1 and not content["budget"]["reachable"]
    assert sum(each["seconds"]["likely"] for each in content["stages"]) == pytest.approx(
        content["seconds"]["likely"], abs=2.0
    )


@pytest.mark.slow
def test_the_cost_of_an_analysis_is_told_as_well(place: Path) -> None:
    ended = asked(place, "analyze", "--cost")
    said = ended.stdout
    assert ended.returncode == 0, ended.stderr
    assert "What this analysis will take, about" in said and "robustness" in said
    assert "Budget" not in said


def test_a_dry_run_of_what_is_answered_makes_no_sense(place: Path) -> None:
    ended = primesvt("build", "--dry-run", "--frontier", "known", *OPTIONS[:4], cwd=place)
    assert ended.returncode == 2
    assert "with --frontier there is none: leave one of them out" in ended.stderr
