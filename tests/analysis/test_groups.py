from __future__ import annotations

import pytest

from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.model.svit import SViT


@pytest.fixture
def groups(tiny: SViT) -> dict[str, Group]:
    found = find_groups(tiny.module, tiny.config.input_shape)
    return {group.name: group for group in found}


def test_every_prunable_group_of_a_spikformer_is_found(groups: dict[str, Group]) -> None:
    blocks = [f"blocks.{i}.{part}" for i in (0, 1) for part in ("attn.qk", "attn.v", "mlp")]
    assert set(groups) == {"stem.0", "stem.1", "stem.2", "residual", *blocks}


def test_the_residual_stream_ties_every_layer_that_writes_to_it(groups: dict[str, Group]) -> None:
    residual = groups["residual"]
    writers = [f"blocks.{i}.{layer}.conv" for i in (0, 1) for layer in ("attn.proj", "mlp.fc2")]
    assert set(residual.outputs) == {"stem.3.conv", "position.conv", *writers}
    consumers = [
        f"blocks.{i}.{layer}.conv"
        for i in (0, 1)
        for layer in ("attn.q", "attn.k", "attn.v", "mlp.fc1")
    ]
    assert set(residual.inputs) == {"position.conv", "head", *consumers}


def test_q_and_k_leave_together_and_apart_from_v(groups: dict[str, Group]) -> None:
    qk, v = groups["blocks.0.attn.qk"], groups["blocks.0.attn.v"]
    assert set(qk.outputs) == {"blocks.0.attn.q.conv", "blocks.0.attn.k.conv"}
    assert not qk.inputs
    assert v.outputs == ("blocks.0.attn.v.conv",)
    assert v.inputs == ("blocks.0.attn.proj.conv",)


def test_attention_groups_have_the_models_heads_and_others_none(
    tiny: SViT, groups: dict[str, Group]
) -> None:
    for name, group in groups.items():
        assert group.heads == (2 if ".attn." in name else 1)


def test_size_is_the_parameters_that_leave_with_all_channels(groups: dict[str, Group]) -> None:
    # fc1 16 -> 24, its norm (scale and shift), fc2 24 -> 16.
    assert groups["blocks.0.mlp"].size == 16 * 24 + 2 * 24 + 24 * 16
    # q and k: 16 -> 16 each with a norm each.
    assert groups["blocks.1.attn.qk"].size == 2 * (16 * 16 + 2 * 16)
    assert groups["stem.0"].size == 3 * 2 * 9 + 2 * 2 + 2 * 4 * 9


def test_groups_come_largest_first(tiny: SViT) -> None:
    sizes = [group.size for group in find_groups(tiny.module, tiny.config.input_shape)]
    assert sizes == sorted(sizes, reverse=True)


def test_finding_groups_leaves_the_model_as_it_was(tiny: SViT) -> None:
    before = tiny.digest
    find_groups(tiny.module, tiny.config.input_shape)
    assert tiny.digest == before
    assert not tiny.module.training
