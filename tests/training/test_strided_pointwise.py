from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from families.zoo import ZOO
from small_models import make_model
from spikingjelly.activation_based import layer
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from primesvt_deploy.training.strided_pointwise import subsampled_pointwise


class Convolutions(TorchDispatchMode):
    """Input channels, kernel size and stride of each convolution that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.seen.append((args[1].shape[1], tuple(args[1].shape[2:]), tuple(args[3])))
        return func(*args, **(kwargs or {}))


class Doubled(nn.Conv2d):
    def _conv_forward(self, *given: torch.Tensor) -> torch.Tensor:
        return 2.0 * super()._conv_forward(*given)


class Bare(nn.Conv2d):
    """Calls the function as people do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, bias=self.bias, weight=self.weight, stride=self.stride[0])


@pytest.mark.parametrize(
    ("convolution", "subsampled"),
    [
        (nn.Conv2d(3, 5, 1, stride=2), True),
        (nn.Conv2d(3, 5, 1, stride=(1, 3), bias=False), True),
        (nn.Conv2d(3, 5, 1, stride=4, padding="valid"), True),
        (nn.Conv2d(15, 5, 1, stride=2), True),
        (Doubled(3, 5, 1, stride=2), True),
        (Bare(3, 5, 1, stride=2), True),
        (layer.Conv2d(3, 5, 1, stride=2, step_mode="m"), True),
        (layer.WSConv2d(3, 5, 1, stride=2, step_mode="m"), True),
        (nn.Conv2d(16, 5, 1, stride=2), False),
        (nn.Conv2d(3, 5, 3, stride=2, padding=1), False),
        (nn.Conv2d(3, 5, 1, stride=2, padding=1), False),
        (nn.Conv2d(3, 6, 1, stride=2, groups=3), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_outputs_and_gradients_stay(
    convolution: nn.Conv2d, subsampled: bool, size: tuple[int, int]
) -> None:
    network = copy.deepcopy(convolution).double()
    steps = (2,) if getattr(network, "step_mode", "s") == "m" else ()
    x = torch.randn(*steps, 4, network.in_channels, *size, dtype=torch.float64, requires_grad=True)

    def run() -> list[torch.Tensor]:
        y = network(x)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *network.parameters()])]

    expected = run()
    with Convolutions() as ran, subsampled_pointwise():
        found = run()
    assert [max(stride) == 1 for _, _, stride in ran.seen] == [subsampled]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-10)


def test_the_function_is_put_back() -> None:
    before = F.conv2d
    with pytest.raises(KeyError), subsampled_pointwise():
        assert F.conv2d is not before
        raise KeyError
    assert F.conv2d is before


def test_the_compiler_follows() -> None:
    """It lays convolutions out channels-last by itself."""
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 8, 1, stride=2))
    graphs: list[torch.fx.GraphModule] = []

    def look(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    x = torch.randn(2, 3, 16, 16)
    compiled = torch.compile(network, backend=look)
    for _ in range(2):
        with subsampled_pointwise():
            found = compiled(x)
        torch.testing.assert_close(found, network(x))
    calls = [n.args for n in graphs[0].graph.nodes if "conv2d" in str(n.target)]
    assert len(graphs) == 1, "compiled once"
    assert [args[3] for args in calls] == [(1, 1), 1], graphs[0].code


@pytest.mark.parametrize("name", ["maxformer", "qkformer, ImageNet form"])
def test_a_family_with_narrow_strided_shortcuts_has_none_left(name: str) -> None:
    family, config = ZOO[name]
    network = make_model(config, family=family).module
    x = torch.randn(2, *config.input_shape)

    def narrow() -> set[int]:
        with Convolutions() as ran, torch.no_grad():
            network(x)
        return {c for c, k, s in ran.seen if k == (1, 1) and max(s) > 1 and c < 16}

    assert narrow()
    with subsampled_pointwise():
        assert not narrow()
