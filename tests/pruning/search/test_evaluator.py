from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.data import DataSet
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.cut import mask
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.chunk_evaluator import EvaluatedOn
from primesvt_deploy.pruning.search.engine import chunks_of
from primesvt_deploy.pruning.search.evaluator import Evaluator


@pytest.fixture
def groups(tiny: SViT) -> tuple[Group, ...]:
    return find_groups(tiny.module, tiny.config.input_shape)


def evaluator(tiny: SViT, groups: tuple[Group, ...], data: DataSet, **options: int) -> Evaluator:
    on = EvaluatedOn(batch_size=8, **options)  # type: ignore[arg-type]
    return Evaluator(tiny, groups, data.search, chunk=32, on=on)


def plainly(tiny: SViT, groups: tuple[Group, ...], plan: Plan, data: DataSet) -> npt.NDArray:
    """The same flags from the masked module itself."""
    masked = mask(tiny.module, groups, plan)
    inputs = torch.from_numpy(data.search.inputs(0, len(data.search)))
    with torch.no_grad():
        return masked(inputs).argmax(dim=1).numpy() == data.search.labels


def half(group: Group) -> tuple[int, ...]:
    width = group.width // group.heads
    return tuple(h * width + i for h in range(group.heads) for i in range(-(-width // 2)))


@pytest.mark.slow
def test_hits_are_those_of_the_masked_model(
    tiny: SViT, groups: tuple[Group, ...], tiny_data: DataSet
) -> None:
    judge = evaluator(tiny, groups, tiny_data)
    seen = []
    for group in groups:
        plan = Plan().replacing(group.name, half(group))
        flags = judge.outcome(plan, keep=[group]).hits
        np.testing.assert_array_equal(flags, plainly(tiny, groups, plan, tiny_data))
        seen.append(flags.sum())
    assert len(set(seen)) > 1, "every mask gives the same accuracy: the test sees nothing"


@pytest.mark.slow
def test_a_cached_prefix_changes_nothing(
    tiny: SViT, groups: tuple[Group, ...], tiny_data: DataSet
) -> None:
    cached = evaluator(tiny, groups, tiny_data)
    cached.outcome(Plan(), keep=groups)
    uncached = evaluator(tiny, groups, tiny_data, cache_bytes=0)
    plan = Plan()
    for group in reversed(groups):
        plan = plan.replacing(group.name, half(group))
        np.testing.assert_array_equal(
            cached.outcome(plan, keep=[group]).hits, uncached.outcome(plan, keep=[group]).hits
        )


@pytest.mark.slow
def test_a_small_cache_evicts_and_stays_right(
    tiny: SViT, groups: tuple[Group, ...], tiny_data: DataSet
) -> None:
    # Room for about one boundary's states.
    small = evaluator(tiny, groups, tiny_data, cache_bytes=120 * 3 * 16 * 16 * 2)
    small.outcome(Plan(), keep=groups)
    for group in groups:
        plan = Plan().replacing(group.name, half(group))
        np.testing.assert_array_equal(
            small.outcome(plan, keep=[group]).hits, plainly(tiny, groups, plan, tiny_data)
        )


def test_prefixes_are_really_reused(
    tiny: SViT, groups: tuple[Group, ...], tiny_data: DataSet
) -> None:
    judge = evaluator(tiny, groups, tiny_data)
    last = next(group for group in groups if group.name == "blocks.1.mlp")
    judge.outcome(Plan(), keep=groups)
    calls = []
    first_stage = judge._chunks._networks.dense.get_submodule("stem.0")
    first_stage.register_forward_hook(lambda *_: calls.append(1))
    judge.outcome(Plan().replacing(last.name, half(last)), keep=[last])
    assert not calls
    first = next(group for group in groups if group.name == "stem.0")
    judge.outcome(Plan().replacing("stem.0", [0]), keep=[first])
    assert calls


def test_released_states_are_computed_again(
    tiny: SViT, groups: tuple[Group, ...], tiny_data: DataSet
) -> None:
    judge = evaluator(tiny, groups, tiny_data)
    plan = Plan().replacing(
        "blocks.1.mlp", half(next(g for g in groups if g.name == "blocks.1.mlp"))
    )
    expected = judge.outcome(plan, keep=groups).hits
    calls = []
    judge._chunks._networks.dense.get_submodule("stem.0").register_forward_hook(
        lambda *_: calls.append(1)
    )
    judge.outcome(plan, keep=groups)
    assert not calls, "nothing was cached: the test sees nothing"
    judge.release()
    np.testing.assert_array_equal(judge.outcome(plan, keep=groups).hits, expected)
    assert calls


def test_evaluation_stops_when_asked_to(
    tiny: SViT, groups: tuple[Group, ...], tiny_data: DataSet
) -> None:
    found = evaluator(tiny, groups, tiny_data).outcome(Plan(), stop=lambda seen: len(seen) >= 64)
    assert len(found.hits) == len(found.logits) == 64


def test_the_limit_is_kept(tiny: SViT, groups: tuple[Group, ...], tiny_data: DataSet) -> None:
    assert len(evaluator(tiny, groups, tiny_data).outcome(Plan(), limit=50).hits) == 50


def test_masks_are_lifted_again(tiny: SViT, groups: tuple[Group, ...], tiny_data: DataSet) -> None:
    judge = evaluator(tiny, groups, tiny_data)
    dense = judge.outcome(Plan()).hits
    judge.outcome(Plan().replacing("residual", [0]))
    np.testing.assert_array_equal(judge.outcome(Plan()).hits, dense)


@pytest.mark.parametrize("size", [1, 7, 32])
def test_chunks_cover_the_images_in_order(size: int) -> None:
    for start, stop in [(0, 1), (0, 64), (5, 64), (31, 33), (32, 96), (63, 64)]:
        chunks = chunks_of(stop, size, start)
        assert [i for chunk in chunks for i in range(*chunk)] == list(range(start, stop))
        assert all(begin % size == 0 for begin, _ in chunks[1:])
        assert all(0 < end - begin <= size for begin, end in chunks)
