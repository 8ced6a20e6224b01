"""Follow the channels of an adopted network through the graph of its forward pass.

DepGraph (torch-pruning) follows channels through layers, but loses them in what attention is made
of: reshapes into heads, fused q, k and v, products that contract a channel axis. Here the graph is
run once on one sample, with the numbers of channels beside the values (see `channel_labels`), so
that whatever the code does to its tensors it does to these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from primesvt_deploy.analysis.channel_labels import (
    NO_CHANNEL,
    Channels,
    Planes,
)
from primesvt_deploy.analysis.channel_rules import Rules, operation_name
from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.recording import KEEPS_CHANNELS

__all__ = ["LOGITS", "ChannelTrace", "trace_channels"]

LOGITS = "they are the logits"
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d,
)  # fmt: skip
_ELEMENTWISE = (
    Neuron, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ReLU, nn.ReLU6, nn.GELU,
    nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.Softplus,
)  # fmt: skip


@dataclass
class ChannelTrace:
    """Channels as a run of the graph shows them.

    Attributes:
        channels: numbers of channels, joined.
        produced: by layer, the numbers of its output channels, `[out]`.
        normed: by batch norm, those of its channels, `[channels]`.
        consumed: by layer, those of its input channels, `[in]`.
        parameters: by name of a tensor in the code and axis, those along that axis.
        planes: by node of the graph, the planes of its tensor (or of each of its tensors).
        shapes: by node, the shape of its tensor.
        heads: planes that keep equally many channels at each index of some axes: planes, axes.
    """

    channels: Channels = field(default_factory=Channels)
    produced: dict[str, torch.Tensor] = field(default_factory=dict)
    normed: dict[str, torch.Tensor] = field(default_factory=dict)
    consumed: dict[str, torch.Tensor] = field(default_factory=dict)
    parameters: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)
    planes: dict[fx.Node, Any] = field(default_factory=dict)
    shapes: dict[fx.Node, torch.Size] = field(default_factory=dict)
    heads: list[tuple[torch.Tensor, tuple[int, ...]]] = field(default_factory=list)

    def fix_tensor(self, name: str, reason: str) -> None:
        """Fix all channels along the axes of a parameter or buffer."""
        owner, _, tail = name.rpartition(".")
        sides = [self.produced, self.normed, *([self.consumed] if tail == "weight" else [])]
        planes = [side[owner] for side in sides if owner in side]
        planes += [numbers for (own, _), numbers in self.parameters.items() if own == name]
        self.channels.fix(planes, reason)


@torch.no_grad()
def trace_channels(net: nn.Module, graph: fx.Graph, sample: torch.Tensor) -> ChannelTrace:
    """Run a recorded forward pass on one sample and follow the channels.

    Args:
        net: the module that was recorded.
        graph: of `recording.record`.
        sample: a batch of one, as the module takes it.
    """
    run = _Run(net, graph)
    run.run(sample)
    return run.trace


class _Run(fx.Interpreter):
    """Runs the graph on values, and for each node works out the planes of its result."""

    def __init__(self, net: nn.Module, graph: fx.Graph) -> None:
        super().__init__(net, garbage_collect_values=True, graph=graph)
        self.extra_traceback = False
        self.trace = ChannelTrace()
        self._rules = Rules(self.trace)
        self._stored = net.state_dict().keys()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        trace = self.trace
        if n.op == "call_module":
            layer = self.fetch_attr(str(n.target))
            x = self.env[n.args[0]] if isinstance(n.args[0], fx.Node) else None
            planes: Any = ()
            if isinstance(x, torch.Tensor) and isinstance(value, torch.Tensor):
                planes = self._layer(n, layer, x, self._planes(n.args[0]), value)
        elif n.op == "call_function":
            try:
                planes = self._rules.apply(n, self.env, value)
            except Exception:  # an operation of the user's code in a form that no rule knows
                name = operation_name(n)
                for argument in n.all_input_nodes:
                    self._rules.lose(n, self._planes(argument), f"what {name}() does with them")
                planes = ()
        elif n.op == "get_attr":
            planes = self._parameter(str(n.target), value)
        elif n.op == "output":
            trace.channels.fix(self._planes(n.args[0]), LOGITS)
            return value
        else:
            planes = ()
        trace.planes[n] = planes
        if isinstance(value, torch.Tensor):
            trace.shapes[n] = value.shape
        return value

    def _parameter(self, name: str, tensor: torch.Tensor) -> Planes:
        """Planes of a tensor of the code: one along each axis, any of which may be of channels."""
        if name not in self._stored or not tensor.is_floating_point():
            return ()  # a file of weights would not hold its new shape
        owner, _, tail = name.rpartition(".")
        layer = self.fetch_attr(owner) if owner else self.module
        if isinstance(layer, (*_LAYERS, *_NORMS)):
            return self._of_layer(owner, layer, tail, tensor)
        planes = []
        for axis, size in enumerate(tensor.shape):
            if size > 1:
                key = (name, axis)
                if key not in self.trace.parameters:
                    self.trace.parameters[key] = self.trace.channels.new(size)
                shape = [size if other == axis else 1 for other in range(tensor.ndim)]
                planes.append(self.trace.parameters[key].view(shape))
        return tuple(planes)

    def _of_layer(self, name: str, layer: Any, tail: str, tensor: torch.Tensor) -> Planes:
        """Planes of a layer's weight or statistics that code reads: its channels."""
        trace = self.trace
        sides = [trace.normed if isinstance(layer, _NORMS) else trace.produced]
        if tail == "weight" and isinstance(layer, _LAYERS):
            sides.append(trace.consumed)
        planes = []
        for axis, side in enumerate(sides):
            size = tensor.shape[axis]
            if name not in side or bool((side[name] == NO_CHANNEL).all()):
                side[name] = trace.channels.new(size)
            shape = [size if other == axis else 1 for other in range(tensor.ndim)]
            planes.append(side[name].view(shape))
        if getattr(layer, "groups", 1) > 1:
            trace.channels.fix(planes, f"code reads {name}.{tail}, of groups")
            return ()
        return tuple(planes)

    def _planes(self, node: Any) -> Planes:
        found = self.trace.planes.get(node, ())
        return found if isinstance(found, tuple) else ()

    def _layer(
        self, node: fx.Node, layer: Any, x: torch.Tensor, planes: Planes, value: torch.Tensor
    ) -> Planes:
        name = str(node.target)
        if isinstance(layer, _LAYERS):
            return self._weighted(name, layer, x, planes, value)
        if isinstance(layer, _NORMS):
            axis = _norm_axis(layer, x)
            self.trace.normed[name] = self._along(planes, axis, x, self.trace.normed.get(name))
            return planes
        if isinstance(layer, _POOLS):
            return self._rules.pooled(planes, value, 1 if "1d" in type(layer).__name__ else 2)
        keeps = isinstance(layer, _ELEMENTWISE) or getattr(layer, KEEPS_CHANNELS, False) is True
        if keeps and value.shape == x.shape:
            return planes
        self._rules.lose(node, planes, f"what {name} ({type(layer).__name__}) does with them")
        return ()

    def _weighted(
        self, name: str, layer: Any, x: torch.Tensor, planes: Planes, value: torch.Tensor
    ) -> Planes:
        trace = self.trace
        axis = value.ndim - (1 if isinstance(layer, nn.Linear) else layer.weight.ndim - 1)
        width = value.shape[axis]
        if name not in trace.produced:
            trace.produced[name] = trace.channels.new(width)
        taken = self._along(planes, axis, x, trace.consumed.get(name))
        trace.consumed[name] = taken
        groups = getattr(layer, "groups", 1)
        produced = trace.produced[name]
        if groups > 1 and groups == x.shape[axis] == width:
            trace.channels.join(taken, produced)
        elif groups > 1:
            for numbers in (taken, produced):
                trace.heads.append((numbers.view(groups, -1), (0,)))
        shape = [1] * value.ndim
        shape[axis] = width
        if isinstance(layer, nn.Linear):
            # A layer over another axis, such as tokens, leaves the channels where they are.
            beside = [plane for plane in planes if plane.shape[axis] == 1]
            return (produced.view(shape), *beside)
        return (produced.view(shape),)

    def _along(
        self, planes: Planes, axis: int, x: torch.Tensor, before: torch.Tensor | None
    ) -> torch.Tensor:
        """Numbers of the channels along an axis, `[size]`, joined where several meet in one."""
        size = x.shape[axis]
        found = torch.full((size,), NO_CHANNEL)
        for plane in planes:
            if plane.shape[axis] != size or size == 1:
                continue
            self.trace.channels.join_along(plane, axis)
            rows = plane.movedim(axis, 0).flatten(1).amax(dim=1)
            self.trace.channels.join(found, rows)
            found = torch.where(found == NO_CHANNEL, rows, found)
        if before is not None:
            self.trace.channels.join(before, found)
            found = torch.where(before == NO_CHANNEL, found, before)
        return found


def _norm_axis(layer: nn.Module, x: torch.Tensor) -> int:
    """The channel axis of a batch norm, of a SpikingJelly layer with or without a time axis."""
    if isinstance(layer, nn.BatchNorm2d):
        return x.ndim - 3
    return 2 if getattr(layer, "step_mode", "s") == "m" else 1
