"""Logits are found in whatever a user's module returns, or it is said why not."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from own_nets import Operating, hooked
from small_models import enliven, write_arrays
from torch import nn

from primesvt_deploy import BuildSettings, adopt, build, load
from primesvt_deploy.data import open_data
from primesvt_deploy.errors import ModelError

Pair = namedtuple("Pair", ["features", "logits"])


class Returning(nn.Module):
    """Returns what `packed` makes of its logits `[N, 5]` and its features `[N, 6]`."""

    T = 2

    def __init__(self, packed: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        self.inner = Operating(lambda x: x)
        self.packed = packed

    def forward(self, x: torch.Tensor) -> Any:
        features = self.inner.conv(x).mean((2, 3))
        return self.packed(self.inner(x), features)


@pytest.mark.parametrize(
    ("packed", "path"),
    [
        (lambda y, f: y, ""),
        (lambda y, f: (y, None), "0"),
        (lambda y, f: [{}, y], "1"),
        (lambda y, f: (y, f), "0"),
        (lambda y, f: (f, y), "1"),
        (lambda y, f: (y, {"stem": f[:, :, None, None], "n": 3}), "0"),
        (lambda y, f: {"features": f, "logits": y}, "logits"),
        (lambda y, f: OrderedDict(aux=(f, {"out": y})), "aux/1/out"),
        (lambda y, f: Pair(f, y), "1"),
        (lambda y, f: (y, y.mean(), y[0]), "0"),
        (lambda y, f: (torch.stack([y, y]), f), "0"),
    ],
)
def test_the_tensor_of_the_classes_is_taken(packed: Callable[..., Any], path: str) -> None:
    net = enliven(Returning(packed))
    model = adopt(net, image_size=16)
    assert (model.config.output, model.config.num_classes) == (path, 5)
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.module(x), net.inner.double()(x.double()).float())


def test_labels_decide_between_tensors_of_one_form() -> None:
    packed = enliven(Returning(lambda y, f: (f, y)))
    packed.num_classes = 7  # neither
    model = adopt(packed, image_size=16, labels=tuple("abcdef"))
    assert model.config.output == "0"
    packed.num_classes = 5
    assert adopt(packed, image_size=16).config.output == "1"


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (
            lambda y, f: (y, y + 1),
            r"returns \[3, 5\] at '0', \[3, 5\] at '1' for 3 samples and 2 timesteps, of which 2 "
            "could be its logits: return the logits alone",
        ),
        (lambda y, f: None, r"returns a NoneType without a tensor .*: expected logits"),
        (lambda y, f: {"a": "b"}, r"returns a dict without a tensor .*: expected logits"),
        (lambda y, f: y.t(), r"returns \[5, 3\] for 3 samples and 2 timesteps: expected logits"),
        (lambda y, f: y.sum(), r"returns \[\] for 3 samples"),
        (lambda y, f: [y.sum()] * 9, r"returns (\[\] at '\d', ){4}\.\.\. for 3 samples"),
        (lambda y, f: y.view(7, 7), r"could not be run: .*shape '\[7, 7\]' is invalid .*\(test_fi"),
    ],
)
def test_one_reason_is_given_where_there_are_none(packed: Callable[..., Any], said: str) -> None:
    with pytest.raises(ModelError, match=f"^Returning {said}") as caught:
        adopt(enliven(Returning(packed)), image_size=16)
    message = str(caught.value)
    assert "\n" not in message
    assert "on an input of" not in message or message.count("on an input of") == 1


@pytest.mark.slow
def test_a_bundle_of_a_module_with_hooks_loads_again(tmp_path: Path) -> None:
    """`(logits, hooks)`, as spike-driven transformers return."""
    model = adopt("own_nets:hooked", image_size=16)
    assert model.config.output == "0"
    data = open_data(model, write_arrays(tmp_path / "d.npz", model))
    settings = BuildSettings(budget_mb=20.0, verify_images=10)
    result = build(model, tmp_path / "bundle", settings, data=data)
    assert result.manifest["model"]["arguments"]["output"] == "0"
    again = load(result.path, factory="own_nets:hooked")
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again.logits(x), hooked()(x)[0], atol=1e-4, rtol=1e-4)
    with pytest.raises(ModelError, match="without an output 0"):
        load(result.path, factory="own_nets:unhooked")
