"""Integer artifacts of users' own modules: norms folded where they can be, spikes as in torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from own_nets import Convolutional, Flattened, Fused, attending, neurons_of_all_kinds, spikingjellys
from small_models import enliven
from torch import nn

from primesvt_deploy import adopt
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import lower_for_quantization, quantize
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
    quantized = quantize(model, bits, torch.from_numpy(batch) if bits == 4 else None)
    precision = Precision.INT4 if bits == 4 else Precision.INT8
    artifact = export_onnx(quantized, tmp_path / "model.onnx", precision=precision)
    counts = FlipCounter(quantized, artifact.path, 1, share_float_layers=True)
    expected = counts.compare(batch)
    assert counts.compared > 0
    assert not counts.per_image().any()
    np.testing.assert_allclose(counts.artifact_logits(batch), expected, rtol=0, atol=1e-5)
    assert len(artifact.integer_layers) + len(artifact.float_layers) >= 2


def norms_of(network: nn.Module) -> list[str]:
    norm = nn.modules.batchnorm._BatchNorm
    return [name for name, module in network.named_modules() if isinstance(module, norm)]


def test_norms_become_part_of_the_layers_before_them() -> None:
    model = adopted("SpikingJelly's Spikformer")
    lowered = lower_for_quantization(model)
    assert not norms_of(lowered)
    batch = torch.from_numpy(batch_of(model)).double()
    exact = model.module.double()(batch)
    torch.testing.assert_close(lowered.double()(batch), exact, rtol=0, atol=1e-9)


def test_a_norm_behind_a_transposition_stays() -> None:
    assert norms_of(lower_for_quantization(adopted("fused, tokens last"))) == ["net.qkv_bn"]


def test_a_stored_quantized_model_comes_back() -> None:
    model = adopted("convolutions of one dimension")
    quantized = quantize(model, 8)
    batch = torch.from_numpy(batch_of(model))
    again = with_quantized_state(model, quantized_state(quantized))
    assert torch.equal(again.logits(batch), quantized.logits(batch))
