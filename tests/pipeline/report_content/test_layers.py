from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from families.zoo import FORMS, model_of
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import make_model
from torch import nn

from primesvt_deploy.analysis.cost import measure_cost
from primesvt_deploy.analysis.groups import find_groups
from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.report_content.layers import layer_bytes
from primesvt_deploy.pruning.cut import cut
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.report.content import LayerBytes

FLOAT = Artifact(path=Path(), bytes=0, initializer_bytes=0, layers=(), batch=None)
TINY = make_model()
GROUPS = find_groups(TINY.module, TINY.config.input_shape)
WEIGHTED = [n for n, m in TINY.module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def stored(module: nn.Module, layer: str, bits: int | None) -> int:
    """Bytes of a layer as its file has them, counted tensor by tensor."""
    total = 0
    for name, tensor in module.get_submodule(layer).named_parameters(recurse=False):
        if name != "weight" or bits is None:
            total += 4 * tensor.numel()
            continue
        rows, columns = len(tensor), math.prod(tensor.shape[1:])
        total += 4 * rows  # a scale each
        # Of four bits 64 share a multiplier, and the last group is filled up.
        total += rows * columns if bits == 8 else rows * math.ceil(columns / 64) * (32 + 1)
    return total


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_layers_are_disjoint_and_sum_to_all_weights(data: st.DataObject) -> None:
    plan = Plan()
    for group in GROUPS:
        width = group.width // group.heads
        keep = data.draw(st.integers(1, width))
        plan = plan.replacing(
            group.name, [h * width + i for h in range(group.heads) for i in range(keep)]
        )
    bits = data.draw(st.dictionaries(st.sampled_from(WEIGHTED), st.sampled_from((8, 4))))
    pruned = TINY.with_module(cut(TINY.module, GROUPS, plan))
    artifact = replace(FLOAT, weight_bits=bits)
    layers = layer_bytes(TINY, pruned, artifact, GROUPS)
    assert len({layer.layer for layer in layers}) == len(layers)
    assert sum(layer.dense for layer in layers) == measure_cost(TINY).shipped_bytes
    lowered = lower_module(pruned.module)
    assert {layer.layer: layer.shipped for layer in layers} == {
        name: stored(lowered, name, bits.get(name)) for name in WEIGHTED
    }


@pytest.mark.parametrize("name", FORMS)
def test_of_every_family_no_byte_is_left_over(name: str) -> None:
    model = model_of(name)
    groups = find_groups(model.module, model.config.input_shape)
    layers = layer_bytes(model, model, FLOAT, groups)
    assert sum(layer.dense for layer in layers) == measure_cost(model).shipped_bytes
    assert all(layer.dense == layer.shipped > 0 for layer in layers)
    assert {layer.group for layer in layers} == {"", *(group.name for group in groups)}


def test_a_layer_that_only_one_model_has(tiny: SViT) -> None:
    shipped = make_model()
    shipped.module.extra = nn.Linear(2, 3)
    del shipped.module.head.bias
    shipped.module.head.bias = None
    *others, last = layer_bytes(tiny, shipped, FLOAT, ())
    assert last == LayerBytes(layer="extra", dense=0, shipped=4 * 9)
    head = next(layer for layer in others if layer.layer == "head")
    assert (head.dense, head.shipped) == (4 * (16 * 5 + 5), 4 * 16 * 5)
