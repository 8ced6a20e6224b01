"""Adopted networks: a user's module of SpikingJelly neurons and standard layers.

The module keeps its classes and its forward pass; only its neurons are replaced, by ones that
compute the same and that can be lowered.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based import base as sj_base
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron as sj_neuron
from torch import fx, nn
from torch.fx.node import map_aggregate

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.blocks.neuron import Neuron, NeuronParameters, SequenceNeuron
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.family import Family
from primesvt_deploy.families.module_output import output_at
from primesvt_deploy.families.network import Segment, SpikingNetwork
from primesvt_deploy.families.recording import UnrecordableError, record, replay

__all__ = ["ADOPTED", "AdoptedConfig", "AdoptedNetwork"]

_SUPPORTED = (
    sj_neuron.LIFNode,
    sj_neuron.IFNode,
    sj_neuron.ParametricLIFNode,
    sj_neuron.ILIFNode,
)
_KINDS = "IFNode, LIFNode, ParametricLIFNode or ILIFNode"
_PLACEHOLDER_TAU = 2.0
"""For PLIF neurons: `Neuron.parameters_` computes their tau from the weights."""
_COSMETIC = {"__init__", "__module__", "__doc__", "__qualname__", "__repr__", "extra_repr"}
_CLASS_METADATA = {
    "__firstlineno__",
    "__static_attributes__",
    "__annotations__",
    "__dict__",
    "__weakref__",
}


@dataclass(frozen=True, kw_only=True)
class AdoptedConfig(NetworkConfig):
    """Calling convention of a user's module; see `NetworkConfig`.

    Neurons keep their own parameters: `tau`, `v_threshold`, `v_reset` and `decay_input` are not
    used.

    Args:
        sequence_input: the module takes `[T, N, C, H, W]`, else images `[N, C, H, W]`.
        batch_first: it takes sequences as `[N, T, C, H, W]`.
        sequence_output: it returns `[T, N, K]`, whose mean over T is taken, else `[N, K]`.
        factory: `module:function` that makes the module, or "" where an object was given.
        output: path of the logits in a tuple, list or dict that it returns, such as `0` or
            `logits`; "" where it returns the logits alone.
    """

    sequence_input: bool
    batch_first: bool = False
    sequence_output: bool
    factory: str = ""
    output: str = ""


class AdoptedNetwork(SpikingNetwork):
    """The user's module, `net`, with its neurons replaced.

    Args:
        config: the module's calling convention.
        net: the user's module, copied; its neurons are in multi-step mode.

    Raises:
        ModelError: a neuron or another stateful layer cannot be lowered; names it.

    Attributes:
        graph: the module's forward pass as recorded, which runs in its place; None: it runs itself.
        unrecorded: why there is no graph.
        code: digest of the graph as it was recorded; "": there is none.
        read: names of the module's tensors whose values its code reads.
        sizes: numbers of the graph that were changed with the widths of layers.
    """

    classifiers = ()
    couplings_declared = False

    def __init__(self, config: AdoptedConfig, net: nn.Module) -> None:
        super().__init__(config)
        self.config = config
        self.net = _with_neurons(copy.deepcopy(net).eval(), config.timesteps)
        self.graph: fx.Graph | None = None
        self.unrecorded, self.code = "it was not tried", ""
        self.read: tuple[str, ...] = ()
        self.sizes: dict[str, dict[int, int]] = {}

    def record(self) -> None:
        """Record the module's forward pass, and run the record from now on.

        Nothing is recorded where its code cannot be (`unrecorded` says why): it runs as it is, and
        only channels whose number it does not hold can be pruned.
        """
        try:
            self.graph, self.read = record(
                self.net,
                self._as_taken_batch,
                self._batch_axis,
                lambda result: output_at(result, self.config.output),
            )
            self.unrecorded = ""
            self.code = hashlib.sha256(str(self.graph).encode()).hexdigest()[:16]
        except UnrecordableError as error:
            self.graph, self.unrecorded, self.code, self.read = None, str(error), "", ()

    @property
    def _batch_axis(self) -> int:
        return 1 if self.config.sequence_input and not self.config.batch_first else 0

    def _as_taken_batch(self, count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(count)
        return self.as_taken(torch.randn(self.config.example(count).shape, generator=generator))

    def as_written(self) -> AdoptedNetwork:
        """The same network run from the user's code, which names its lines where it fails.

        The record stays where layers have other widths than that code.
        """
        written = copy.copy(self)
        written.graph = self.graph if self.sizes else None
        return written

    def size_at(self, node: str, leaf: int) -> int:
        """A number in the arguments of an operation of the recorded graph.

        Args:
            node: name of the operation.
            leaf: position among all leaves of its arguments.
        """
        found: list[Any] = []
        map_aggregate(self._node(node), found.append)
        return int(found[leaf])

    def set_sizes(self, sizes: Mapping[str, Mapping[int, int]]) -> None:
        """Change numbers in the recorded graph, as the widths of layers change.

        Args:
            sizes: by name of the operation and position among the leaves of its arguments.
        """
        for name, values in sizes.items():
            if self.graph is None:
                raise ModelError("the model's forward pass is not recorded: no size can change")
            node = self._named(name)
            count = iter(range(10**9))

            def changed(
                leaf: Any, values: Mapping[int, int] = values, count: Iterator[int] = count
            ) -> Any:
                return values.get(next(count), leaf)

            node.args, node.kwargs = map_aggregate((node.args, node.kwargs), changed)
            self.sizes.setdefault(name, {}).update(values)

    def _named(self, name: str) -> fx.Node:
        for node in self.graph.nodes if self.graph is not None else ():
            if node.name == name:
                found: fx.Node = node
                return found
        raise ModelError(f"the model's code has no operation {name}: is it the same code?")

    def _node(self, name: str) -> Any:
        node = self._named(name)
        return (node.args, node.kwargs)

    def fold(self, x: torch.Tensor) -> torch.Tensor:
        """The module unfolds and folds time itself."""
        return x

    def segments(self) -> tuple[Segment, ...]:
        """The whole module as one segment, as nothing is known of its inside."""
        return (Segment("net", ("net",), self.run),)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[N, K]` of images `[N, C, H, W]` or frames `[T, N, C, H, W]`."""
        if self.graph is not None:
            with _tensors_made_like(x):
                logits = replay(self.net, self.graph, self.as_taken(x))
        else:
            logits = output_at(self.outputs(x), self.config.output)
        return logits.mean(dim=0) if self.config.sequence_output else logits

    def outputs(self, x: torch.Tensor) -> Any:
        """Whatever the user's module returns for the network's input."""
        with _tensors_made_like(x):
            return self.net(self.as_taken(x))

    def as_taken(self, x: torch.Tensor) -> torch.Tensor:
        """Images or frames as the module takes them."""
        if self.config.sequence_input:
            if x.ndim == 4:
                x = x.unsqueeze(0).repeat(self.timesteps, 1, 1, 1, 1)
            if self.config.batch_first:
                x = x.transpose(0, 1)
        return x

    def mark_unused(self) -> None:
        """Set `used` of each neuron: False where no call reaches it, so that artifacts lack it."""
        neurons = [module for module in self.modules() if isinstance(module, Neuron)]
        for neuron in neurons:
            neuron.used = False

        def mark(neuron: Any, *_: Any) -> None:
            neuron.used = True

        handles = [neuron.register_forward_hook(mark) for neuron in neurons]
        try:
            with torch.no_grad():
                self(self.config.example(1))
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _tensors_made_like(x: torch.Tensor) -> Iterator[None]:
    """Have the code's `torch.zeros(...)` be of an input's precision: checks run in float64."""
    before = torch.get_default_dtype()
    if x.dtype == before or not x.is_floating_point():
        yield
        return
    torch.set_default_dtype(x.dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _with_neurons(net: nn.Module, timesteps: int) -> nn.Module:
    # A layer may stand under two names, and is then replaced under both.
    neurons: dict[int, Neuron] = {}
    for name, module in list(net.named_modules(remove_duplicate=False)):
        if isinstance(module, _SUPPORTED):
            if not name:
                raise ModelError("the model is a neuron by itself: expected a network")
            if id(module) not in neurons:
                neurons[id(module)] = _neuron_of(name, module, timesteps)
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, neurons[id(module)])
        elif isinstance(module, sj_layer.Dropout | sj_layer.Dropout2d):
            continue  # nothing in evaluation
        elif isinstance(module, sj_base.MemoryModule | nn.RNNBase):
            raise ModelError(
                f"{name} is a {type(module).__name__}, which keeps a state that cannot be "
                f"lowered: expected neurons of SpikingJelly, {_KINDS}"
            )
    if not neurons:
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
    return SequenceNeuron(_parameters(name, node), timesteps=timesteps, node=node)


