"""A quantized model at fewer timesteps has the same integers, and its artifact the same spikes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import SHALLOW, make_model

from primesvt_deploy.lowering.integer.weight_grid import grid_of
from primesvt_deploy.model.layer_matrix import Weighted
from primesvt_deploy.pruning.recovery.timesteps import with_timesteps
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.quantization.timesteps import (
    find_rescaling,
    rescaled,
    stages_from_state,
    stages_state,
)


@pytest.mark.slow
@pytest.mark.parametrize("integer_input", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
def test_only_scales_and_biases_differ(bits: int, integer_input: bool) -> None:
    model = make_model(SHALLOW)
    samples = torch.randn((8, *model.config.input_shape), generator=torch.Generator())
    quantized = quantize(model, bits, integer_input=integer_input)
    fewer = with_timesteps(model, 1, samples)
    layers = find_rescaling(quantized, model, fewer)
    stage = rescaled(quantized, fewer, layers)
    assert (stage.timesteps, stage.sample_dtype) == (1, quantized.sample_dtype)
    scaled = 0
    for name, layer in stage.module.named_modules():
        if not isinstance(layer, Weighted):
            continue
        before = quantized.module.get_submodule(name).weight.numpy()
        grid, old = grid_of(layer.weight.numpy()), grid_of(before)
        if old is None:  # a float layer, of what does not depend on T
            np.testing.assert_array_equal(layer.weight.numpy(), before)
            continue
        assert grid is not None
        np.testing.assert_array_equal(grid.codes, old.codes)
        scaled += int((grid.scales != old.scales).sum())
    assert scaled > 20

    stored = stages_from_state(stages_state({1: layers}))
    again = rescaled(quantized, model.at_timesteps(1), stored[1])
    for key, tensor in again.module.state_dict().items():
        assert torch.equal(tensor, stage.module.state_dict()[key])


@pytest.mark.slow
def test_ratios_are_near_those_of_the_norms() -> None:
    model = make_model(SHALLOW)
    samples = torch.randn((8, *model.config.input_shape), generator=torch.Generator())
    quantized = quantize(model, 8)
    same = find_rescaling(quantized, model, model)
    for name, layer in same.items():
        assert torch.equal(layer.ratio, torch.ones_like(layer.ratio))
        held = quantized.module.get_submodule(name).bias
        assert layer.bias is None or torch.equal(layer.bias, held)
    fewer = with_timesteps(model, 2, samples)
    near, exact = find_rescaling(quantized, model, fewer), quantize(fewer, 8).module
    stage = rescaled(quantized, fewer, near).module
    for name, layer in stage.named_modules():
        if isinstance(layer, Weighted):
            expected = exact.get_submodule(name).weight
            assert (layer.weight - expected).norm() <= 0.03 * expected.norm() + 1e-9
