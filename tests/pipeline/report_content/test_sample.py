from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from families.zoo import ZOO, model_of
from small_models import make_model

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.report_content.sample import sample_image
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.verification.spikes import observed


def random_images(model: SViT, count: int = 3) -> ImageList:
    """Images labelled as the model classifies them, but for the first."""
    steps = model.preprocessing
    shape = steps.sample_shape
    if len(shape) == 3:
        shape = (*shape[1:], shape[0])
    pixels = np.random.default_rng(5).integers(0, 4, (count, *shape), dtype=np.uint8)
    pixels = 60 * pixels if not model.config.frames else pixels
    inputs = steps.normalise(steps.crop_batch(pixels))
    labels = model.logits(torch.from_numpy(inputs)).argmax(dim=1).numpy()
    labels[0] = (labels[0] + 1) % len(model.labels)
    return ImageList(lambda i: pixels[i], np.arange(count), labels, steps)


@pytest.mark.parametrize("name", ZOO)
def test_every_family_shows_spikes_and_an_attention_map(name: str) -> None:
    model = model_of(name)
    sample = sample_image(model, random_images(model))
    assert sample is not None
    assert sample.label == sample.predicted and sample.probability <= 1.0
    assert sample.probability >= 1.0 / model.config.num_classes
    assert 2 <= len(sample.rasters) <= 8
    for raster in sample.rasters:
        assert len(raster.rates) == model.timesteps
        assert all(0.0 <= rate <= 1.0 for row in raster.rates for rate in row)
    assert any(rate > 0.0 for r in sample.rasters for row in r.rates for rate in row)
    grid = np.array(sample.attention)
    assert grid.ndim == 2 and grid.size > 1 and grid.min() >= 0.0
    assert hasattr(model.module.get_submodule(sample.attention_layer), "proj")


def test_the_map_and_the_raster_are_the_spikes_of_that_image() -> None:
    model = make_model()
    images = random_images(model)
    sample = sample_image(model, images)
    assert sample is not None
    _, spikes = observed(model, torch.from_numpy(images.inputs(1, 2)))
    assert sample.attention_layer == "blocks.1.attn"
    expected = spikes["blocks.1.attn"].mean(dim=(0, 1)).numpy()
    assert np.allclose(sample.attention, expected, atol=1e-4)
    for raster in sample.rasters:
        fired = spikes[raster.layer].flatten(2).mean(dim=2).numpy()
        assert np.allclose(raster.rates, fired, atol=1e-4)
    assert sample.rasters[0].layer == "stem.0" and sample.rasters[-1].layer == "blocks.1.mlp.fc2"


def test_of_a_wide_layer_channels_are_chosen_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primesvt_deploy.pipeline.report_content.sample._MOST_CHANNELS", 5)
    model = make_model()
    images = random_images(model)
    sample = sample_image(model, images)
    assert sample is not None
    last = sample.rasters[-1]
    _, spikes = observed(model, torch.from_numpy(images.inputs(1, 2)))
    fired = spikes[last.layer].flatten(2).mean(dim=2).numpy()
    assert np.allclose(last.rates, fired[:, [0, 4, 8, 11, 15]], atol=1e-4)


def test_an_integer_model_is_shown_as_it_ships() -> None:
    model = make_model()
    quantized = quantize(model, 8, integer_input=True)
    images = replace(random_images(model))
    taken = torch.from_numpy(images.as_pixels().inputs(0, 3))
    images = replace(images, labels=quantized.logits(taken).argmax(dim=1).numpy())
    sample = sample_image(quantized, images)
    assert sample is not None and sample.attention and len(sample.rasters) == 8


def test_a_model_that_gets_none_right_shows_none() -> None:
    model = make_model()
    images = random_images(model, 1)
    assert sample_image(model, images) is None
