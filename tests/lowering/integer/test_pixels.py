"""The layer that takes pixels in an ONNX artifact: bytes in, weights stored as integers, exact."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pixel_nets import pixels
from small_models import make_model

from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.edge.runtime.profiles import LOW_MEMORY, make_profile
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import ExportError
from primesvt_deploy.lowering.metadata import FLOAT_LAYERS_KEY
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.pixel_input import take_pixels
from primesvt_deploy.quantization.quantize import lower_for_quantization, quantize
from primesvt_deploy.settings import Precision

pytestmark = pytest.mark.slow  # networks are traced


@pytest.fixture(scope="module")
def quantized() -> SViT:
    """A network whose first layer is wide enough to store integers."""
    model = make_model()
    return quantize(model, 8, integer_input=True)


def float_layers(path: Path) -> list[str]:
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    found: list[str] = json.loads(metadata[FLOAT_LAYERS_KEY])
    return found


def test_pixels_go_in_and_16_bits_are_stored(quantized: SViT, tmp_path: Path) -> None:
    artifact = export_onnx(quantized, tmp_path / "m.onnx", precision=Precision.INT8)
    graph = onnx.load(artifact.path).graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert artifact.weight_bits["stem.0.conv"] == 16
    assert float_layers(artifact.path) == ["head"]
    stored = [numpy_helper.to_array(initializer) for initializer in graph.initializer]
    assert [array.shape for array in stored if array.dtype == np.int16] == [(2, 4, 3, 3)]
    assert not any(array.shape == (2, 4, 3, 3) for array in stored if array.dtype == np.float32)
    # Whatever operators a session makes of it, the numbers are the same to the last bit.
    images = pixels(5).numpy()
    logits = OnnxModel(artifact.path, threads=1).logits(images)
    frugal = OnnxModel(artifact.path, profile=make_profile(LOW_MEMORY, "m.onnx")).logits(images)
    np.testing.assert_allclose(frugal, logits, rtol=0, atol=1e-6)
    fixed = export_onnx(quantized, tmp_path / "f.onnx", precision=Precision.INT8, batch=2)
    filled = OnnxModel(fixed.path).logits(images)
    np.testing.assert_allclose(filled, logits, rtol=0, atol=1e-6)


def test_weights_that_are_not_rounded_are_not_exact(tiny: SViT, tmp_path: Path) -> None:
    taken = take_pixels(tiny, lower_for_quantization(tiny))
    artifact = export_onnx(taken, tmp_path / "m.onnx", precision=Precision.INT8)
    assert "stem.0.conv" in float_layers(artifact.path)
    images = pixels(3)
    values = (images.double() / 255 - 0.5) / 0.25
    np.testing.assert_allclose(
        OnnxModel(artifact.path).logits(images.numpy()),
        tiny.logits(values.float()).numpy(),
        rtol=0,
        atol=1e-4,
    )
    with pytest.raises(ExportError, match=r"layer stem\.0\.conv: a convolution of pixels"):
        export_native(taken, tmp_path / "m.svit", precision=Precision.INT8)


def test_sums_beyond_24_bits_are_refused_by_the_engine(quantized: SViT, tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in quantized.module.state_dict().items()}
    try:
        with torch.no_grad():
            quantized.module.get_parameter("stem.0.conv.bias")[0] = 2.0**-60
        artifact = export_onnx(quantized, tmp_path / "m.onnx", precision=Precision.INT8)
        assert "stem.0.conv" in float_layers(artifact.path)
        with pytest.raises(
            ExportError, match=r"layer stem\.0\.conv: sums of pixels beyond 24 bits"
        ):
            export_native(quantized, tmp_path / "m.svit", precision=Precision.INT8)
    finally:
        quantized.module.load_state_dict(state)
