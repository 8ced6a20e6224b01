"""A supernet of neural architecture search is refused by name; ordinary networks are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families.vectors import FIXTURES, vector
from own_nets import Attending, Operating
from small_models import enliven
from torch import nn

from primesvt_deploy import adopt, load
from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.supernet import refuse_supernet, refuse_supernet_keys

ADVICE = "export one subnet first"


class LinearSuper(nn.Linear):
    """As AutoFormer's: the first rows and columns of a larger weight."""

    def __init__(self) -> None:
        super().__init__(6, 5)
        self.super_in_dim, self.sample_in_dim = 6, 4


class Settable(nn.Linear):
    def set_sample_config(self, width: int) -> None:
        self.width = width


def with_head(head: nn.Module) -> nn.Module:
    net = Operating(nn.Identity())
    net.head = head
    return net


def with_choices(count: int) -> nn.Module:
    net = Operating(nn.Identity())
    net.choices = nn.ModuleList([nn.Conv2d(6, 6, 2 * k + 1, padding=k) for k in range(count)])
    return net


class Chosen(Operating):
    def set_active_subnet(self, depth: int) -> None:
        self.depth = depth


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (with_head(LinearSuper()), "head of Operating .* sizes super_... and sample_..."),
        (with_head(Settable(6, 5)), "head of Operating .* a method set_sample_config"),
        (with_choices(3), "choices of Operating .* 3 choices"),
        (Chosen(nn.Identity()), r"^Chosen is part of a supernet \(it has a method set_active"),
    ],
)
def test_a_supernet_is_not_adopted(net: nn.Module, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        adopt(net, image_size=16)
    assert ADVICE in str(caught.value) and "\n" not in str(caught.value)


def test_one_choice_is_none() -> None:
    refuse_supernet(with_choices(1))
    refuse_supernet(Attending())


@pytest.mark.parametrize(
    "key",
    [
        "patch_embed_super.proj.weight",
        "blocks.0.super_fc1.weight",
        "blocks.3.attn.sample_scale",
        "blocks.0.choices.1.conv.weight",
        "stage.choice_block.0.weight",
        "cells.0.mixed_op.2.weight",
        "alphas_normal",
        "layers.1.arch_parameters",
    ],
)
def test_a_checkpoint_of_a_supernet_is_refused(key: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    state: dict[str, Any] = {**vector("spikformer_cifar")["state_dict"], key: torch.zeros(2)}
    torch.save({"model": state}, path)
    with pytest.raises(ModelError) as caught:
        load(path, timesteps=4, num_heads=2, image_size=32)
    message = str(caught.value)
    assert f"is of a supernet (its key {key})" in message and ADVICE in message
    assert "\n" not in message


def test_the_weights_of_a_supernet_are_not_loaded_into_a_subnet(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    net = enliven(Attending())
    torch.save({**net.state_dict(), "choices.0.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"w.pth is of a supernet \(its key choices.0.weight\)"):
        adopt(net, image_size=16, checkpoint=path)


@pytest.mark.parametrize("name", sorted(path.stem for path in FIXTURES.glob("*.pt")))
def test_no_known_family_is_taken_for_one(name: str) -> None:
    refuse_supernet_keys(vector(name)["state_dict"], Path("w.pth"))
    names = ("downsample.0.weight", "upsample.weight", "attn.sampler.weight", "alpha", "supervise")
    refuse_supernet_keys(names, Path("w.pth"))
