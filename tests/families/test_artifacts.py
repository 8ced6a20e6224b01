"""The exported artifact of every upstream test vector gives upstream's logits."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from families import (
    test_maxformer,
    test_qkformer,
    test_sdt_v1,
    test_sdt_v2,
    test_sdt_v3,
    test_sglformer,
    test_spikformer,
    test_spikingformer,
    test_spikingresformer,
    test_statten,
)
from families.vectors import FIXTURES, converted, family_of, vector
from families.zoo import ZOO, model_of
from small_models import make_model
from trace_cache import uncached

from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.edge.runtime.frames import FrameSteps
from primesvt_deploy.families import FAMILIES
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.model.preprocessing import InputOptions, input_steps
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.verification.spikes import FlipCounter

pytestmark = pytest.mark.slow

OPTIONS: dict[str, ModelOptions] = {
    **test_spikformer.VECTORS,
    **test_spikingformer.VECTORS,
    **test_qkformer.VECTORS,
    **test_spikingresformer.VECTORS,
    **test_sdt_v1.VECTORS,
    **test_statten.VECTORS,
    **test_maxformer.VECTORS,
    **test_sdt_v2.VECTORS,
    **test_sglformer.VECTORS,
    **{name: options for name, (_, options) in test_sdt_v3.VECTORS.items()},
}
TRACED_ANEW = {
    "spikformer_cifar", "qkformer_imagenet", "spikingresformer_dvs", "sdt_v1_gesture",
    "maxformer_cifar", "sdt_v2_kd", "sdt_v3_base", "sdt_v3_large_83m", "spikingformer_cifar",
    "spikingformer_cml_cifar", "statten_dvs", "sglformer_cifar",
}  # fmt: skip
"""A vector of each family that no cache is asked for."""


LIKE_ANOTHER = {
    "spikingformer_cml_imagenet", "spikingformer_cml_dvs", "statten_sdt_dvs", "sglformer_ima2",
    "sglformer_dvs",
}  # fmt: skip
"""Vectors that have layers of others alone: their logits are held by their families' tests."""


def test_every_vector_is_known() -> None:
    assert OPTIONS.keys() == {path.stem for path in FIXTURES.glob("*.pt")}
    assert OPTIONS.keys() >= TRACED_ANEW and len(TRACED_ANEW) == len(FAMILIES)


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - LIKE_ANOTHER))
def test_the_artifact_gives_upstreams_logits(name: str, tmp_path: Path) -> None:
    recorded = vector(name)
    family, config, network = converted(recorded["state_dict"], OPTIONS[name], family_of(name))
    size = config.image_size
    model = SViT(
        name=name,
        family=family,
        config=config,
        module=network,
        preprocessing=FrameSteps(config.timesteps, config.in_channels, size, size)
        if config.frames
        else input_steps(family.inputs, config, InputOptions()),
        labels=tuple(str(i) for i in range(config.num_classes)),
    )
    with uncached() if name in TRACED_ANEW else nullcontext():
        artifact = export_onnx(model, tmp_path / "model.onnx")
    counts = FlipCounter(model, artifact.path, threads=1)
    batch = recorded["x"].float().numpy()
    counts.compare(batch)
    found = counts.artifact_logits(batch)
    expected = recorded["y_single64"]
    # Some of upstream's code gives logits at every timestep.
    expected = expected.reshape(len(batch), -1, config.num_classes).mean(dim=1)
    difference = np.abs(found - expected.numpy()).max(axis=1)
    explained = counts.per_image() > 0
    assert (difference[~explained] <= 1e-4).all(), difference
    assert counts.compared > 0
    flipped = sum(sum(steps) for steps in counts.by_layer(np.ones(len(batch), bool)).values())
    assert flipped <= 1e-3 * counts.compared
    agree = torch.from_numpy(found).argmax(1) == expected.argmax(1)
    assert agree[torch.from_numpy(~explained)].all()


@pytest.mark.parametrize(
    "name", ["spikformer, SpikingJelly", "sdt-v1", "spikingresformer, frames, PLIF"]
)
def test_a_cached_trace_gives_the_same_file(name: str, tmp_path: Path) -> None:
    """Other tests share their traces; that must not hide anything from them."""
    family, config = ZOO[name]
    export_onnx(make_model(config, seed=1, family=family), tmp_path / "other.onnx")
    model = model_of(name)
    with uncached():
        fresh = export_onnx(model, tmp_path / "fresh.onnx")
    again = export_onnx(model, tmp_path / "again.onnx")
    assert numbered(again.path) == numbered(fresh.path)
    assert again.layers == fresh.layers
    assert numbered(again.path) != numbered(tmp_path / "other.onnx")


def numbered(path: Path) -> bytes:
    """A file's content with its values numbered, and its nodes without names."""
    model = ir.load(path)
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph:
        node.name = ""
        values += node.outputs
    for number, value in enumerate(values):
        value.name = str(number)
        value.metadata_props.pop("pkg.onnxscript.optimizer.folded_from", None)  # names, too
    return ir.to_proto(model).SerializeToString(deterministic=True)
