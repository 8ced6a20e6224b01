"""A copy without state."""

from __future__ import annotations

import pytest
import torch
from small_models import make_model

from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.lowering.contract import PreconditionError
from primesvt_deploy.lowering.stateless import require_stateless, stateless_copy


def test_the_copy_is_in_evaluation_mode_and_the_argument_left_as_it_is() -> None:
    network = make_model().module.train().requires_grad_(True)
    copied = stateless_copy(network)
    assert not any(module.training for module in copied.modules())
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert not any(isinstance(module, Neuron) for module in copied.modules())
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_copy_gives_the_same_logits() -> None:
    network = make_model().module.double().eval()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(stateless_copy(network)(images), network(images))


def test_a_neuron_with_state_is_named() -> None:
    network = make_model().module
    require_stateless(stateless_copy(network))
    with pytest.raises(PreconditionError, match=r"stem\.0\.neuron keeps state"):
        require_stateless(network)
