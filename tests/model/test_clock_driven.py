"""Code for SpikingJelly's old `clock_driven` runs as it is, or names what to write instead."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import layer as new_layer

from primesvt_deploy import adopt
from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.clock_driven import install_clock_driven

install_clock_driven()
OLD = "spikingjelly.clock_driven"
NET = """
import torch
from torch import nn
from spikingjelly.clock_driven import functional, layer
from spikingjelly.clock_driven.neuron import MultiStepIFNode, MultiStepLIFNode, surrogate
import spikingjelly.clock_driven.base as base


class Net(nn.Module):
    T = 3

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            layer.SeqToANNContainer(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)),
            MultiStepLIFNode(tau=2.0, detach_reset=True, backend="cupy"),
            layer.SeqToANNContainer(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)),
            MultiStepIFNode(0.5, None, surrogate.ATan(), True, "torch"),
            layer.MultiStepDropout(),
        )
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.net(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1))
        return functional.seq_to_ann_forward(x.mean((3, 4)), self.head).mean(0)


def build():
    assert isinstance(Net().net[1], base.MemoryModule)
    torch.manual_seed(0)
    return Net()
"""


def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> str:
    """A factory of the given code, of a module that no other test has imported."""
    name = f"nets_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return f"{name}:build"


def test_old_code_is_adopted_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adopt(factory(tmp_path, monkeypatch, NET), image_size=16)
    neurons = {
        name: module.parameters_
        for name, module in model.module.named_modules()
        if hasattr(module, "parameters_")
    }
    first, second = neurons["net.net.1"], neurons["net.net.3"]
    assert (first.tau, first.v_threshold, first.v_reset, first.decay_input) == (2.0, 1.0, 0.0, True)
    assert (second.v_threshold, second.v_reset) == (0.5, None)
    assert model.timesteps == 3


def charged(kind: str, v: torch.Tensor, x: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    """Potential before firing, as `clock_driven` 0.0.0.0.12 computes it."""
    if kind == "IF":
        return v + x
    tau = options.get("tau", options.get("init_tau", 2.0))
    rest = options.get("v_reset", 0.0) or 0.0
    taken = x / tau if options.get("decay_input", True) else x
    return v - (v - rest) / tau + taken


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("IF", {}),
        ("IF", {"v_threshold": 0.5, "v_reset": None}),
        ("LIF", {}),
        ("LIF", {"tau": 1.5, "v_reset": 0.2}),
        ("LIF", {"tau": 3.0, "decay_input": False, "v_reset": -0.1}),
        ("LIF", {"v_reset": None, "decay_input": False}),
        ("ParametricLIF", {}),
        ("ParametricLIF", {"init_tau": 3.0, "decay_input": False, "v_reset": None}),
    ],
)
def test_neurons_compute_what_they_did(kind: str, options: dict[str, Any]) -> None:
    nodes = importlib.import_module(f"{OLD}.neuron")
    many = getattr(nodes, f"MultiStep{kind}Node")(**options).double()
    one = getattr(nodes, f"{kind}Node")(**options).double()
    assert isinstance(many, type(one))
    x = 2 * torch.randn(6, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    threshold, reset = options.get("v_threshold", 1.0), options.get("v_reset", 0.0)
    v = torch.full((50,), reset or 0.0, dtype=torch.float64)
    expected = []
    for current in x:
        v = charged(kind, v, current, options)
        spikes = (v >= threshold).double()
        v = v - spikes * threshold if reset is None else (1 - spikes) * v + spikes * reset
        expected.append(spikes)
    assert torch.stack(expected).any()
    assert torch.equal(many(x), torch.stack(expected))
    assert torch.equal(torch.stack([one(current) for current in x]), torch.stack(expected))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            f"from {OLD}.neuron import MultiStepEIFNode",
            f"SpikingJelly 2 has no {OLD}.neuron.MultiStepEIFNode: use spikingjelly."
            "activation_based.neuron.EIFNode with step_mode='m' in your code",
        ),
        (
            f"from {OLD} import neuron; neuron.QIFNode()",
            "use spikingjelly.activation_based.neuron.QIFNode in your code",
        ),
        (f"from {OLD}.neuron import GeneralNode", "neuron.GeneralNode: it has none of that name"),
        (f"from {OLD} import encoding", "use spikingjelly.activation_based.encoding in your code"),
        (f"import {OLD}.spike_op", f"no {OLD}.spike_op: it has none of that name"),
        (
            f"from {OLD}.surrogate import PiecewiseLeakyReLU",
            "use spikingjelly.activation_based.surrogate.PiecewiseLeakyReLU in your code",
        ),
        (
            f"from {OLD}.neuron import MultiStepLIFNode; MultiStepLIFNode(backend='lava')",
            "ValueError: backend is 'lava': expected one of torch, cupy",
        ),
        (
            f"from {OLD}.neuron import MultiStepIFNode; MultiStepIFNode(1.0, v_threshold=0.5)",
            "TypeError: expected at most once each of v_threshold, v_reset",
        ),
        (
            "from spikingjelly.activation_based.neuron import MultiStepLIFNode",
            "in SpikingJelly 2 it is LIFNode(step_mode='m')",
        ),
        (
            "from spikingjelly.activation_based.neuron import LIFNode; LIFNode(backend='cupy')",
            "; neurons of SpikingJelly 2 take no backend: leave it out",
        ),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
    ],
)
def test_what_is_not_the_same_is_refused_with_its_new_name(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in (f"{line}\n", f"def build():\n    {line}\n"):
        name = factory(tmp_path, monkeypatch, source)
        importlib.invalidate_caches()
        with pytest.raises(ModelError) as caught:
            adopt(name, image_size=16)
        message = str(caught.value)
        assert said in message and message.startswith(f"--factory {name}")
        assert "\n" not in message


def test_it_is_asked_last_and_stands_once() -> None:
    before = list(sys.meta_path)
    install_clock_driven()
    assert sys.meta_path == before
    assert type(sys.meta_path[-1]).__module__ == "primesvt_deploy.model.clock_driven"
    layers = importlib.import_module(f"{OLD}.layer")
    assert layers.SeqToANNContainer is new_layer.SeqToANNContainer
    assert not hasattr(layers, "__wrapped__"), "inspect asks for such names"
