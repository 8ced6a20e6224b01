from __future__ import annotations

from pathlib import Path

import pytest

from primesvt_deploy.analysis.groups import find_groups
from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.judge import Judge
from primesvt_deploy.pruning.search.ledger import Ledger


def judge_of(tiny: SViT, data: DataSet, ledger: Ledger, **options: float) -> Judge:
    groups = find_groups(tiny.module, tiny.config.input_shape)
    return Judge(tiny, groups, data.search, ledger, **{"max_drop": 3.0, **options})


def test_a_known_candidate_is_not_evaluated_again(
    tiny: SViT, tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    first = judge_of(tiny, tiny_data, Ledger(path))
    group = first.groups[0]
    plan = first.pruned(Plan(), group, 0.5)
    expected = first.judge(plan, step="robustness", group=group, rate=0.5)
    dense = first.dense()

    second = judge_of(tiny, tiny_data, Ledger(path))
    monkeypatch.setattr(
        second._evaluator, "outcome", lambda *_, **__: pytest.fail("evaluated a known candidate")
    )
    assert second.judge(plan, step="robustness", group=group, rate=0.5) == expected
    assert second.dense() == dense


def test_a_candidate_is_judged_against_the_dense_model_on_the_same_images(
    tiny: SViT, tiny_data: DataSet
) -> None:
    judge = judge_of(tiny, tiny_data, Ledger(), max_drop=100.0)
    group = judge.groups[0]
    found = judge.judge(judge.pruned(Plan(), group, 0.5), step="policy", group=group, rate=0.5)
    assert found.n == judge.images == len(tiny_data.search)
    assert found.correct == judge.dense().correct - found.lost + found.gained


def test_a_plan_that_removes_nothing_loses_nothing(tiny: SViT, tiny_data: DataSet) -> None:
    judge = judge_of(tiny, tiny_data, Ledger(), channel_multiple=64)
    group = judge.groups[0]
    assert judge.pruned(Plan(), group, 0.5) == Plan()


def test_channels_stay_in_multiples(tiny: SViT, tiny_data: DataSet) -> None:
    judge = judge_of(tiny, tiny_data, Ledger(), channel_multiple=4)
    for group in judge.groups:
        for rate in (0.1, 0.5, 0.9):
            kept = judge.pruned(Plan(), group, rate).widths([group])[group.name]
            per_head = kept // group.heads
            assert per_head % 4 == 0 or kept == group.width


def test_the_hopeless_are_given_up_early(tiny: SViT, tiny_data: DataSet) -> None:
    patient = judge_of(tiny, tiny_data, Ledger(), max_drop=0.0)
    patient._evaluator._chunk = 32
    group = next(g for g in patient.groups if g.name == "residual")
    plan = Plan().replacing("residual", [0])
    found = patient.judge(plan, step="robustness", group=group, rate=0.9)
    assert found.stopped_early
    assert found.n < len(tiny_data.search)
    assert not patient.within(found)
