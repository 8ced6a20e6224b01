"""Oddities of users' modules that a review found to break integer artifacts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import enliven
from spikingjelly.activation_based import layer, neuron
from torch import nn

from primesvt_deploy import adopt
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.spikes import FlipCounter

SeqToANN = layer.SeqToANNContainer
T = 2


def lif() -> nn.Module:
    return neuron.LIFNode(step_mode="m", v_threshold=0.5)


class Net(nn.Module):
    """A stem to spikes `[T, N, 8, 8, 8]`, what differs, a head on the mean over places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SeqToANN(nn.Conv2d(3, 8, 3, stride=2, padding=1))
        self.stem_lif, self.second_lif = lif(), lif()
        self.head = nn.Linear(8, 5)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem_lif(self.stem(x.unsqueeze(0).repeat(T, 1, 1, 1, 1)))
        x = self.second_lif(self.middle(x))
        logits: torch.Tensor = self.head(x.flatten(3).mean(-1)).mean(0)
        return logits


class CalledTwice(Net):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.third_lif = SeqToANN(nn.Conv2d(8, 8, 3, padding=1)), lif()

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.third_lif(self.conv(x))) + 0.1 * x


class Same(Net):
    def __init__(self, mode: str = "zeros") -> None:
        super().__init__()
        conv = nn.Conv2d(8, 8, 3, padding="same", padding_mode=mode)
        self.conv = SeqToANN(conv, nn.BatchNorm2d(8))

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class LinearOnReals(Net):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        real = (x * 0.3 + 0.05 * x.mean(dim=(-1, -2), keepdim=True)).sqrt()
        return self.fc(real.movedim(2, -1)).movedim(-1, 2)


class Matrices(Net):
    def __init__(self) -> None:
        super().__init__()
        self.fc = SeqToANN(nn.Linear(512, 512))

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(2)).reshape(x.shape)


class Unused(Net):
    def __init__(self) -> None:
        super().__init__()
        self.never = lif()


NETS = {
    "called twice": CalledTwice,
    "padding same": Same,
    "padding by reflection": lambda: Same("reflect"),
    "linear on reals": LinearOnReals,
    "matrices": Matrices,
    "unused neuron": Unused,
}


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", NETS)
def test_integers_of_odd_modules(name: str, bits: int, tmp_path: Path) -> None:
    model = adopt(enliven(NETS[name]()), timesteps=T, image_size=16)
    batch = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
    quantized = quantize(model, bits, torch.from_numpy(batch) if bits == 4 else None)
    precision = Precision.INT4 if bits == 4 else Precision.INT8
    artifact = export_onnx(quantized, tmp_path / "model.onnx", precision=precision)
    counts = FlipCounter(quantized, artifact.path, 1, share_float_layers=True)
    expected = counts.compare(batch)
    assert counts.compared > 0
    # Means and roots round as the machine does; integers never.
    assert counts.per_image().sum() <= 1e-3 * counts.compared
    found = counts.artifact_logits(batch)
    assert (found.argmax(1) == expected.argmax(1)).all()
    assert "net.head" not in artifact.integer_layers


def test_matrices_run_on_integers(tmp_path: Path) -> None:
    model = adopt(enliven(Matrices()), timesteps=T, image_size=16)
    artifact = export_onnx(quantize(model, 8), tmp_path / "model.onnx", precision=Precision.INT8)
    assert artifact.integer_layers == ("net.fc.0",)
    assert artifact.weight_bits == {"net.fc.0": 8}


def test_weights_that_meet_reals_are_stored_in_bytes(tmp_path: Path) -> None:
    model = adopt(enliven(LinearOnReals()), timesteps=T, image_size=16)
    quantized = quantize(model, 8)
    artifact = export_onnx(quantized, tmp_path / "model.onnx", precision=Precision.INT8)
    assert artifact.weight_bits == {"net.fc": 8}
    assert artifact.float_layers["net.fc"] == "its input is real"
    counts = FlipCounter(quantized, artifact.path, 1, share_float_layers=True)
    assert "net.fc" in counts.float_layers
