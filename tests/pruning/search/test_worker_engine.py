"""Whoever evaluates, candidates are the same: workers that share the images, another device."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from other_device import other_device

from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.compute.device import CPU
from primesvt_deploy.data import DataSet
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import SILENT
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search import samples
from primesvt_deploy.pruning.search.chunk_evaluator import ChunkEvaluator, EvaluatedOn
from primesvt_deploy.pruning.search.constraint import AccuracyConstraint
from primesvt_deploy.pruning.search.engine import Asked, EvaluationEngine, chunks_of
from primesvt_deploy.pruning.search.evaluation_worker import EvaluationWorker, WorkerSetup
from primesvt_deploy.pruning.search.evaluator import Evaluator
from primesvt_deploy.pruning.search.judge import LedgerJudge
from primesvt_deploy.pruning.search.ledger import Candidate, Ledger
from primesvt_deploy.pruning.search.robustness import measure_robustness
from primesvt_deploy.pruning.search.samples import Shard, Sharing
from primesvt_deploy.pruning.search.space import SearchSpace
from primesvt_deploy.pruning.search.worker_engine import WorkerEngine
from primesvt_deploy.settings import RECOVERY_STEPS

CHUNK, BATCH = 16, 8


class WorkersHere:
    """Workers of this process, to which everything goes through pickle.

    Args:
        makers: makes each worker.
        dies_at: numbers of calls before which the worker is replaced by a fresh one.
        order: of calls that are said to be done first.
    """

    def __init__(
        self, makers: Sequence[Callable[[], Any]], dies_at: Sequence[int] = (), seed: int = 0
    ) -> None:
        self._makers, self._dies_at = list(makers), set(dies_at)
        self._workers = [make() for make in makers]
        self._order = random.Random(seed)
        self.made = 0

    def __len__(self) -> int:
        return len(self._workers)

    def submit(self, worker: int, method: str, *arguments: Any) -> Any:
        if self.made in self._dies_at:
            self._workers[worker] = self._makers[worker]()
        self.made += 1
        sent = [a if isinstance(a, _Put) else pickle.loads(pickle.dumps(a)) for a in arguments]
        found = getattr(self._workers[worker], method)(*sent)
        return _Call(pickle.dumps(found))

    def first_done(self, calls: Sequence[Any]) -> Any:
        return self._order.choice(calls)

    def result(self, call: Any) -> Any:
        return pickle.loads(call.content)

    def close(self) -> None:
        self._workers = []

    def put(self, value: Any) -> Any:
        return _Put(pickle.dumps(value))


class _Call:
    def __init__(self, content: bytes) -> None:
        self.content = content


class _Put:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __call__(self) -> Any:
        return pickle.loads(self._content)


def groups_of(model: SViT) -> tuple[Group, ...]:
    return find_groups(model.module, model.config.input_shape)


def in_process(
    model: SViT, data: DataSet, steps: Sequence[str]
) -> tuple[EvaluationEngine, Recovery]:
    groups = groups_of(model)
    recovery = Recovery(model, groups, data.search, steps)
    on = EvaluatedOn(batch_size=BATCH)
    return Evaluator(model, groups, data.search, chunk=CHUNK, recovery=recovery, on=on), recovery


def shared(
    model: SViT, data: DataSet, steps: Sequence[str], workers: int, dies_at: Sequence[int] = ()
) -> tuple[EvaluationEngine, Recovery]:
    groups = groups_of(model)
    setup = WorkerSetup(
        model=model, groups=groups, steps=tuple(steps), calibration=data.search,
        device="cpu", precision="fp32", batch_size=BATCH,
    )  # fmt: skip
    sharing = Sharing(len(data.search), CHUNK, workers)
    makers = [
        lambda number=number: EvaluationWorker(setup, Shard(data.search, sharing.chunks(number)))
        for number in range(workers)
    ]
    recovery = Recovery(model, groups, data.search, steps)
    engine = WorkerEngine(
        lambda: WorkersHere(makers, dies_at, seed=workers), sharing, groups, data.search.labels,
        device="cpu", recovery=recovery, progress=SILENT,
    )  # fmt: skip
    return engine, recovery


def searched(model: SViT, engine: EvaluationEngine, recovery: Recovery) -> list[Candidate]:
    """Candidates of a small search, their times left out."""
    ledger = Ledger()
    judge = LedgerJudge(engine, ledger)
    space = SearchSpace(model, engine.groups, recovery=recovery)
    for group in engine.groups[:3]:
        for rate in (0.25, 0.75):
            plan = space.by_norm.pruned(Plan(), group, rate)
            judge.judge(plan, step="robustness", group=group, rate=rate, limit=50, allowed=2.0)
            judge.judge(plan, step="policy", divergence=True)
    judge.judge(space.without_constants, step="free")
    measure_robustness(
        judge, engine.groups[3:], space.by_norm, AccuracyConstraint(2.0), rates=(0.4, 0.8), limit=60
    )
    assert list(engine.outcome(Plan(), start=40, limit=90).hits) == list(
        engine.outcome(Plan(), limit=90).hits[40:]
    )
    return [replace(candidate, seconds=0.0) for candidate in ledger]


@pytest.fixture(scope="module")
def kept() -> list[Candidate]:
    return []


@pytest.fixture
def alone(tiny: SViT, tiny_data: DataSet, kept: list[Candidate]) -> list[Candidate]:
    """Candidates of one process, each recovered; they are the same for each test."""
    if not kept:
        kept += searched(tiny, *in_process(tiny, tiny_data, RECOVERY_STEPS))
    return kept


@pytest.mark.slow
def test_the_ledger_does_not_depend_on_the_number_of_workers(
    tiny: SViT, tiny_data: DataSet, alone: list[Candidate]
) -> None:
    assert len({candidate.correct for candidate in alone}) > 3, "the test sees nothing"
    assert any(candidate.decision for candidate in alone), "none was decided early"
    for workers in (1, 2, 3, 5):
        assert searched(tiny, *shared(tiny, tiny_data, RECOVERY_STEPS, workers)) == alone


@pytest.mark.slow
def test_the_ledger_is_the_same_where_nothing_is_recovered(tiny: SViT, tiny_data: DataSet) -> None:
    expected = searched(tiny, *in_process(tiny, tiny_data, ()))
    for workers in (1, 2, 3, 5):
        assert searched(tiny, *shared(tiny, tiny_data, (), workers)) == expected


@pytest.mark.slow
def test_workers_that_are_replaced_or_released_are_started_anew(
    tiny: SViT, tiny_data: DataSet, alone: list[Candidate]
) -> None:
    engine, recovery = shared(tiny, tiny_data, RECOVERY_STEPS, 2, dies_at=(3, 11, 12, 30))
    assert searched(tiny, engine, recovery) == alone
    engine.release()
    assert searched(tiny, engine, recovery) == alone


@pytest.mark.slow
def test_moments_that_workers_sum_are_those_of_one_process(tiny: SViT, tiny_data: DataSet) -> None:
    _, alone = in_process(tiny, tiny_data, RECOVERY_STEPS)
    _, parted = shared(tiny, tiny_data, RECOVERY_STEPS, 3)
    for name, seen in alone.moments.inputs.items():
        other = parted.moments.inputs[name]
        assert torch.equal(seen.mean, other.mean), name
        if seen.covariance is not None:
            assert other.covariance is not None
            assert torch.equal(seen.covariance, other.covariance), name


@pytest.mark.slow
def test_candidates_of_another_device_are_the_same(
    tiny: SViT, tiny_data: DataSet, alone: list[Candidate]
) -> None:
    groups = groups_of(tiny)
    with other_device() as device:
        recovery = Recovery(tiny, groups, tiny_data.search, RECOVERY_STEPS, device=device)
        on = EvaluatedOn(device=device, batch_size=BATCH)
        engine = Evaluator(tiny, groups, tiny_data.search, chunk=CHUNK, recovery=recovery, on=on)
        found = searched(tiny, engine, recovery)
        left = recovery.recovered(SearchSpace(tiny, groups).by_norm.pruned(Plan(), groups[0], 0.5))
        assert {each.device for each in left.state_dict().values()} == {CPU}
    assert {each.device for each in found} == {device.type}
    assert [replace(each, device="cpu") for each in found] == alone
    assert all(each.device.type == "cpu" for each in tiny.module.state_dict().values())


def test_bf16_is_another_evaluation(tiny: SViT, tiny_data: DataSet) -> None:
    groups = groups_of(tiny)
    logits = [
        Evaluator(
            tiny, groups, tiny_data.search, on=EvaluatedOn(batch_size=BATCH, precision=precision)
        ).outcome(Plan(), limit=50).logits
        for precision in ("fp32", "bf16")
    ]  # fmt: skip
    assert logits[1].dtype == torch.float32
    difference = float((logits[0] - logits[1]).abs().max())
    assert 0.0 < difference < float(logits[0].abs().max())


def test_a_batch_that_does_not_fit_is_halved(
    tiny: SViT, tiny_data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, told = groups_of(tiny), []
    whole = Evaluator(tiny, groups, tiny_data.search, on=EvaluatedOn(batch_size=BATCH), chunk=CHUNK)
    expected = whole.outcome(Plan(), keep=groups)
    tight = Evaluator(
        tiny, groups, tiny_data.search,
        on=EvaluatedOn(batch_size=BATCH), chunk=CHUNK, tell=told.append,
    )  # fmt: skip
    refusing(tight._chunks, monkeypatch, most=BATCH // 4)
    found = tight.outcome(Plan(), keep=groups)
    np.testing.assert_array_equal(found.hits, expected.hits)
    assert [line.partition(":")[0] for line in told] == [
        "a batch of 8 does not fit the device's memory",
        "a batch of 4 does not fit the device's memory",
    ]


def test_an_image_that_does_not_fit_is_told_in_one_line(
    tiny: SViT, tiny_data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Evaluator(tiny, groups_of(tiny), tiny_data.search, on=EvaluatedOn(batch_size=BATCH))
    refusing(engine._chunks, monkeypatch, most=0)
    with pytest.raises(SettingsError, match=r"^a single sample does not fit .*--device cpu$"):
        engine.outcome(Plan())


def refusing(chunks: ChunkEvaluator, monkeypatch: pytest.MonkeyPatch, *, most: int) -> None:
    """Have the network's first layer run out of memory on batches of more than `most`."""
    first = chunks._networks.dense.get_submodule("stem.0")

    def refuse(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    first.register_forward_pre_hook(refuse)


@pytest.fixture(autouse=True)
def few_images_are_held_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise no chunk of so few images would be shared."""
    monkeypatch.setattr(samples, "HELD_BY_ALL", 2 * CHUNK)


@pytest.mark.slow
def test_independent_evaluations_have_the_same_outcomes_side_by_side(
    tiny: SViT, tiny_data: DataSet
) -> None:
    here, _ = in_process(tiny, tiny_data, RECOVERY_STEPS)
    ranking = SearchSpace(tiny, here.groups).by_norm
    asked = [
        Asked(
            plan=ranking.pruned(Plan(), group, rate),
            start=start,
            limit=limit,
            stop=(lambda flags: flags.mean() < 0.5) if rate > 0.5 else None,
            keep=(group,),
        )
        for group in here.groups[:3]
        for rate, start, limit in [(0.25, 0, 20), (0.5, 0, None), (0.75, 0, None), (0.6, 8, 70)]
    ]
    expected = list(here.outcomes(asked))
    assert len({len(found.hits) for found in expected}) > 3, "the test sees nothing"
    for workers in (1, 2, 4):
        engine, _ = shared(tiny, tiny_data, RECOVERY_STEPS, workers, dies_at=(7, 9))
        engine.outcome(Plan(), limit=50, keep=engine.groups)
        for found, other in zip(engine.outcomes(asked), expected, strict=True):
            np.testing.assert_array_equal(found.hits, other.hits)
            assert torch.equal(found.logits, other.logits)


@pytest.mark.parametrize("workers", [1, 3, 8])
@pytest.mark.parametrize("images", [5, 16, 33, 120])
def test_each_image_is_held_by_its_owner(images: int, workers: int) -> None:
    sharing = Sharing(images, CHUNK, workers)
    held = [sharing.chunks(number) for number in range(workers)]
    for chunk in chunks_of(images, CHUNK):
        assert chunk in held[sharing.owner(chunk)]
        assert sum(chunk in own for own in held) == (workers if chunk[1] <= 2 * CHUNK else 1)