def _overridden(kind: type) -> list[str]:
    """Names that a subclass of a supported neuron defines beyond its constructor."""
    changed: list[str] = []
    for base in kind.__mro__:
        if base in _SUPPORTED:
            return changed
        changed.extend(sorted(set(vars(base)) - _COSMETIC - _CLASS_METADATA))
    return changed


def _parameters(name: str, node: Any) -> NeuronParameters:
    if isinstance(node, sj_neuron.ILIFNode):
        if int(node.surrogate_function.max_spike_count) == 1:
            raise ModelError(
                f"{name} is an ILIFNode that counts to 1, and so fires above half its threshold: "
                "expected 2 levels or more, or a LIFNode"
            )
        return NeuronParameters(
            tau=float(node.tau),
            v_threshold=float(node.v_threshold),
            v_reset=None,
            decay_input=False,
            levels=int(node.surrogate_function.max_spike_count),
        )
    tau, decay_input = math.inf, False
    if isinstance(node, sj_neuron.ParametricLIFNode):
        tau, decay_input = _PLACEHOLDER_TAU, bool(node.decay_input)
    elif isinstance(node, sj_neuron.LIFNode):
        tau, decay_input = float(node.tau), bool(node.decay_input)
    reset = None if node.v_reset is None else float(node.v_reset)
    return NeuronParameters(
        tau=tau, v_threshold=float(node.v_threshold), v_reset=reset, decay_input=decay_input
    )


def _needs_factory(*_: Any) -> Any:
    raise ModelError(
        "this is a model of a class of your own: pass --factory MODULE:FUNCTION that makes it"
    )


ADOPTED = Family(
    name="own",
    title="a class of the user's own",
    config_type=AdoptedConfig,
    network=_needs_factory,
    recognises=lambda _: False,
    convert=_needs_factory,
    options=frozenset(),
    flags="--factory --image-size [--timesteps]",
)
"""Family of adopted networks, which only a factory makes."""
