"""Integer artifacts of users' own modules: norms folded where they can be, spikes as in torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import enliven
from own_nets import Convolutional, Flattened, Fused, attending, neurons_of_all_kinds, spikingjellys
from torch import nn

from primesvt_deploy import adopt
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize, twin_of
from primesvt_deploy.quantization.serialization import quantized_state, with_quantized_state
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.spikes import FlipCounter

pytestmark = pytest.mark.slow

NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    **{
        f"convolutional, {kind}": ((lambda n=node: enliven(Convolutional(n))), 3)
        for kind, node in neurons_of_all_kinds().items()
    },
    "convolutions of one dimension": (attending, 3),
    "SpikingJelly's Spikformer": (spikingjellys, 2),
    "flattened": (lambda: enliven(Flattened()), 2),
    "fused, tokens last": (lambda: enliven(Fused()), 2),
}


def adopted(name: str) -> SViT:
    make, timesteps = NETS[name]
    return adopt(make(), timesteps=timesteps, image_size=16)


def batch_of(model: SViT) -> np.ndarray:
    shape = (4, *model.config.input_shape)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", NETS)
def test_no_spike_flips(name: str, bits: int, tmp_path: Path) -> None:
    model = adopted(name)
    batch = batch_of(model)
    twin = quantize(model, bits, torch.from_numpy(batch) if bits == 4 else None)
    precision = Precision.INT4 if bits == 4 else Precision.INT8
    artifact = export_onnx(twin, tmp_path / "model.onnx", precision=precision)
    counts = FlipCounter(twin, artifact.path, 1, share_float_layers=True)
    expected = counts.compare(batch)
    assert counts.compared > 0
    assert not counts.per_image().any()
    np.testing.assert_allclose(counts.artifact_logits(batch), expected, rtol=0, atol=1e-5)
    assert len(artifact.integer_layers) + len(artifact.float_layers) >= 2


def test_norms_become_part_of_the_layers_before_them() -> None:
    model = adopted("SpikingJelly's Spikformer")
    twin = twin_of(model)
    left = [
        name for name, m in twin.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    assert not left
    batch = torch.from_numpy(batch_of(model)).double()
    exact = model.module.double()(batch)
    torch.testing.assert_close(twin.double()(batch), exact, rtol=0, atol=1e-9)


def test_a_norm_behind_a_transposition_stays() -> None:
    twin = twin_of(adopted("fused, tokens last"))
    left = [
        name for name, m in twin.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    assert left == ["net.qkv_bn"]


def test_a_stored_twin_comes_back() -> None:
    model = adopted("convolutions of one dimension")
    twin = quantize(model, 8)
    batch = torch.from_numpy(batch_of(model))
    assert torch.equal(
        with_quantized_state(model, quantized_state(twin)).logits(batch), twin.logits(batch)
    )
