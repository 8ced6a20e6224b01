from __future__ import annotations

import copy

import pytest
import torch
from small_models import with_config
from torch import nn

from primesvt_deploy.lowering.lif import UnrolledNeuron
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT


@pytest.mark.parametrize(
    "changes",
    [{}, {"tau": 3.0}, {"v_reset": None}, {"decay_input": False}, {"timesteps": 1}],
    ids=str,
)
def test_the_lowered_module_computes_the_same(tiny: SViT, changes: dict[str, object]) -> None:
    module = with_config(tiny, **changes).module.double()
    images = torch.randn(16, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        expected, found = module(images), lower_module(module)(images)
    assert (expected - found).abs().max() <= 1e-9
    assert expected.std() > 1e-3


def test_norms_and_gains_are_gone(tiny: SViT) -> None:
    lowered = lower_module(tiny.module)
    assert not [m for m in lowered.modules() if isinstance(m, nn.BatchNorm2d)]
    neurons = [m for m in lowered.modules() if isinstance(m, UnrolledNeuron)]
    assert len(neurons) == 5 + 2 * 7
    assert all(neuron.constants.gain == 1.0 for neuron in neurons)


def test_the_argument_is_left_as_it_is(tiny: SViT) -> None:
    before = copy.deepcopy(tiny.module.state_dict())
    lower_module(tiny.module)
    after = tiny.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
