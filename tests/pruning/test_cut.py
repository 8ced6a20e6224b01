"""The invariant of the pruner: the cut model equals the masked dense one (fp64, 1e-9)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import TINY, make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.errors import PruningError
from primesvt_deploy.model import SViT
from primesvt_deploy.pruning.cut import check_cut, cut, mask
from primesvt_deploy.pruning.plan import Plan

MODELS = {
    "patch 4": make_model(),
    "patch 16, soft reset": make_model(
        replace(
            TINY,
            patch_size=16,
            image_size=32,
            timesteps=2,
            v_reset=None,
            mlp_widths=(24,),
            qk_widths=(16,),
            v_widths=(16,),
        ),
        seed=3,
    ),
}
for _model in MODELS.values():
    _model.module.double()
GROUPS = {name: find_groups(m.family, m.module, m.config) for name, m in MODELS.items()}
CASES = [(name, group) for name, groups in GROUPS.items() for group in groups]


def kept_indices(group: Group) -> st.SearchStrategy[tuple[int, ...]]:
    """Random kept channels, equally many in each head."""
    width = group.width // group.heads

    def spread(size: int) -> st.SearchStrategy[tuple[int, ...]]:
        head = st.sets(st.integers(0, width - 1), min_size=size, max_size=size)
        return st.tuples(*[head] * group.heads).map(
            lambda heads: tuple(h * width + i for h, chosen in enumerate(heads) for i in chosen)
        )

    return st.integers(1, width).flatmap(spread)


def images_for(model: SViT) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, *model.config.input_shape, generator=generator, dtype=torch.float64)


def difference(model: SViT, groups: tuple[Group, ...], plan: Plan) -> float:
    masked = mask(model.module, groups, plan)
    _, smaller = cut(model.family, model.config, model.module, groups, plan)
    return check_cut(masked, smaller, images_for(model))


@pytest.mark.parametrize(("name", "group"), CASES, ids=lambda case: getattr(case, "name", case))
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_cut_equals_masked_for_every_group(name: str, group: Group, data: st.DataObject) -> None:
    plan = Plan().replacing(group.name, data.draw(kept_indices(group)))
    assert difference(MODELS[name], GROUPS[name], plan) <= 1e-9


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_cut_equals_masked_for_all_groups_at_once(name: str, data: st.DataObject) -> None:
    plan = Plan()
    for group in GROUPS[name]:
        plan = plan.replacing(group.name, data.draw(kept_indices(group)))
    assert difference(MODELS[name], GROUPS[name], plan) <= 1e-9


def test_masking_changes_the_output_and_cutting_the_widths() -> None:
    model, groups = MODELS["patch 4"], GROUPS["patch 4"]
    plan = Plan().replacing("residual", range(8)).replacing("blocks.0.mlp", range(3))
    masked = mask(model.module, groups, plan)
    images = images_for(model)
    assert (masked(images) - model.module(images)).abs().max() > 1e-3
    config, smaller = cut(model.family, model.config, model.module, groups, plan)
    assert config.embed_dim == 8
    assert config.mlp_widths == (3, 20)
    assert smaller.get_parameter("head.weight").shape == (5, 8)


def test_cut_leaves_its_argument_alone() -> None:
    model, groups = MODELS["patch 4"], GROUPS["patch 4"]
    before = model.digest
    cut(model.family, model.config, model.module, groups, Plan().replacing("stem.0", [1]))
    assert model.digest == before


def test_a_cut_that_differs_is_refused() -> None:
    model, groups = MODELS["patch 4"], GROUPS["patch 4"]
    plan = Plan().replacing("residual", range(8))
    _, wrong = cut(
        model.family, model.config, model.module, groups, Plan().replacing("residual", range(8, 16))
    )
    with pytest.raises(PruningError, match="differs from the masked one"):
        check_cut(mask(model.module, groups, plan), wrong, images_for(model))


@pytest.mark.parametrize(
    ("group", "kept", "message"),
    [
        ("nowhere", (0,), "the model has"),
        ("stem.0", (), "at least one"),
        ("stem.0", (0, 6), "out of 0..5"),
        ("stem.0", (-1, 2), "out of 0..5"),
        ("stem.0", (1, 1), "distinct"),
        ("blocks.0.attn.v", (0, 1, 8), "unequal widths"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    group: str, kept: tuple[int, ...], message: str
) -> None:
    model, groups = MODELS["patch 4"], GROUPS["patch 4"]
    plan = Plan(((group, kept),))
    with pytest.raises(PruningError, match=message):
        cut(model.family, model.config, model.module, groups, plan)
    with pytest.raises(PruningError, match=message):
        mask(model.module, groups, plan)
