from __future__ import annotations

from typing import Any

import pytest

from primesvt_deploy.measure.verdict import VerdictState, judge, verdict_of

KEPT = {"budget_met": True, "accuracy_met": True, "max_drop": 3.0, "search_drop": 1.76}
SIZES = (4_200_000, 4_170_000)


def test_met_where_the_whole_interval_is_within() -> None:
    found = judge(**KEPT, held_out_drop=0.26, held_out_interval=(-0.1, 0.6), sizes=SIZES)
    assert found.state is VerdictState.MET
    assert found.text == (
        "Constraints met (4.17 MB, 4.20 MB allowed): 0.26 points lost on held-out images "
        "(95% interval of the loss [-0.10, 0.60]); a loss of 3 is allowed"
    )
    touching = judge(**KEPT, held_out_drop=2.0, held_out_interval=(1.0, 3.0))
    assert touching.state is VerdictState.MET, "3 points are allowed"


def test_an_interval_that_reaches_beyond_is_no_plain_yes() -> None:
    found = judge(**KEPT, held_out_drop=2.0, held_out_interval=(-1.0, 4.9), sizes=SIZES)
    assert found.state is VerdictState.NOT_SHOWN
    assert found.text == (
        "Budget met (4.17 MB, 4.20 MB allowed); accuracy kept on the search split (1.76 points "
        "lost; a loss of 3 is allowed), but 2.00 points lost on held-out images (95% interval of "
        "the loss [-1.00, 4.90]): a loss of more than 3 is possible. Allow less (--max-drop), or "
        "report on more held-out images"
    )
    beyond = judge(**KEPT, held_out_drop=4.2, held_out_interval=(3.4, 5.0))
    assert beyond.state is VerdictState.NOT_SHOWN
    assert "[3.40, 5.00]): a loss of more than 3 is shown. Allow less" in beyond.text


@pytest.mark.parametrize(
    ("budget_met", "accuracy_met", "text"),
    [
        (False, True, "budget not met (4.30 MB, 4.20 MB allowed)"),
        (
            True,
            False,
            "accuracy not kept on the search split (1.76 points lost; a loss of 1 is allowed)",
        ),
        (
            False,
            False,
            "budget not met (4.30 MB, 4.20 MB allowed); accuracy not kept on the search split "
            "(1.76 points lost; a loss of 1 is allowed)",
        ),
    ],
)
def test_what_is_not_met_is_named(budget_met: bool, accuracy_met: bool, text: str) -> None:
    found = judge(
        budget_met=budget_met,
        accuracy_met=accuracy_met,
        max_drop=1.0,
        search_drop=1.76,
        held_out_drop=0.1,
        held_out_interval=(0.0, 0.2),
        sizes=(4_200_000, 4_300_000),
    )
    assert found.state is VerdictState.NOT_MET
    assert found.text == f"Constraints not met: {text}"


def test_a_gain_is_no_negative_loss() -> None:
    found = judge(**{**KEPT, "search_drop": -0.5}, held_out_drop=-0.3, held_out_interval=(-1, 0.4))
    assert ": 0.30 points gained on held-out images (95% interval of the loss [-1.00, 0.40]); " in (
        found.text
    )
    missed = judge(budget_met=True, accuracy_met=False, max_drop=-1.0, search_drop=-0.5)
    assert "(0.50 points gained; a loss of -1 is allowed)" in missed.text


def test_nothing_is_demanded_of_accuracy() -> None:
    found = judge(
        budget_met=True,
        accuracy_met=True,
        max_drop=None,
        held_out_drop=40.0,
        held_out_interval=(30.0, 50.0),
    )
    assert found.state is VerdictState.MET
    assert "no accuracy was asked for: 40.00 points lost" in found.text


def manifest(**constraints: Any) -> dict[str, Any]:
    """The part of a manifest that is judged."""
    drop = {"points": 2.0, "interval95_points": [-1.0, 4.9]}
    return {
        "constraints": {"met": True, "max_drop_points": 3.0, **constraints},
        "accuracy": {"drop": drop, "search": None},
    }


def test_a_bundle_is_judged_by_its_manifest() -> None:
    wanted = {"budget_mb": 4.2, "budget_bytes": 4_200_000, "used_bytes": 4_199_999}
    found = verdict_of(manifest(**wanted))
    assert found.state is VerdictState.NOT_SHOWN
    assert "(4.199999 MB, 4.200000 MB allowed)" in found.text
    assert verdict_of(manifest(met=False)).state is VerdictState.NOT_MET
    assert verdict_of(manifest(max_drop_points=None)).state is VerdictState.MET


def test_without_a_target_no_size_is_called_allowed() -> None:
    wanted = {"budget_mb": None, "budget_bytes": 4_200_000, "used_bytes": 4_200_000}
    assert "MB" not in verdict_of(manifest(**wanted)).text


def test_the_dense_model_as_it_was_loses_nothing_whatever_an_interval_says() -> None:
    sizes = {"file_bytes": 5, "parameters": 7}
    few = {**manifest(max_drop_points=1.0), "size": {"dense": sizes, "shipped": dict(sizes)}}
    assert verdict_of(few).state is VerdictState.MET
    assert "the dense model is shipped as it was" in verdict_of(few).text
    few["size"]["shipped"]["parameters"] = 6
    assert verdict_of(few).state is VerdictState.NOT_SHOWN
