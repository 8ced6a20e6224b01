from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import neuron as sj_neuron
from spikingjelly.activation_based import surrogate

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.blocks.neuron import Neuron, NeuronParameters
from primesvt_deploy.lowering.lif import ChargeFireReset, UnrolledNeuron

PARAMETERS = st.builds(
    NeuronParameters,
    tau=st.sampled_from([1.5, 2.0, 3.0, 10.0]),
    v_threshold=st.sampled_from([0.5, 1.0, 0.3]),
    v_reset=st.sampled_from([0.0, None, 0.1, -0.25]),
    decay_input=st.booleans(),
)


INTEGER = st.builds(
    NeuronParameters,
    tau=st.sampled_from([4.0 / 3.0, 2.0, math.inf]),
    v_threshold=st.sampled_from([0.5, 1.0]),
    v_reset=st.none(),
    decay_input=st.just(False),
    levels=st.integers(2, 5),
)


def currents(steps: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(steps * 2, 3, 4, 4, generator=generator, dtype=torch.float64)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(parameters=PARAMETERS, steps=st.integers(1, 6), seed=st.integers(0, 99))
def test_unrolled_spikes_are_spikingjellys(
    parameters: NeuronParameters, steps: int, seed: int
) -> None:
    x = currents(steps, seed)
    reference = sj_neuron.LIFNode(
        tau=parameters.tau,
        decay_input=parameters.decay_input,
        v_threshold=parameters.v_threshold,
        v_reset=parameters.v_reset,
        step_mode="m",
    )
    expected = reference(x.unflatten(0, (steps, 2))).flatten(0, 1)
    neuron = Neuron(parameters, timesteps=steps)
    unrolled = UnrolledNeuron(ChargeFireReset.of(neuron))
    torch.testing.assert_close(neuron(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(unrolled(x), expected, rtol=0, atol=0)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(parameters=INTEGER, steps=st.integers(1, 4), seed=st.integers(0, 99))
def test_unrolled_counts_are_spikingjellys(
    parameters: NeuronParameters, steps: int, seed: int
) -> None:
    x = 2.0 * currents(steps, seed)
    reference = sj_neuron.ILIFNode(
        tau=parameters.tau,
        v_threshold=parameters.v_threshold,
        surrogate_function=surrogate.MultiLevelSpikeCount(parameters.levels),
        step_mode="m",
    )
    expected = reference(x.unflatten(0, (steps, 2))).flatten(0, 1)
    assert expected.max() == parameters.levels
    neuron = Neuron(parameters, timesteps=steps)
    torch.testing.assert_close(neuron(x), expected, rtol=0, atol=0)
    unrolled = UnrolledNeuron(ChargeFireReset.of(neuron))
    torch.testing.assert_close(unrolled(x), expected, rtol=0, atol=0)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(v_reset=st.sampled_from([0.0, None, -0.2]), steps=st.integers(1, 4))
def test_a_neuron_that_never_leaks_is_spikingjellys_if(v_reset: float | None, steps: int) -> None:
    x = currents(steps, 3)
    reference = sj_neuron.IFNode(v_threshold=0.8, v_reset=v_reset, step_mode="m")
    expected = reference(x.unflatten(0, (steps, 2))).flatten(0, 1)
    parameters = NeuronParameters(tau=math.inf, decay_input=False, v_threshold=0.8, v_reset=v_reset)
    neuron = Neuron(parameters, timesteps=steps)
    torch.testing.assert_close(neuron(x), expected, rtol=0, atol=0)
    unrolled = UnrolledNeuron(ChargeFireReset.of(neuron))
    torch.testing.assert_close(unrolled(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("half_up", "expected"), [(False, [0, 2, 2, 4]), (True, [1, 2, 3, 4])])
def test_halves_are_rounded_as_said(half_up: bool, expected: list[int]) -> None:
    parameters = NeuronParameters(
        tau=math.inf, decay_input=False, v_reset=None, levels=4, spike_value=0.25, half_up=half_up
    )
    x = torch.tensor([[0.5, 1.5, 2.5, 9.0]])
    neuron = Neuron(parameters, timesteps=1)
    unrolled = UnrolledNeuron(ChargeFireReset.of(neuron))
    wanted = 0.25 * torch.tensor([expected], dtype=torch.float32)
    assert torch.equal(neuron(x), wanted)
    assert torch.equal(unrolled(x), wanted)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(parameters=PARAMETERS, steps=st.integers(1, 5))
def test_a_static_input_is_presented_at_every_step(
    parameters: NeuronParameters, steps: int
) -> None:
    x = currents(1, 7)
    static = Neuron(parameters, timesteps=steps, static_input=True)
    moving = Neuron(parameters, timesteps=steps)
    expected = moving(x.repeat(steps, 1, 1, 1))
    torch.testing.assert_close(static(x), expected, rtol=0, atol=0)
    unrolled = UnrolledNeuron(ChargeFireReset.of(static))
    torch.testing.assert_close(unrolled(x), expected, rtol=0, atol=0)


def test_a_given_up_gain_is_applied_by_whoever_took_it() -> None:
    neuron = Neuron(NeuronParameters(tau=4.0), timesteps=3)
    unrolled = UnrolledNeuron(ChargeFireReset.of(neuron))
    x = currents(3, 1)
    expected = unrolled(x)
    assert unrolled.give_up_gain() == 0.25
    torch.testing.assert_close(unrolled(0.25 * x), expected, rtol=0, atol=0)


def test_the_input_is_not_written_to() -> None:
    neuron = Neuron(NeuronParameters(), timesteps=3)
    x = currents(3, 1)
    before = x.clone()
    UnrolledNeuron(ChargeFireReset.of(neuron))(x)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tau": 1.0}, "tau > 1"),
        ({"v_threshold": 0.0}, "fire at rest"),
        ({"tau": math.inf}, "divide the input to nothing"),
        ({"levels": 0}, "levels are 0"),
        ({"levels": 2}, "an integer neuron resets softly"),
        ({"v_threshold": 0.0, "v_reset": None}, "expected more than 0"),
    ],
)
def test_neurons_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        NeuronParameters(**changes)
