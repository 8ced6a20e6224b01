"""The verdict: green only where the whole held-out interval keeps the constraint."""

from __future__ import annotations

from typing import Any

import pytest

from primesvt_deploy.report.verdict import judge

SPACE = "\N{NO-BREAK SPACE}"


def with_drop(manifest: dict[str, Any], points: float, low: float, high: float) -> dict[str, Any]:
    manifest["accuracy"]["drop"] |= {"points": points, "interval95_points": [low, high]}
    return manifest


@pytest.mark.parametrize(
    ("drop", "state", "words"),
    [
        ((2.0, 1.31, 2.69), "met", "the whole interval is within the 3 allowed"),
        ((2.0, 1.0, 3.0), "met", "the whole interval is within the 3 allowed"),
        ((2.0, -1.0, 4.9), "unsure", "reaches beyond the 3 allowed, so a larger loss is not"),
        ((3.4, 2.1, 4.7), "unsure", "reaches beyond the 3 allowed"),
        ((6.0, 4.0, 8.0), "unsure", "surely more than the 3 allowed"),
        ((-0.3, -0.9, 0.3), "met", "0.30 points of top-1 are gained"),
    ],
)
def test_states(
    manifest: dict[str, Any], drop: tuple[float, float, float], state: str, words: str
) -> None:
    verdict = judge(with_drop(manifest, *drop))
    assert verdict.state == state
    assert words in verdict.sentences[-1]


def test_the_dense_model_shipped_as_it_was_loses_nothing(manifest: dict[str, Any]) -> None:
    manifest = with_drop(manifest, 0.0, -4.0, 4.0)
    assert judge(manifest).state == "unsure"
    manifest["size"]["shipped"] = manifest["size"]["dense"]
    assert judge(manifest).state == "met"


def test_both_numbers_are_named_where_it_is_unsure(manifest: dict[str, Any]) -> None:
    verdict = judge(with_drop(manifest, 2.0, -1.0, 4.9))
    assert verdict.title == "Met on search images, not shown on held-out images"
    text = " ".join(verdict.sentences)
    assert "1.86 points are lost; at most 3 were allowed" in text
    assert f"2.00 points are lost, 95% interval of the loss [−1.00,{SPACE}4.90]" in text  # noqa: RUF001


def test_unmet_says_what_and_by_how_much(manifest: dict[str, Any]) -> None:
    manifest["constraints"] |= {
        "met": False,
        "budget_met": False,
        "used_bytes": 4_620_000,
        "stopped_by": "all layers are used up.",
    }
    verdict = judge(manifest)
    assert verdict.state == "unmet"
    assert "4.62\N{NARROW NO-BREAK SPACE}MB, 10.0% more than the budget" in verdict.sentences[0]
    assert verdict.sentences[-1] == "What stopped it: all layers are used up."


def test_without_a_limit_on_accuracy_size_alone_decides(manifest: dict[str, Any]) -> None:
    manifest["constraints"]["max_drop_points"] = None
    verdict = judge(with_drop(manifest, 20.0, 15.0, 25.0))
    assert verdict.state == "met"
    assert "no limit was set" in verdict.sentences[1]


def test_a_loss_that_was_not_measured_is_not_green(manifest: dict[str, Any]) -> None:
    manifest["accuracy"]["drop"] = None
    assert judge(manifest).state == "unsure"


def test_what_a_budget_counts_is_named(manifest: dict[str, Any]) -> None:
    manifest["constraints"]["budget_on"] = "params"
    assert judge(manifest).sentences[0].startswith("Weights and biases: ")


def test_nothing_is_judged_that_is_not_recorded() -> None:
    assert judge({}).state == "unknown"
