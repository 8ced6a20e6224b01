"""Python code that looks at values of the input is refused by its line; other code is taken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from own_nets import Operating
from small_models import enliven
from torch import nn

from primesvt_deploy import adopt
from primesvt_deploy.errors import ModelError

VALUE = "takes a value of a tensor that depends on the input into Python"
SHAPE = "the shape of a tensor depends on the values of the input"


def branches(x: torch.Tensor) -> torch.Tensor:
    if x.sum() > 0:
        x = 2 * x
    return x


def loops(x: torch.Tensor) -> torch.Tensor:
    while x.max() > 2:
        x = x / 2
    return x


def scales(x: torch.Tensor) -> torch.Tensor:
    return x * x.amax().item()


def counts(x: torch.Tensor) -> torch.Tensor:
    return x * int(x.max())


def asserts(x: torch.Tensor) -> torch.Tensor:
    assert (x >= 0).all(), "spikes are counts"
    return x


def through_numpy(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.sqrt(x.detach().numpy())).to(x)


def through_a_list(x: torch.Tensor) -> torch.Tensor:
    return x * max(x.flatten().tolist())


def in_place(x: torch.Tensor) -> torch.Tensor:
    kept = torch.zeros(4)
    kept[1:2] = x.flatten()[:1]
    return x if kept[1] > 0 else 2 * x


def equal(x: torch.Tensor) -> torch.Tensor:
    return x if torch.equal(x[0], x[1]) else 2 * x


def masks(x: torch.Tensor) -> torch.Tensor:
    return x + x[x > 0].sum()


def nonzero(x: torch.Tensor) -> torch.Tensor:
    return x + torch.nonzero(x).sum()


@pytest.mark.parametrize(
    ("operation", "said", "line"),
    [
        (branches, VALUE, "if x.sum() > 0:"),
        (loops, VALUE, "while x.max() > 2:"),
        (scales, VALUE, "return x * x.amax().item()"),
        (counts, VALUE, "return x * int(x.max())"),
        (asserts, VALUE, 'assert (x >= 0).all(), "spikes are counts"'),
        (through_numpy, VALUE, "return torch.from_numpy(np.sqrt(x.detach().numpy())).to(x)"),
        (through_a_list, VALUE, "return x * max(x.flatten().tolist())"),
        (in_place, VALUE, "return x if kept[1] > 0 else 2 * x"),
        (equal, VALUE, "return x if torch.equal(x[0], x[1]) else 2 * x"),
        (masks, SHAPE, "return x + x[x > 0].sum()"),
        (nonzero, SHAPE, "return x + torch.nonzero(x).sum()"),
    ],
)
def test_code_that_looks_at_values_is_refused_by_its_line(
    operation: Callable[[torch.Tensor], torch.Tensor], said: str, line: str
) -> None:
    with pytest.raises(ModelError) as caught:
        adopt(enliven(Operating(operation)), image_size=16)
    message = str(caught.value)
    assert said in message
    number = operation.__code__.co_firstlineno
    places = [f"test_data_dependence.py:{number + k}: {line}" for k in (1, 2, 3)]
    assert any(place in message for place in places), message
    assert "\n" not in message


def by_shape(x: torch.Tensor) -> torch.Tensor:
    return 2 * x if x.shape[2] > 3 else x


def by_constant(x: torch.Tensor) -> torch.Tensor:
    steps = torch.linspace(0, 1, 3)
    return x * steps[1].item() if steps.sum() > 0 else x


def by_where(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, -x)


def by_index(x: torch.Tensor) -> torch.Tensor:
    return x[:, :, torch.tensor([1, 0, 2, 3, 4, 5])]


def by_masked_assignment(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[x < 0] = 0.0
    return x


class Flagged(Operating):
    """Reads a flag, a weight's value and whether it is trained."""

    def __init__(self) -> None:
        super().__init__(self.flagged)
        self.fast = True
        self.gain = nn.Parameter(torch.ones(()))

    def flagged(self, x: torch.Tensor) -> torch.Tensor:
        if self.training or (self.fast and self.gain.item() > 0):
            return x * self.gain
        return x


@pytest.mark.parametrize(
    "net",
    [
        *(Operating(f) for f in (by_shape, by_constant, by_where, by_index, by_masked_assignment)),
        Flagged(),
    ],
    ids=["shape", "constant", "where", "index", "masked assignment", "flag"],
)
def test_code_that_looks_at_anything_else_is_adopted(net: nn.Module) -> None:
    net = enliven(net)
    assert adopt(net, image_size=16).config.num_classes == 5
