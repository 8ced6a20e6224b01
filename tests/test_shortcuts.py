"""What tests make quicker is the same."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from families.zoo import FORMS, model_of
from torch import nn


class Stating(nn.Module):
    """Says itself what of it is copied."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "copied": True}


def network() -> nn.Module:
    """Modules, tensors and dicts under several names, a hook, and what is no module's own."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Stating())
    net.alias, net.again = net[0], net[0].weight  # type: ignore[assignment]
    net.shared = net[1].shared = ["list"]  # type: ignore[assignment]
    net.empty, net.other = OrderedDict(), {}  # type: ignore[assignment]
    net.empty.said = 1  # type: ignore[union-attr]
    net[1].register_forward_hook(lambda *_: None)
    return net


def described(module: nn.Module) -> list[Any]:
    """All attributes of all modules, tensors by their values."""
    return [
        (
            name,
            type(part),
            list(part.__dict__),
            str(part.__dict__.get("_forward_hooks")),
            repr(part),
        )
        for name, part in module.named_modules(remove_duplicate=False)
    ]


@pytest.mark.parametrize("name", [None, *FORMS])
def test_a_copied_network_is_what_it_always_is(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = model_of(name).module if name else network()
    quick = copy.deepcopy(net)
    monkeypatch.delattr(nn.Module, "__deepcopy__")
    usual = copy.deepcopy(net)
    assert described(quick) == described(usual)
    for key, value in usual.state_dict().items():
        found = quick.state_dict()[key]
        assert torch.equal(found, value)
        assert not value.numel() or found.data_ptr() != net.state_dict()[key].data_ptr()


def test_what_had_two_names_has_two_names() -> None:
    net = network()
    found: Any = copy.deepcopy(net)
    assert found.alias is found[0] is not net[0] and found.again is found[0].weight
    assert found.shared is found[1].shared is not net.shared
    assert found.empty.said == 1 and found.empty is not net.empty and found.other is not net.other
    assert found[2].copied
