"""What holds for the network of every family."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from families.vectors import assert_live
from families.zoo import ZOO
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from small_models import enliven, make_model

from primesvt_deploy.analysis.cost import ShippedSize
from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.families import FAMILIES
from primesvt_deploy.families.fit_widths import fit_widths
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.pruning.cut import check_cut, cut, mask
from primesvt_deploy.pruning.plan import Plan

DRAWN = settings(deadline=None, derandomize=True, phases=[Phase.generate])
"""The first example that fails is told: each takes too long to look for a smaller one."""
every_network = pytest.mark.parametrize("name", ZOO)


@functools.cache
def network_of(name: str) -> SpikingNetwork:
    family, config = ZOO[name]
    return enliven(family.build(config)).double()


@functools.cache
def groups_of(name: str) -> tuple[Group, ...]:
    return find_groups(network_of(name), ZOO[name][1].input_shape)


def touching(one: Group, other: Group) -> bool:
    """Whether a layer belongs to both."""
    layers = [{*group.outputs, *group.inputs} for group in (one, other)]
    return not layers[0].isdisjoint(layers[1])


def apart(groups: tuple[Group, ...], most: int = 6) -> list[tuple[Group, ...]]:
    """Groups that do not touch, some at a time: they are cut in one plan, for the time it takes."""
    left, sets = list(groups), []
    while left:
        chosen: list[Group] = []
        for group in left:
            if len(chosen) < most and not any(touching(group, other) for other in chosen):
                chosen.append(group)
        left = [group for group in left if group not in chosen]
        sets.append(tuple(chosen))
    return sets


def inputs(name: str, count: int = 3, seed: int = 5) -> torch.Tensor:
    config = ZOO[name][1]
    steps = (config.timesteps,) if config.frames else ()
    generator = torch.Generator().manual_seed(seed)
    shape = (*steps, count, *config.input_shape)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_every_family_is_in_the_zoo() -> None:
    assert {family.name for family, _ in ZOO.values()} == {family.name for family in FAMILIES}


@every_network
def test_every_neuron_layer_is_live(name: str) -> None:
    """Nothing below is equal for want of spikes."""
    assert_live(network_of(name), inputs(name))


@every_network
def test_logits_depend_on_the_input_and_not_on_the_call_before(name: str) -> None:
    network = network_of(name)
    with torch.no_grad():
        first = network(inputs(name))
        other = network(inputs(name, seed=9))
        assert torch.equal(network(inputs(name)), first)
    assert first.shape == (3, ZOO[name][1].num_classes)
    assert (first - other).abs().max() > 1e-3


@every_network
def test_samples_of_a_batch_do_not_touch_each_other(name: str) -> None:
    batch = inputs(name)
    axis = batch.ndim - 4
    with torch.no_grad():
        together = network_of(name)(batch)
        singly = torch.cat([network_of(name)(part) for part in batch.split(1, dim=axis)])
    torch.testing.assert_close(together, singly, rtol=0.0, atol=1e-9)


@every_network
def test_chained_segments_give_the_logits(name: str) -> None:
    network, batch = network_of(name), inputs(name)
    with torch.no_grad():
        state = network.fold(batch)
        for segment in network.segments():
            state = segment.run(state)
        assert torch.equal(state, network(batch))


@every_network
def test_segments_name_every_parameter_once(name: str) -> None:
    units = [unit for segment in network_of(name).segments() for unit in segment.units]
    owners = {
        key: [unit for unit in units if key.startswith(f"{unit}.")]
        for key, _ in network_of(name).named_parameters()
    }
    assert all(len(found) == 1 for found in owners.values()), owners


@every_network
def test_configuration_survives_json(name: str) -> None:
    family, config = ZOO[name]
    values = json.loads(json.dumps(config.to_dict()))
    assert None not in values.values(), "TOML has no null"
    assert family.config_from_dict(values) == config


@every_network
def test_lowered_network_gives_the_same_logits(name: str) -> None:
    with torch.no_grad():
        expected = network_of(name)(inputs(name))
        found = lower_module(network_of(name))(inputs(name))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-9)


@every_network
def test_lowered_network_has_no_norm_left(name: str) -> None:
    norms = [m for m in lower_module(network_of(name)).modules() if "BatchNorm" in type(m).__name__]
    assert not norms


@every_network
def test_group_names_are_distinct_and_own_every_convolution(name: str) -> None:
    groups = groups_of(name)
    assert len({group.name for group in groups}) == len(groups)
    writers = [layer for group in groups for layer in group.outputs]
    assert len(writers) == len(set(writers)), "a layer's channels are in two groups"
    layers = {
        layer
        for layer, module in network_of(name).named_modules()
        if isinstance(module, torch.nn.Conv2d) and layer not in network_of(name).classifiers
    }
    assert set(writers) == layers


def kept_indices(group: Group) -> st.SearchStrategy[tuple[int, ...]]:
    """Random kept channels, equally many in each head."""
    width = group.width // group.heads

    def spread(size: int) -> st.SearchStrategy[tuple[int, ...]]:
        head = st.sets(st.integers(0, width - 1), min_size=size, max_size=size)
        return st.tuples(*[head] * group.heads).map(
            lambda heads: tuple(h * width + i for h, chosen in enumerate(heads) for i in chosen)
        )

    return st.integers(1, width).flatmap(spread)


def difference(name: str, plan: Plan) -> float:
    network, groups = network_of(name), groups_of(name)
    return check_cut(mask(network, groups, plan), cut(network, groups, plan), inputs(name, 2))


@pytest.mark.slow
@every_network
def test_cut_equals_masked_for_every_group(name: str) -> None:
    for groups in apart(groups_of(name)):
        equal_for_any_channels_of(name, groups)


def equal_for_any_channels_of(name: str, groups: tuple[Group, ...]) -> None:
    @settings(DRAWN, max_examples=4)
    @given(data=st.data())
    def equal(data: st.DataObject) -> None:
        plan = Plan()
        for group in groups:
            plan = plan.replacing(group.name, data.draw(kept_indices(group)))
        assert difference(name, plan) <= 1e-9

    equal()


@pytest.mark.slow
@every_network
@settings(DRAWN, max_examples=5)
@given(data=st.data())
def test_cut_equals_masked_for_all_groups_at_once(name: str, data: st.DataObject) -> None:
    plan = Plan()
    for group in groups_of(name):
        plan = plan.replacing(group.name, data.draw(kept_indices(group)))
    assert difference(name, plan) <= 1e-9


@every_network
def test_cut_weights_load_into_a_network_of_the_dense_configuration(name: str) -> None:
    family, config = ZOO[name]
    plan = Plan()
    for group in groups_of(name):
        width = group.width // group.heads
        keep = [h * width + i for h in range(group.heads) for i in range(max(width // 2, 1))]
        plan = plan.replacing(group.name, keep)
    smaller = cut(network_of(name), groups_of(name), plan)
    again = family.build(config).double()
    fit_widths(again, smaller.state_dict())
    again.load_state_dict(smaller.state_dict())
    with torch.no_grad():
        assert torch.equal(again(inputs(name)), smaller(inputs(name)))


@every_network
def test_predicted_size_equals_the_cut_models(name: str) -> None:
    family, config = ZOO[name]
    model = make_model(config, family=family)
    groups = find_groups(model.module, config.input_shape)
    plan = Plan()
    for group in groups:
        width = group.width // group.heads
        keep = [h * width + i for h in range(group.heads) for i in range(-(-width // 3))]
        plan = plan.replacing(group.name, keep)
    found = ShippedSize(model, groups).parameters(plan.widths(groups))
    smaller = lower_module(cut(model.module, groups, plan))
    assert found == sum(parameter.numel() for parameter in smaller.parameters())
