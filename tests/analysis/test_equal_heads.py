from __future__ import annotations

from dataclasses import replace

import torch

from primesvt_deploy.analysis.equal_heads import equal_heads, keep_most_important
from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.model.svit import SViT


def group_named(model: SViT, name: str) -> Group:
    groups = find_groups(model.module, model.config.input_shape)
    return next(group for group in groups if group.name == name)


def test_the_weakest_channels_leave(tiny: SViT) -> None:
    group = group_named(tiny, "stem.1")
    importance = torch.tensor([5.0, 0.5, 4.0, 2.0])
    assert keep_most_important(importance, group, 3) == (0, 2, 3)


def test_each_head_keeps_its_own_strongest(tiny: SViT) -> None:
    group = replace(group_named(tiny, "blocks.1.attn.v"), width=8)
    assert group.heads == 2
    importance = torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 4.0, 2.0, 3.0])
    assert keep_most_important(importance, group, 4) == (0, 1, 5, 7)


def test_heads_that_lose_more_get_channels_back(tiny: SViT) -> None:
    group = replace(group_named(tiny, "blocks.1.attn.v"), width=8)
    assert equal_heads(group, {0, 1, 2, 5}, 1) == [0, 1, 3, 4, 6, 7]
    assert equal_heads(group, {0, 1, 2, 5, 6, 7}, 1) == [3, 4]
    assert equal_heads(group, {0, 1, 2, 5, 6, 7}, 3) == [0, 1, 3, 4, 5, 6]
    assert equal_heads(group, set(range(8)), 1) == [0, 4], "one channel of each head stays"
    assert equal_heads(group, set(), 3) == list(range(8))
