from __future__ import annotations

import torch

from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.analysis.importance import l2_importance
from primesvt_deploy.model.svit import SViT


def group_named(model: SViT, name: str) -> Group:
    groups = find_groups(model.module, model.config.input_shape)
    return next(group for group in groups if group.name == name)


def test_importance_is_the_l2_norm_of_the_producing_filters(tiny: SViT) -> None:
    weight = tiny.module.get_parameter("stem.1.conv.weight")
    expected = weight.detach().double().flatten(1).norm(dim=1)
    found = l2_importance(tiny.module, group_named(tiny, "stem.1"))
    torch.testing.assert_close(found, expected)


def test_importance_of_tied_layers_adds_their_filters(tiny: SViT) -> None:
    q = tiny.module.get_parameter("blocks.0.attn.q.conv.weight").detach().double().flatten(1)
    k = tiny.module.get_parameter("blocks.0.attn.k.conv.weight").detach().double().flatten(1)
    found = l2_importance(tiny.module, group_named(tiny, "blocks.0.attn.qk"))
    torch.testing.assert_close(found, (q.square().sum(1) + k.square().sum(1)).sqrt())
