"""Networks of one channel, as MNIST's are: loaded, exported and run as those of three."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from families.test_artifacts import OPTIONS
from families.vectors import family_of, vector
from families.zoo import FORMS, ZOO
from own_nets import Convolutional
from small_models import enliven, make_model, write_model_directory

from primesvt_deploy import adopt, load
from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.families import FAMILIES
from primesvt_deploy.lowering.passes import trace_network
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.spikes import FlipCounter


def vectors() -> dict[str, str]:
    """The smallest checkpoint of images of each family, under upstream's keys."""
    found: dict[str, str] = {}
    for name in sorted(OPTIONS, key=lambda name: OPTIONS[name].image_size or 0):
        x = vector(name)["x"]
        if x.ndim == 4 and x.shape[1] == 3:
            found.setdefault(family_of(name).name, name)
    return found


VECTORS = vectors()


def first_convolution(state: dict[str, torch.Tensor]) -> str:
    return next(k for k, t in state.items() if t.ndim == 4 and t.shape[1] == 3 and t.shape[2] > 1)


def test_every_family_has_a_checkpoint() -> None:
    assert VECTORS.keys() == {family.name for family in FAMILIES}


def load_vector(name: str, path: Path, *, grey: bool) -> SViT:
    """The model that `load` makes of a test vector, of one channel if `grey`."""
    state = vector(name)["state_dict"]
    if grey:
        key = first_convolution(state)
        state[key] = state[key].sum(dim=1, keepdim=True)
    torch.save({"net": state}, path)
    return load(path, family=family_of(name).name, **asdict(OPTIONS[name]))


@pytest.mark.parametrize("name", VECTORS.values())
def test_a_grey_checkpoint_gives_what_three_equal_channels_give(name: str, tmp_path: Path) -> None:
    """Three channels of one image are one whose weights are their sum."""
    one = load_vector(name, tmp_path / "grey.pth", grey=True)
    three = load_vector(name, tmp_path / "rgb.pth", grey=False)
    assert (one.config.in_channels, three.config.in_channels) == (1, 3)
    assert one.preprocessing.channels == 1
    x = 3.0 * vector(name)["x"][:, :1].double()
    found = replace(one, module=one.module.double()).logits(x)
    expected = replace(three, module=three.module.double()).logits(x.repeat(1, 3, 1, 1))
    assert (expected[0] - expected[1]).abs().max() > 1e-2, "images make no difference"
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("frames", [None, True])
def test_ones_own_class_of_one_channel(frames: bool | None) -> None:
    net = enliven(Convolutional(channels=1))
    model = adopt(net, image_size=16, timesteps=4, frames=frames)
    x = torch.randn(model.config.example(2).shape, generator=torch.Generator().manual_seed(0))
    assert x.shape[-3:] == (1, 16, 16)
    with torch.no_grad():
        expected = net(x if frames else x.repeat(4, 1, 1, 1, 1)).mean(dim=0)
    torch.testing.assert_close(model.module(x), expected)
    assert len(model.notes) == (0 if frames else 1)


def pixels_of(model: SViT, count: int) -> np.ndarray:
    size = model.config.image_size
    return np.random.default_rng(3).integers(0, 256, (count, size, size, 1), dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS[::4])
def test_grey_artifacts_fire_the_spikes_of_their_model(name: str, tmp_path: Path) -> None:
    family, config = ZOO[name]
    made = make_model(replace(config, in_channels=1), family=family)
    model = load(write_model_directory(tmp_path / "d", made))
    images = pixels_of(model, 4)
    batch = model.preprocessing.apply_batch(images)
    assert batch.shape == (4, *model.config.input_shape)
    counts = FlipCounter(model, export_onnx(model, tmp_path / "m.onnx").path, 1)
    expected = counts.compare(batch)
    assert counts.compared > 0 and not counts.per_image().any()
    np.testing.assert_allclose(counts.artifact_logits(batch), expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(model.logits(torch.from_numpy(batch)), expected, rtol=0, atol=1e-4)
    assert np.abs(expected).max() > 0.01
    check_pixels(model, images, tmp_path)


def check_pixels(model: SViT, images: np.ndarray, folder: Path) -> None:
    """Both artifacts of a first layer that takes bytes of one channel give its model's logits."""
    quantized = quantize(model, 8, None, integer_input=True)
    assert quantized.sample_dtype == np.uint8
    traced = trace_network(quantized.module.float(), quantized.config, exact=True)
    samples = quantized.preprocessing.apply_batch(images)
    assert samples.shape[1:] == quantized.config.input_shape and samples.dtype == np.uint8
    expected = quantized.logits(torch.from_numpy(samples).float()).numpy()
    int8 = Precision.INT8
    export_onnx(quantized, folder / "p.onnx", precision=int8, traced=traced)
    export_native(quantized, folder / "p.svit", precision=int8, traced=traced)
    native = NativeModel(folder / "p.svit")
    for found in (
        OnnxModel(folder / "p.onnx").logits(samples),
        native.logits(samples),
        native.logits_of_pixels(images),
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
