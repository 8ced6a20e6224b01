from __future__ import annotations

import json
from pathlib import Path

import pytest

from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.evaluator import Evaluator
from primesvt_deploy.pruning.search.judge import LedgerJudge
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.pruning.search.space import SearchSpace


def groups_of(tiny: SViT) -> tuple[Group, ...]:
    return find_groups(tiny.module, tiny.config.input_shape)


def judge_of(
    tiny: SViT, data: DataSet, ledger: Ledger, max_drop: float = 3.0, chunk: int = 128
) -> LedgerJudge:
    evaluator = Evaluator(tiny, groups_of(tiny), data.search, chunk=chunk)
    return LedgerJudge(evaluator, ledger, max_drop=max_drop)


def halved(tiny: SViT) -> tuple[Plan, Group]:
    """The largest group with half of its channels."""
    space = SearchSpace(tiny, groups_of(tiny))
    group = space.groups[0]
    return space.by_norm.pruned(Plan(), group, 0.5), group


def test_a_known_candidate_is_not_evaluated_again(
    tiny: SViT, tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    first = judge_of(tiny, tiny_data, Ledger(path))
    plan, group = halved(tiny)
    expected = first.judge(plan, step="robustness", group=group, rate=0.5)
    dense = first.dense()

    second = judge_of(tiny, tiny_data, Ledger(path))
    monkeypatch.setattr(
        second._engine, "outcome", lambda *_, **__: pytest.fail("evaluated a known candidate")
    )
    assert second.judge(plan, step="robustness", group=group, rate=0.5) == expected
    assert second.dense() == dense


def test_the_dense_models_line_says_which_weights_it_has(
    tiny: SViT, tiny_data: DataSet, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.jsonl"
    evaluator = Evaluator(tiny, groups_of(tiny), tiny_data.search)
    judge = LedgerJudge(evaluator, Ledger(path), weights="a" * 64)
    judge.judge(halved(tiny)[0], step="policy")
    assert {entry.step: entry.weights for entry in Ledger(path)} == {
        "dense": "a" * 64,
        "policy": "",
    }


def test_a_candidate_is_judged_against_the_dense_model_on_the_same_images(
    tiny: SViT, tiny_data: DataSet
) -> None:
    judge = judge_of(tiny, tiny_data, Ledger(), max_drop=100.0)
    plan, group = halved(tiny)
    found = judge.judge(plan, step="policy", group=group, rate=0.5)
    assert found.n == judge.images == len(tiny_data.search)
    assert found.correct == judge.dense().correct - found.lost + found.gained


def test_a_dense_line_without_flags_of_all_images_is_measured_anew(
    tiny: SViT, tiny_data: DataSet, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.jsonl"
    expected = judge_of(tiny, tiny_data, Ledger(path)).dense()
    dense = json.loads(path.read_text())
    for altered in (
        {"flags": ""},
        {"n": 8, "stopped_early": True, "flags": "ff", "correct": 8},
    ):
        path.write_text(json.dumps({**dense, **altered}) + "\n")
        ledger = Ledger(path)
        assert len(ledger) == 1
        assert judge_of(tiny, tiny_data, ledger).dense() == expected
    assert judge_of(tiny, tiny_data, Ledger(path)).dense() == expected


def test_a_rate_that_rounds_to_the_whole_layer_removes_nothing(tiny: SViT) -> None:
    space = SearchSpace(tiny, groups_of(tiny), channel_multiple=64)
    assert space.by_norm.pruned(Plan(), space.groups[0], 0.5) == Plan()


def test_channels_stay_in_multiples(tiny: SViT) -> None:
    space = SearchSpace(tiny, groups_of(tiny), channel_multiple=4)
    for group in space.groups:
        for rate in (0.1, 0.5, 0.9):
            kept = space.by_norm.pruned(Plan(), group, rate).widths([group])[group.name]
            per_head = kept // group.heads
            assert per_head % 4 == 0 or kept == group.width


def test_the_hopeless_are_given_up_early(tiny: SViT, tiny_data: DataSet) -> None:
    judge = judge_of(tiny, tiny_data, Ledger(), max_drop=0.0, chunk=32)
    group = next(g for g in groups_of(tiny) if g.name == "residual")
    plan = Plan().replacing("residual", [0])
    found = judge.judge(plan, step="robustness", group=group, rate=0.9)
    assert found.stopped_early
    assert found.n < len(tiny_data.search)
    assert not AccuracyConstraint(0.0).keeps(found)
