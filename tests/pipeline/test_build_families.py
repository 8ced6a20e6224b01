"""The whole `build` on a small network of every family, one form each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from families.zoo import FORMS, ZOO
from small_models import make_model

from primesvt_deploy import BuildSettings, SearchSettings, build, load, open_data
from primesvt_deploy.edge.runtime.session import OnnxModel

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", FORMS)
def test_a_build_of_every_family(name: str, tmp_path: Path) -> None:
    family, config = ZOO[name]
    model = make_model(config, family=family)
    size = config.image_size
    images = np.random.default_rng(0).integers(0, 256, (110, size, size, 3), dtype=np.uint8)
    logits = model.logits(torch.from_numpy(model.preprocessing.apply_batch(images)))  # type: ignore[union-attr]
    np.savez(tmp_path / "d.npz", images=images, labels=logits.argmax(dim=1).numpy())
    search = SearchSettings(max_drop=100.0, policy="uniform", rates=(0.5,), robustness_images=50)
    settings = BuildSettings(saving=15.0, search=search, verify_images=20)
    data = open_data(model, tmp_path / "d.npz")
    result = build(model, tmp_path / "bundle", settings, data=data)
    assert result.met
    assert result.manifest["verification"]["passed"]
    assert result.manifest["notes"] == ([family.note] if family.note else [])
    again = load(result.path)
    assert again.family is family
    batch = data.held_out.inputs(0, 16)
    found = OnnxModel(result.path / "model.onnx").logits(batch)
    difference = np.abs(found - again.logits(torch.from_numpy(batch)).numpy()).max(axis=1)
    # A spike that flips at its threshold may move an image's logits.
    assert np.median(difference) < 1e-4
