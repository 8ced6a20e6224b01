"""Test vectors: small upstream models with random weights, and what upstream made of an input.

Each file in `tests/fixtures` is a dict with upstream's `state_dict`, the input `x` [2, C, H, W]
(frames: [2, T, C, H, W]), and `y_single64`: upstream's logits of each sample alone in fp64. Where
keys alone do not tell the family, `args` are those that upstream's training script stores, or
`family` is its name.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from primesvt_deploy.families import Family, families_with, family_named, recognise
from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.model.state_dict import network_with_weights

__all__ = ["FIXTURES", "assert_live", "converted", "family_of", "singly", "vector"]

FIXTURES = Path(__file__).parent.parent / "fixtures"


def vector(name: str) -> dict[str, Any]:
    """The test vector called `name`; its dicts are the caller's, its tensors are shared."""
    content = _read(name)
    return {**content, "state_dict": dict(content["state_dict"])}


@functools.cache
def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(FIXTURES / f"{name}.pt", weights_only=True)
    return content


def family_of(name: str) -> Family:
    """The family of a test vector: by its keys and arguments, or by its name."""
    content = _read(name)
    found = families_with(content["state_dict"].keys(), content.get("args", {}))
    if len(found) == 1:
        return found[0]
    family = family_named(content["family"])
    assert family in found
    return family


def converted(
    state: dict[str, torch.Tensor], options: ModelOptions, family: Family | None = None
) -> tuple[Family, NetworkConfig, SpikingNetwork]:
    """The network, float32, that an upstream state_dict gives; its family by its keys, or given."""
    family = family or recognise(state.keys())
    assert family is not None
    config, ours = family.convert(state, options)
    return family, config, network_with_weights(family, config, ours, Path("checkpoint.pth"))


@torch.no_grad()
def singly(network: SpikingNetwork, x: torch.Tensor) -> torch.Tensor:
    """Logits `[n, K]` of the samples in `x` (the first axis), each alone, in fp64."""
    network = network.double()
    samples = [sample.unsqueeze(-4).double() for sample in x]
    return torch.cat([network(sample) for sample in samples])


@torch.no_grad()
def assert_live(network: nn.Module, batch: torch.Tensor, *, least: float = 0.005) -> None:
    """Every neuron layer both fires and stays silent: nothing is equal for want of spikes."""
    rates: dict[str, float] = {}

    def record(name: str) -> Any:
        def rate(module: Neuron, _inputs: Any, spikes: torch.Tensor) -> None:
            largest = module.parameters_.levels * module.parameters_.spike_value
            rates[name] = float(spikes.mean()) / largest

        return rate

    neurons = {n: m for n, m in network.named_modules() if isinstance(m, Neuron)}
    handles = [neuron.register_forward_hook(record(name)) for name, neuron in neurons.items()]
    with torch.no_grad():
        network(batch)
    for handle in handles:
        handle.remove()
    assert rates and rates.keys() == neurons.keys()
    dull = {name: rate for name, rate in rates.items() if not least < rate < 1.0 - least}
    assert not dull, dull
