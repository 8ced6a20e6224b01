from __future__ import annotations

import itertools
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.data import DataSet
from primesvt_deploy.measure.intervals import PairedDrop
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import Progress
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.engine import Course, EvaluationEngine
from primesvt_deploy.pruning.search.evaluator import Evaluator
from primesvt_deploy.pruning.search.judge import LedgerJudge
from primesvt_deploy.pruning.search.ledger import Candidate, Ledger
from primesvt_deploy.pruning.search.query import Query
from primesvt_deploy.pruning.search.space import SearchSpace


def groups_of(tiny: SViT) -> tuple[Group, ...]:
    return find_groups(tiny.module, tiny.config.input_shape)


def judge_of(tiny: SViT, data: DataSet, ledger: Ledger, chunk: int = 32) -> LedgerJudge:
    return LedgerJudge(Evaluator(tiny, groups_of(tiny), data.search, chunk=chunk), ledger)


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
    judge = judge_of(tiny, tiny_data, Ledger())
    plan, group = halved(tiny)
    found = judge.judge(plan, step="policy", group=group, rate=0.5)
    assert found.n == judge.images == len(tiny_data.search)
    assert found.whole
    assert found.correct == judge.dense(judge.images).correct - found.lost + found.gained


def test_a_dense_line_without_flags_of_all_images_is_measured_anew(
    tiny: SViT, tiny_data: DataSet, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.jsonl"
    expected = judge_of(tiny, tiny_data, Ledger(path)).dense()
    dense = json.loads(path.read_text())
    for altered in (
        {"flags": ""},
        {"n": 8, "flags": "", "correct": 8},
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


class MadeUp(EvaluationEngine):
    """An engine of made-up hits: each plan loses and gains at a rate of its own."""

    device = "cpu"

    def __init__(self, images: int = 3000) -> None:
        super().__init__((), np.zeros(images, dtype=np.int64), 32)
        self.rates = {Plan(): (0.0, 0.0)}
        self.asked: list[tuple[Plan, int, int]] = []
        generator = np.random.default_rng(0)
        self._chances = generator.random((2, images))
        self._dense = generator.random(images) < 0.8

    def hits(self, plan: Plan) -> npt.NDArray[np.bool_]:
        lost, gained = self.rates[plan]
        right = self._dense & (self._chances[0] >= lost)
        return right | (~self._dense & (self._chances[1] < gained))

    def start(self) -> None:
        """Nothing is to start."""

    def release(self) -> None:
        """Nothing is cached."""

    def _run(self, course: Course, progress: Progress) -> None:
        hits = self.hits(course.asked.plan)
        while not course.ended:
            start, stop = course.left[0]
            wrong = torch.from_numpy(~hits[start:stop]).float()
            course.take(torch.stack([1.0 - wrong, wrong], dim=1))
        self.asked.append((course.asked.plan, course.asked.start, stop))


def made_up(ledger: Ledger, **plans: tuple[float, float]) -> tuple[LedgerJudge, MadeUp]:
    engine = MadeUp()
    engine.rates |= {plan_of(name): rates for name, rates in plans.items()}
    return LedgerJudge(engine, ledger), engine


def plan_of(name: str) -> Plan:
    return Plan().replacing(name, [0])


PLANS = {"good": (0.01, 0.02), "bad": (0.3, 0.02), "close": (0.05, 0.03)}


@pytest.fixture
def groupless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up plans are of no groups."""
    monkeypatch.setattr(Plan, "packed", lambda *_: {})


@pytest.mark.usefixtures("groupless")
def test_a_candidate_is_seen_until_it_is_sure_both_ways() -> None:
    judge, engine = made_up(Ledger(), **PLANS)
    good = judge.judge(plan_of("good"), step="policy", allowed=3.0)
    bad = judge.judge(plan_of("bad"), step="policy", allowed=3.0)
    assert (good.decision, good.allowed) == ("within", 3.0)
    assert (bad.decision, bad.allowed) == ("beyond", 3.0)
    assert bad.n <= 128
    assert good.n <= 640
    assert AccuracyConstraint(3.0).keeps(good)
    assert not AccuracyConstraint(3.0).keeps(bad)
    for found in (good, bad):
        hits = engine.hits(Plan())[: found.n]
        assert found.drop == PairedDrop.of(hits, engine.hits(plan_of(found_name(found)))[: found.n])
    assert judge.dense().n < 1000, "the dense model is evaluated as far as it was needed"


def found_name(candidate: Candidate) -> str:
    return next(name for name in PLANS if plan_of(name).digest == candidate.plan)


@pytest.mark.usefixtures("groupless")
def test_decisions_are_those_on_all_images_under_every_constraint() -> None:
    """A stricter or a laxer constraint takes the images up where the last one left them."""
    ledger = Ledger()
    judge, engine = made_up(ledger, **PLANS)
    for name in PLANS:
        plan = plan_of(name)
        whole = PairedDrop.of(engine.hits(Plan()), engine.hits(plan)).points
        for allowed in (3.0, 1.0, 5.0, 0.5, 20.0, 3.0, 100.0):
            found = judge.judge(plan, step="policy", allowed=allowed)
            assert AccuracyConstraint(allowed).keeps(found) is (whole <= allowed), (name, allowed)
    for plan in map(plan_of, PLANS):
        runs = [(start, end) for asked, start, end in engine.asked if asked == plan]
        assert runs[0][0] == 0
        assert all(a[1] == b[0] for a, b in itertools.pairwise(runs)), "none seen twice"
    dense = [(start, end) for asked, start, end in engine.asked if asked == Plan()]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(dense))


@pytest.mark.usefixtures("groupless")
def test_an_interrupted_judge_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    first, _ = made_up(Ledger(path), **PLANS)
    early = first.judge(plan_of("good"), step="policy", allowed=3.0)
    dense = first.dense()
    judge, engine = made_up(Ledger(path), **PLANS)
    assert judge.judge(plan_of("good"), step="policy", allowed=3.0) == early
    assert judge.judge(plan_of("good"), step="policy", allowed=4.0) == early
    assert judge.dense() == dense
    assert not engine.asked
    whole = judge.judge(plan_of("good"), step="policy")
    assert whole.whole
    assert engine.asked == [
        (Plan(), dense.n, judge.images),
        (plan_of("good"), early.n, judge.images),
    ]
    assert whole.drop == PairedDrop.of(engine.hits(Plan()), engine.hits(plan_of("good")))
    again, engine = made_up(Ledger(path), **PLANS)
    assert again.judge(plan_of("good"), step="policy", allowed=0.1) == whole
    assert not engine.asked


@pytest.mark.usefixtures("groupless")
def test_an_estimate_goes_on_unless_it_is_refused() -> None:
    judge, _ = made_up(Ledger(), **PLANS)
    asked = {"step": "robustness", "limit": 512, "allowed": 3.0}
    assert judge.judge(plan_of("good"), **asked).n < 512
    assert judge.judge(plan_of("good"), **asked, estimate=True).n == 512
    assert judge.judge(plan_of("bad"), **asked, estimate=True).n < 512


@pytest.mark.usefixtures("groupless")
def test_the_ledger_says_where_candidates_were_judged(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ledger.devices == frozenset()
    engine = MadeUp()
    engine.device = "cuda"
    LedgerJudge(engine, ledger).dense()
    assert Ledger(tmp_path / "ledger.jsonl").devices == {"cuda"}


@pytest.mark.usefixtures("groupless")
def test_the_dense_model_may_be_asked_for_itself() -> None:
    ledger = Ledger()
    judge, _ = made_up(ledger)
    found = judge.judge(Plan(), step="policy")
    assert (found.n, found.drop.points) == (judge.images, 0.0)
    some = judge.judge(Plan(), step="policy", limit=256, divergence=True)
    assert (some.n, some.divergence) == (256, 0.0)
    assert len(ledger.hits(Plan().digest, judge.images)) == judge.images


@pytest.mark.usefixtures("groupless")
def test_several_are_judged_as_each_alone() -> None:
    rates = {"a": (0.0, 0.0), "b": (0.02, 0.01), "c": (0.3, 0.0), "d": (0.05, 0.0)}
    queries = [
        Query(plan=plan_of(name), step="robustness", limit=limit, allowed=allowed, **more)
        for name, limit, allowed, more in [
            ("a", 700, 3.0, {}),
            ("c", 700, 3.0, {"estimate": True}),
            ("b", 700, None, {}),
            ("c", 700, 3.0, {}),
            ("d", 500, 4.0, {"estimate": True}),
            ("d", 700, None, {"divergence": True}),
        ]
    ]  # fmt: skip
    alone, one = made_up(Ledger(), **rates)
    alone.dense(700)
    expected = [
        alone.judge(**{each.name: getattr(query, each.name) for each in fields(Query)})
        for query in queries
    ]
    ledger = Ledger()
    together, many = made_up(ledger, **rates)
    together.dense(700)
    assert [without_time(c) for c in together.judge_all(queries)] == [
        without_time(c) for c in expected
    ]
    assert sorted(many.asked, key=str) == sorted(one.asked, key=str), "the same work is done"
    assert len({candidate.n for candidate in expected}) > 2, "all see as many images"
    assert any(candidate.decision == "beyond" for candidate in expected)
    before = len(many.asked)
    assert [c.key for c in together.judge_all(queries)] == [c.key for c in expected]
    assert len(many.asked) == before, "what is known is not evaluated again"


def without_time(candidate: Candidate) -> Candidate:
    return replace(candidate, seconds=0.0)
