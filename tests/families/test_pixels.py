"""Networks whose first layer takes pixels: both artifacts fire every spike of their model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from families.zoo import FORMS, ZOO, model_of

from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.lowering.passes import TracedNetwork, trace_network
from primesvt_deploy.lowering.pixel_conv import PixelConv
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.native import NativeComparison
from primesvt_deploy.verification.spikes import FlipCounter, SpikeComparison

pytestmark = pytest.mark.slow

CIFAR = "qkformer, CIFAR form, channel attention, soft reset"
SHARED = {"sdt-v2", "sdt-v3-large, two heads"}
"""Families in which layers beyond the first one see real numbers."""


def pixels_of(model: SViT, count: int) -> npt.NDArray[np.uint8]:
    shape = (count, *model.config.input_shape)
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


STEMS = [name for name in FORMS if not name.startswith(("statten", "spikingformer-cml"))]
"""Networks of each family but those with another's first layer."""


@pytest.mark.parametrize(
    ("precision", "name"),
    [(Precision.INT8, name) for name in [*STEMS, CIFAR]]
    + [(Precision.INT4, name) for name in [*STEMS[::2], CIFAR]],
)
def test_no_spike_flips(name: str, precision: Precision, tmp_path: Path) -> None:
    """At 4 bits every second family: that layer has 8 in any case, and `test_integers` the rest."""
    assert not ZOO[name][1].frames
    model, samples = model_of(name), None
    if precision is Precision.INT4:
        samples = torch.from_numpy(pixels_of(model, 4))
    quantized = quantize(model, precision.bits, samples, integer_input=True)
    assert quantized.sample_dtype == np.uint8
    traced = trace_network(quantized.module.float(), quantized.config, exact=True)
    for standard in (False, True) if precision is Precision.INT8 else (False,):
        check_onnx(name, quantized, precision, standard, traced, tmp_path / "m.onnx")
    check_native(name, quantized, precision, traced, tmp_path / "m.svit")


def check_onnx(
    name: str,
    quantized: SViT,
    precision: Precision,
    standard: bool,
    traced: TracedNetwork,
    path: Path,
) -> None:
    export_onnx(quantized, path, precision=precision, standard=standard, traced=traced)
    counts = FlipCounter(quantized, path, 1, share_float_layers=name in SHARED)
    assert (len(counts.float_layers) > 0) == (name in SHARED)
    assert first_layer(quantized) not in counts.float_layers
    logits = check(quantized, counts)
    found = OnnxModel(path).logits(pixels_of(quantized, 5))
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-5)


def check_native(
    name: str, quantized: SViT, precision: Precision, traced: TracedNetwork, path: Path
) -> None:
    artifact = export_native(
        quantized, path, precision=precision, observe_float_layers=True, traced=traced
    )
    assert first_layer(quantized) in artifact.integer_layers
    for threads in (1, 3):
        engine = NativeModel(path, threads=threads)
        logits = check(
            quantized, NativeComparison(quantized, engine, artifact, share=name in SHARED)
        )
        found = [engine.logits(one[None])[0] for one in pixels_of(quantized, 5)]
        np.testing.assert_allclose(found, logits, rtol=0, atol=1e-5)


def check(quantized: SViT, counts: SpikeComparison) -> npt.NDArray[np.float32]:
    logits = counts.compare(pixels_of(quantized, 5))
    assert counts.compared > 0
    assert not counts.per_image().any()
    assert np.abs(logits).max() > 0.01
    return logits


def first_layer(quantized: SViT) -> str:
    modules = quantized.module.named_modules()
    (name,) = (name for name, module in modules if isinstance(module, PixelConv))
    return name
