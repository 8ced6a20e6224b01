"""A user's own SViT: any module of SpikingJelly neurons and standard layers, as a network of ours.

The module keeps its classes and its forward pass; only its neurons are replaced, by ones that
compute the same and that the lowering knows.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from spikingjelly.activation_based import base as sj_base
from spikingjelly.activation_based import neuron as sj_neuron
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.network import Segment, SpikingNetwork
from primesvt_deploy.families.neuron import Neuron, NeuronParameters, SequenceNeuron

__all__ = ["AdoptedConfig", "AdoptedNetwork", "to_own_keys"]

_SUPPORTED = (
    sj_neuron.LIFNode,
    sj_neuron.IFNode,
    sj_neuron.ParametricLIFNode,
    sj_neuron.ILIFNode,
)
_KINDS = "IFNode, LIFNode, ParametricLIFNode or ILIFNode"
_COSMETIC = {"__init__", "__module__", "__doc__", "__qualname__", "__repr__", "extra_repr"}
_FORGET = {"__firstlineno__", "__static_attributes__", "__annotations__", "__dict__", "__weakref__"}


@dataclass(frozen=True, kw_only=True)
class AdoptedConfig(NetworkConfig):
    """How a module of the user's own is called; see `NetworkConfig`.

    Neurons keep their own parameters: `tau` and the like are not used.

    Args:
        sequence_input: the module takes `[T, N, C, H, W]`, else images `[N, C, H, W]`.
        batch_first: it takes sequences as `[N, T, C, H, W]`.
        sequence_output: it returns `[T, N, K]`, whose mean over T is taken, else `[N, K]`.
        factory: `module:function` that makes it, or "" where an object was given.
    """

    sequence_input: bool
    batch_first: bool = False
    sequence_output: bool
    factory: str = ""


class AdoptedNetwork(SpikingNetwork):
    """The user's module, `net`, with its neurons replaced.

    Args:
        config: how it is called.
        net: copied; its neurons are multi-step.

    Raises:
        ModelError: a neuron or another stateful layer that cannot be lowered; named.
    """

    classifiers = ()
    couplings_declared = False

    def __init__(self, config: AdoptedConfig, net: nn.Module) -> None:
        super().__init__(config)
        self.config = config
        self.net = _with_neurons(copy.deepcopy(net).eval(), config.timesteps)

    def fold(self, x: torch.Tensor) -> torch.Tensor:
        """The module unfolds and folds time itself."""
        return x

    def segments(self) -> tuple[Segment, ...]:
        """One: nothing is known of the inside."""
        return (Segment("net", ("net",), self.run),)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of images `[N, C, H, W]` or frames `[T, N, C, H, W]`."""
        if self.config.sequence_input:
            if x.ndim == 4:
                x = x.unsqueeze(0).repeat(self.timesteps, 1, 1, 1, 1)
            if self.config.batch_first:
                x = x.transpose(0, 1)
        logits = cast(torch.Tensor, self.net(x))
        return logits.mean(dim=0) if self.config.sequence_output else logits


def to_own_keys(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State of an `AdoptedNetwork` under the keys of the user's module."""
    return {
        key.removeprefix("net.").replace(".node.", "."): tensor for key, tensor in state.items()
    }


def _with_neurons(net: nn.Module, timesteps: int) -> nn.Module:
    found = 0
    for name, module in list(net.named_modules()):
        if isinstance(module, _SUPPORTED):
            neuron = _neuron_of(name, module, timesteps)
            if not name:
                raise ModelError("the model is a neuron by itself: expected a network")
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, neuron)
            found += 1
        elif isinstance(module, sj_base.MemoryModule | nn.RNNBase):
            raise ModelError(
                f"{name} is a {type(module).__name__}, which keeps a state that cannot be "
                f"lowered: expected neurons of SpikingJelly, {_KINDS}"
            )
    if not found:
        raise ModelError(
            f"the model ({type(net).__name__}) has no spiking neuron: expected {_KINDS} of "
            "SpikingJelly"
        )
    return net


def _neuron_of(name: str, node: Any, timesteps: int) -> Neuron:
    changed = _overridden(type(node))
    if changed:
        raise ModelError(
            f"{name} is a {type(node).__name__}, which overrides {changed[0]!r} of SpikingJelly's "
            f"neuron: expected {_KINDS} as they are"
        )
    if node.step_mode != "m":
        raise ModelError(
            f"{name} is in single-step mode: call spikingjelly.activation_based.functional."
            "set_step_mode(model, 'm') on it, so that one call takes all T timesteps"
        )
    return SequenceNeuron(_parameters(node), timesteps=timesteps, node=node)


def _overridden(kind: type) -> list[str]:
    """What the user's subclass of a supported neuron defines beyond its constructor."""
    changed: list[str] = []
    for base in kind.__mro__:
        if base in _SUPPORTED:
            return changed
        changed.extend(sorted(set(vars(base)) - _COSMETIC - _FORGET))
    return changed


def _parameters(node: Any) -> NeuronParameters:
    if isinstance(node, sj_neuron.ILIFNode):
        return NeuronParameters(
            tau=float(node.tau),
            v_threshold=float(node.v_threshold),
            v_reset=None,
            decay_input=False,
            levels=int(node.surrogate_function.max_spike_count),
        )
    tau, decay_input = math.inf, False
    if isinstance(node, sj_neuron.ParametricLIFNode):
        # In double, as SpikingJelly has it when the model is double.
        tau = 1.0 / float(node.w.detach().double().sigmoid())
        decay_input = bool(node.decay_input)
    elif isinstance(node, sj_neuron.LIFNode):
        tau, decay_input = float(node.tau), bool(node.decay_input)
    reset = None if node.v_reset is None else float(node.v_reset)
    return NeuronParameters(
        tau=tau, v_threshold=float(node.v_threshold), v_reset=reset, decay_input=decay_input
    )
