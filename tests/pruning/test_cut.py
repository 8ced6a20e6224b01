"""Masking and cutting; that both agree for every group is tested in `tests/families`."""

from __future__ import annotations

import pytest
import torch
from small_models import make_model

from primesvt_deploy.analysis.groups import find_groups
from primesvt_deploy.errors import PruningError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.cut import check_cut, cut, mask
from primesvt_deploy.pruning.plan import Plan

MODEL = make_model()
MODEL.module.double()
GROUPS = find_groups(MODEL.module, MODEL.config.input_shape)


def images_for(model: SViT) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, *model.config.input_shape, generator=generator, dtype=torch.float64)


def test_masking_changes_the_output_and_cutting_the_widths() -> None:
    plan = Plan().replacing("residual", range(8)).replacing("blocks.0.mlp", range(3))
    masked = mask(MODEL.module, GROUPS, plan)
    images = images_for(MODEL)
    assert (masked(images) - MODEL.module(images)).abs().max() > 1e-3
    for name in ("conv.weight", "bn.weight", "bn.bias"):
        dense, silent = (
            m.get_parameter(f"blocks.0.mlp.fc1.{name}") for m in (MODEL.module, masked)
        )
        assert torch.equal(silent[:3], dense[:3])
        assert dense[3:].any() and not silent[3:].any()
    smaller = cut(MODEL.module, GROUPS, plan)
    assert smaller.get_parameter("blocks.0.mlp.fc1.conv.weight").shape == (3, 8, 1, 1)
    assert smaller.get_parameter("head.weight").shape == (5, 8)


def test_cut_leaves_its_argument_alone() -> None:
    before = MODEL.digest
    cut(MODEL.module, GROUPS, Plan().replacing("stem.0", [1]))
    assert MODEL.digest == before


def test_a_cut_that_differs_is_refused() -> None:
    plan = Plan().replacing("residual", range(8))
    wrong = cut(MODEL.module, GROUPS, Plan().replacing("residual", range(8, 16)))
    with pytest.raises(PruningError, match="differs from the masked one"):
        check_cut(mask(MODEL.module, GROUPS, plan), wrong, images_for(MODEL))


@pytest.mark.parametrize(
    ("group", "kept", "message"),
    [
        ("nowhere", (0,), "the model has"),
        ("stem.0", (), "at least one"),
        ("stem.0", (0, 2), "out of 0..1"),
        ("stem.0", (-1, 1), "out of 0..1"),
        ("stem.0", (1, 1), "distinct"),
        ("blocks.0.attn.v", (0, 1, 8), "unequal widths"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    group: str, kept: tuple[int, ...], message: str
) -> None:
    plan = Plan(((group, kept),))
    with pytest.raises(PruningError, match=message):
        cut(MODEL.module, GROUPS, plan)
    with pytest.raises(PruningError, match=message):
        mask(MODEL.module, GROUPS, plan)
