from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import make_model
from families.zoo import ZOO
from spikingjelly.activation_based import layer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from primesvt_deploy.training.strided_pointwise import subsample_before_pointwise


class Doubled(nn.Conv2d):
    def _conv_forward(self, *given: torch.Tensor) -> torch.Tensor:
        return 2.0 * super()._conv_forward(*given)


@pytest.mark.parametrize(
    ("convolution", "replaced"),
    [
        (nn.Conv2d(3, 5, 1, stride=2), True),
        (nn.Conv2d(3, 5, 1, stride=(1, 3), bias=False), True),
        (nn.Conv2d(3, 5, 1, stride=4, padding="valid"), True),
        (layer.Conv2d(3, 5, 1, stride=2, step_mode="m"), True),
        (nn.Conv2d(15, 5, 1, stride=2), True),
        (nn.Conv2d(16, 5, 1, stride=2), False),
        (nn.Conv2d(3, 5, 1), False),
        (nn.Conv2d(3, 5, 3, stride=2, padding=1), False),
        (nn.Conv2d(3, 5, 1, stride=2, padding=1), False),
        (nn.Conv2d(3, 6, 1, stride=2, groups=3), False),
        (Doubled(3, 5, 1, stride=2), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_outputs_and_gradients_stay(
    convolution: nn.Conv2d, replaced: bool, size: tuple[int, int]
) -> None:
    plain = nn.Sequential(copy.deepcopy(convolution)).double()
    network = copy.deepcopy(plain)
    subsample_before_pointwise(network)
    network = copy.deepcopy(network)  # as averaged weights are made
    assert ("_conv_forward" in vars(network[0])) == replaced
    assert (network[0].stride, str(network)) == (convolution.stride, str(plain))
    assert network.state_dict().keys() == plain.state_dict().keys()
    steps = (2,) if getattr(convolution, "step_mode", "s") == "m" else ()
    x = torch.randn(*steps, 4, convolution.in_channels, *size, dtype=torch.float64)
    found, expected = ((x.clone().requires_grad_(), net) for net in (network, plain))
    outputs = [net(inputs) for inputs, net in (found, expected)]
    torch.testing.assert_close(*outputs, rtol=0.0, atol=1e-12)
    for y in outputs:
        y.square().sum().backward()
    torch.testing.assert_close(found[0].grad, expected[0].grad, rtol=0.0, atol=1e-12)
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0.0, atol=1e-10)


def test_compiled_it_stays_right() -> None:
    """torch.compile lays every convolution out channels-last by itself."""
    plain = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 8, 1, stride=2))
    network = copy.deepcopy(plain)
    subsample_before_pointwise(network)
    graphs: list[torch.fx.GraphModule] = []

    def look(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(torch.compile(network, backend=look)(x), plain(x))
    calls = [node.args for graph in graphs for node in graph.graph.nodes if node.name != "output"]
    strides = {args[3:4] or ((1, 1),) for args in calls if len(args) >= 3}
    assert strides == {((1, 1),)}, graphs[0].code


class Convolutions(TorchDispatchMode):
    """Input channels, kernel size and stride of each convolution that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten.convolution.default:
            self.seen.add((args[1].shape[1], tuple(args[1].shape[2:]), tuple(args[3])))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["maxformer", "qkformer, ImageNet form"])
def test_a_family_with_narrow_strided_shortcuts_has_none_left(name: str) -> None:
    family, config = ZOO[name]
    network = make_model(config, family=family).module
    x = torch.randn(2, *config.input_shape)

    def narrow() -> set[int]:
        with Convolutions() as ran, torch.no_grad():
            network(x)
        assert ran.seen
        return {c for c, k, s in ran.seen if k == (1, 1) and max(s) > 1 and c < 16}

    assert narrow()
    subsample_before_pointwise(network)
    assert not narrow()
