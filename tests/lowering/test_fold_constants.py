"""Silent branches leave the artifact, and what they inject is folded, without changing outputs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from families.zoo import ZOO
from small_models import TINY, make_model, write_arrays
from torch import nn

from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.data import open_data
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import VerificationError
from primesvt_deploy.lowering import passes
from primesvt_deploy.lowering.cleanup import Cleanup
from primesvt_deploy.lowering.fold_constants import FoldConstants
from primesvt_deploy.lowering.integer.lower import LowerToIntegers
from primesvt_deploy.lowering.lif import LIF_OP, ChargeFireReset, UnrolledNeuron
from primesvt_deploy.lowering.metadata import FOLDED_KEY
from primesvt_deploy.lowering.trace import trace
from primesvt_deploy.lowering.unroll import Unroll
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.spikes import FlipCounter, neuron_layers
from primesvt_deploy.verification.verify import verify_artifact, without_folded

V1, V2 = "sdt-v1", "sdt-v2"
V2_BLOCK = "stages.3.blocks.0"
V1_ATTENTION = (
    *("blocks.0.attn.entry", "blocks.0.attn.q", "blocks.0.attn.k", "blocks.0.attn.v"),
    "blocks.0.attn",
)
V2_ATTENTION = tuple(
    f"{V2_BLOCK}.attn{tail}"
    for tail in (".entry", ".q.pointwise2", ".k.pointwise2", ".v.pointwise2", "")
)


@dataclass(frozen=True)
class Case:
    """What is silenced, the layer that injects the constant, and what leaves."""

    name: str
    unit: str
    last: str
    neurons: tuple[str, ...]
    convolutions: int


CASES = {
    "v1, an MLP": Case(
        V1, "blocks.0.mlp.fc1", "blocks.0.mlp.fc2", ("blocks.0.mlp.fc1", "blocks.0.mlp.fc2"), 2
    ),
    "v1, the last MLP": Case(
        V1, "blocks.1.mlp.fc1", "blocks.1.mlp.fc2", ("blocks.1.mlp.fc1", "blocks.1.mlp.fc2"), 2
    ),
    "v1, attention": Case(V1, "blocks.0.attn.v", "blocks.0.attn.proj", V1_ATTENTION, 4),
    "v2, an MLP": Case(
        V2,
        f"{V2_BLOCK}.mlp.fc1",
        f"{V2_BLOCK}.mlp.fc2",
        (f"{V2_BLOCK}.mlp.entry", f"{V2_BLOCK}.mlp.fc1"),
        2,
    ),
    "v2, 3x3 convolutions": Case(
        V2,
        "stages.0.blocks.0.channel_conv.fc1",
        "stages.0.blocks.0.channel_conv.fc2",
        ("stages.0.blocks.0.channel_conv.entry", "stages.0.blocks.0.channel_conv.fc1"),
        2,
    ),
    "v2, the first branch, behind a repeated image": Case(
        V2,
        "stages.0.blocks.0.sep_conv.pointwise1",
        "stages.0.blocks.0.sep_conv.pointwise2",
        ("stages.0.blocks.0.sep_conv.entry", "stages.0.blocks.0.sep_conv.pointwise1"),
        3,
    ),
    "v2, attention": Case(
        V2, f"{V2_BLOCK}.attn.k.pointwise2", f"{V2_BLOCK}.attn.proj.pointwise2", V2_ATTENTION, 12
    ),
}
LAST_NORMS = ("fc2.bn", "proj.bn", "position.bn", "sep_conv.pointwise2.bn", ".norm2")


def live(name: str) -> SViT:
    """With currents around zero in its stream, so that what neurons see tells images apart."""
    family, config = ZOO[name]
    model = make_model(config, family=family)
    for unit, layer in model.module.named_modules():
        if unit.endswith(LAST_NORMS):
            layer.bias.data.sub_(0.9)
    return model


def silence(model: SViT, *units: str, current: float = 0.0) -> SViT:
    """Give the neuron behind each unit the same current everywhere, below its threshold."""
    for name in units:
        unit = model.module.get_submodule(name)
        with torch.no_grad():
            unit.conv.weight.zero_()
            for norm in (getattr(unit, "bn", None), getattr(unit, "norm2", None)):
                if norm is not None:
                    norm.weight.zero_()
                    norm.bias.fill_(current)
            if unit.conv.bias is not None:
                unit.conv.bias.zero_()
    return model


def images(model: SViT, count: int = 24) -> torch.Tensor:
    shape = (count, *model.config.input_shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def neurons(artifact: Artifact) -> set[str]:
    return {layer.name for layer in artifact.layers}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Artifacts of the same networks with all their branches."""
    path = tmp_path_factory.mktemp("dense")
    return {name: export_onnx(live(name), path / f"{name}.onnx") for name in (V1, V2)}


def assert_same_logits(model: SViT, artifact: Artifact) -> None:
    batch = images(model)
    expected = model.logits(batch).numpy()
    found = OnnxModel(artifact.path, threads=1).logits(batch.numpy())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert (found.argmax(1) == expected.argmax(1)).all()
    assert len(np.unique(expected.round(4), axis=0)) > len(batch) // 4, "images differ in logits"


@pytest.mark.parametrize("case", CASES)
def test_a_silent_branch_leaves_and_logits_stay(
    case: str, dense: dict[str, Artifact], tmp_path: Path
) -> None:
    known = CASES[case]
    model, whole = silence(live(known.name), known.unit), dense[known.name]
    artifact = export_onnx(model, tmp_path / "model.onnx")
    assert neurons(whole) - neurons(artifact) == set(known.neurons)
    before, after = operators(whole.path), operators(artifact.path)
    assert before["Conv"] - after["Conv"] == known.convolutions
    assert LIF_OP not in after
    # The constant is in a bias: no sum with an initializer is left in its place.
    assert added_constants(artifact.path) == []
    left = {e.name for e in onnx.load(artifact.path).graph.initializer}
    assert not any(name.startswith((known.unit, known.last)) for name in left)
    units = [model.module.get_submodule(name) for name in (known.unit, known.last)]
    weights = 4 * sum(unit.conv.weight.numel() for unit in units)
    assert artifact.initializer_bytes <= whole.initializer_bytes - weights
    assert_same_logits(model, artifact)
    # Were the constant another one, logits would tell.
    expected = model.logits(images(model))
    units[1].bn.bias.data.add_(0.5)
    assert (model.logits(images(model)) - expected).abs().max() > 1e-3


def added_constants(path: Path) -> list[tuple[int, ...]]:
    """Shapes of the initializers that are added to a tensor of real numbers."""
    graph = onnx.load(path).graph
    stored = {e.name: tuple(e.dims) for e in graph.initializer}
    return [
        stored[name]
        for node in graph.node
        if node.op_type == "Add"
        for name in node.input
        if len(stored.get(name, ())) == 4
    ]


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_a_live_model_exports_the_same_bytes(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = live(V1) if precision is Precision.FP32 else quantize(live(V1), 8)
    first = export_onnx(model, tmp_path / "a.onnx", precision=precision)
    monkeypatch.setattr(passes, "FoldConstants", lambda **_: lambda model: model)
    second = export_onnx(model, tmp_path / "b.onnx", precision=precision)
    assert first.path.read_bytes() == second.path.read_bytes()
    assert FOLDED_KEY.encode() not in first.path.read_bytes()


def test_a_silent_branch_of_a_spike_shortcut_leaves(tmp_path: Path) -> None:
    """Spikformer adds spikes: with the branch's last neuron silent, the sum itself vanishes."""
    model = make_model()
    whole = export_onnx(model, tmp_path / "whole.onnx")
    silence(model, "blocks.0.mlp.fc1")
    last = model.module.get_submodule("blocks.0.mlp.fc2")
    with torch.no_grad():
        # A constant current that never reaches the threshold.
        last.bn.weight.fill_(0.1)
        last.bn.bias.fill_(0.3)
    artifact = export_onnx(model, tmp_path / "model.onnx")
    assert neurons(whole) - neurons(artifact) == {"blocks.0.mlp.fc1", "blocks.0.mlp.fc2"}
    before, after = operators(whole.path), operators(artifact.path)
    assert before["Conv"] - after["Conv"] == 2
    weights = 4 * 2 * last.conv.weight.numel()
    assert artifact.initializer_bytes <= whole.initializer_bytes - weights
    found = OnnxModel(artifact.path, threads=1).logits(images(model).numpy())
    expected = model.logits(images(model)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert (found.argmax(1) == expected.argmax(1)).all()
    assert len(np.unique(expected.round(4), axis=0)) > 6


def test_a_branch_whose_last_neuron_fires_at_times_stays(tmp_path: Path) -> None:
    """Constant currents, but spikes that change over time: nothing to fold."""
    model = silence(make_model(), "blocks.0.mlp.fc1")
    with torch.no_grad():
        # tau 2: 0.6, 0.9, 1.05: the neuron fires in the last of three timesteps.
        model.module.get_submodule("blocks.0.mlp.fc2").bn.weight.zero_()
        model.module.get_submodule("blocks.0.mlp.fc2").bn.bias.fill_(1.2)
    artifact = export_onnx(model, tmp_path / "model.onnx")
    assert {"blocks.0.mlp.fc1", "blocks.0.mlp.fc2"} <= neurons(artifact)
    assert_same_logits(model, artifact)


@pytest.mark.parametrize(("current", "silent"), [(1.13, True), (1.16, False)])
def test_a_constant_current_below_what_fires_is_silent(
    current: float, silent: bool, tmp_path: Path
) -> None:
    """With tau 2 the potential comes to 7/8 of the current in three timesteps: 1.143 fires."""
    model = silence(live(V1), "blocks.0.mlp.fc1", current=current)
    artifact = export_onnx(model, tmp_path / "model.onnx")
    assert ("blocks.0.mlp.fc2" not in neurons(artifact)) == silent
    assert_same_logits(model, artifact)


def test_several_constants_go_into_one_bias(tmp_path: Path) -> None:
    """Both branches of a block, the position branch, and a whole later block."""
    units = ("blocks.0.attn.v", "blocks.0.mlp.fc1", "blocks.1.attn.k", "blocks.1.mlp.fc1")
    model = silence(live(V1), *units)
    with torch.no_grad():
        model.module.get_submodule("position").conv.weight.zero_()
    artifact = export_onnx(model, tmp_path / "model.onnx")
    assert operators(artifact.path)["Conv"] == 4, "the stem alone is left"
    assert added_constants(artifact.path) == []
    assert neurons(artifact) == {"stem.0", "stem.1", "stem.2", "head_neuron"}
    assert_same_logits(model, artifact)


# A stream with another consumer


LIF = ChargeFireReset(
    timesteps=2,
    static_input=False,
    decay=0.5,
    gain=0.5,
    offset=0.0,
    v_threshold=1.0,
    v_reset=0.0,
)


class Branches(nn.Module):
    """A stream with silent branches, and possibly another consumer of it, or call of its layer."""

    def __init__(self, branches: int, other: str) -> None:
        super().__init__()
        self.other = other
        generator = torch.Generator().manual_seed(1)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.silent = nn.ModuleList(nn.Conv2d(4, 6, 1) for _ in range(branches))
        self.last = nn.ModuleList(nn.Conv2d(6, 4, 3, padding=1) for _ in range(branches))
        self.neurons = nn.ModuleList(UnrolledNeuron(LIF) for _ in range(2 + branches))
        self.head = nn.Linear(4, 5)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        for i, conv in enumerate(self.silent):
            conv.weight.data.zero_()
            conv.bias.data.fill_(0.3 - 0.1 * i)
        self.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = stream = self.stem(torch.cat([image, image]))
        for i, conv in enumerate(self.silent):
            stream = stream + self.last[i](self.neurons[2 + i](conv(x)))
        spikes = self.neurons[1](stream)
        if self.other:
            again = x if self.other == "consumer" else self.stem(torch.cat([-image, image]))
            spikes = spikes - 2 * self.neurons[0](again)
        return self.head(spikes.mean(dim=(2, 3)).unflatten(0, (2, -1)).mean(dim=0))


def traced(branches: int, other: str = "consumer") -> tuple[Branches, ir.Model]:
    net = Branches(branches, other)
    return net, trace(net, replace(TINY, timesteps=2), None)


def assert_runs_as(net: nn.Module, graph: ir.Model) -> None:
    Cleanup()(graph)
    session = ort.InferenceSession(
        ir.serde.serialize_model(graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    (found,) = session.run(None, {"images": x.numpy()})
    np.testing.assert_allclose(found, net(x).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("branches", [1, 3])
@pytest.mark.parametrize("integer", [False, True])
def test_a_stream_with_another_consumer_keeps_one_sum(branches: int, integer: bool) -> None:
    net, graph = traced(branches)
    stem = next(v for n, v in graph.graph.initializers.items() if n == "stem.bias")
    unchanged = stem.const_value.numpy().copy()
    # Neither what the other consumer sees nor the order of addition may change.
    assert FoldConstants(exact=integer)(graph).modified
    nodes = list(graph.graph)
    assert sum(node.op_type == LIF_OP for node in nodes) == 2
    assert sum(node.op_type == "Conv" for node in nodes) == 1
    stored = [
        tuple(value.shape)
        for node in nodes
        if node.op_type == "Add"
        for value in node.inputs
        if value.const_value is not None
    ]
    assert stored == [(1, 4, 1, 1)] * (branches if integer else 1)
    assert np.array_equal(stem.const_value.numpy(), unchanged)
    if integer:
        graph = LowerToIntegers()(graph).model
    else:
        Unroll()(graph)
    assert_runs_as(net, graph)


def test_without_the_other_consumer_a_bias_takes_them() -> None:
    net, graph = traced(3, other="")
    assert FoldConstants()(graph).modified
    assert [node.op_type for node in graph.graph].count("Add") == 0
    found = graph.graph.initializers["stem.bias"].const_value.numpy()
    expected = net.stem.bias + sum(conv.bias for conv in net.last)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    Unroll()(graph)
    assert_runs_as(net, graph)


def test_a_bias_that_another_call_uses_stays_as_it_is() -> None:
    net, graph = traced(1, other="call")
    assert len(list(graph.graph.initializers["stem.bias"].uses())) == 2
    assert FoldConstants()(graph).modified
    found = graph.graph.initializers["stem.bias"].const_value.numpy()
    assert np.array_equal(found, net.stem.bias.numpy())
    assert len({node.inputs[2] for node in graph.graph if node.op_type == "Conv"}) == 2
    Unroll()(graph)
    assert_runs_as(net, graph)


class TwoConvolutions(nn.Module):
    """A silent neuron, a convolution whose bias is left, and a grouped one that receives it."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.silent = nn.Conv2d(4, 4, 1)
        self.first = nn.Conv2d(4, 6, 1)
        self.second = nn.Conv2d(6, 4, kernel_size, padding=kernel_size // 2, groups=2)
        self.neurons = nn.ModuleList(UnrolledNeuron(LIF) for _ in range(2))
        self.head = nn.Linear(4, 5)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.silent.weight.data.zero_()
        self.silent.bias.data.zero_()
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(torch.cat([x, x]))
        x = x + self.second(self.first(self.neurons[0](self.silent(x))))
        return self.head(self.neurons[1](x).mean(dim=(2, 3)).unflatten(0, (2, -1)).mean(dim=0))


@pytest.mark.parametrize(
    ("kernel_size", "exact", "left"),
    [(1, False, 1), (3, False, 4), (1, True, 4)],
    ids=["folded", "padding is seen at the border", "rounding depends on the order"],
)
def test_a_constant_goes_through_a_convolution_that_sees_nothing_else(
    kernel_size: int, exact: bool, left: int
) -> None:
    net = TwoConvolutions(kernel_size)
    graph = trace(net, replace(TINY, timesteps=2), None)
    assert FoldConstants(exact=exact)(graph).modified == (left == 1)
    assert [node.op_type for node in graph.graph].count("Conv") == left
    Unroll()(graph)
    assert_runs_as(net, graph)


# Verification and integers


def test_verification_passes_and_still_finds_what_is_wrong(tmp_path: Path) -> None:
    model = silence(live(V1), "blocks.0.mlp.fc1")
    artifact = export_onnx(model, tmp_path / "model.onnx")
    data = open_data(model, write_arrays(tmp_path / "data.npz", model))
    outcome = verify_artifact(model, artifact.path, data.search.first(32)).require()
    assert set(outcome.flips) == neurons(artifact)
    assert "blocks.0.mlp.fc2" not in outcome.flips
    assert all(neuron.used for neuron in model.module.modules() if hasattr(neuron, "used"))
    # A neuron that the artifact does not say it folded is missed as ever.
    other = onnx.load(artifact.path)
    for entry in other.metadata_props:
        if entry.key == FOLDED_KEY:
            assert json.loads(entry.value) == ["blocks.0.mlp.fc1", "blocks.0.mlp.fc2"]
            entry.value = json.dumps(["blocks.0.mlp.fc1"])
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(VerificationError, match=r"no spikes of layer blocks\.0\.mlp\.fc2"):
        verify_artifact(model, tmp_path / "other.onnx", data.search.first(32))
    # A model whose branch is live is not this artifact's.
    with pytest.raises(VerificationError):
        verify_artifact(live(V1), artifact.path, data.search.first(32)).require()


def test_neurons_that_tracing_merged_are_not_missed(tmp_path: Path) -> None:
    """Torch's exporter makes one of two layers that compute the same, such as two silent ones."""
    model = silence(live(V1), "blocks.0.attn.k", "blocks.0.attn.v", "blocks.1.attn.q")
    artifact = export_onnx(model, tmp_path / "model.onnx")
    data = open_data(model, write_arrays(tmp_path / "data.npz", model))
    outcome = verify_artifact(model, artifact.path, data.search.first(16)).require()
    assert not set(outcome.flips) & set(V1_ATTENTION)
    assert_same_logits(model, artifact)


INTEGER_CASES: dict[str, tuple[str, Sequence[str], Sequence[str]]] = {
    "v1, an MLP": (V1, ["blocks.0.mlp.fc1"], CASES["v1, an MLP"].neurons),
    "v1, attention and an MLP": (
        V1,
        ["blocks.0.attn.v", "blocks.1.mlp.fc1"],
        [*V1_ATTENTION, "blocks.1.mlp.fc1", "blocks.1.mlp.fc2"],
    ),
    "v2, an MLP": (V2, [f"{V2_BLOCK}.mlp.fc1"], CASES["v2, an MLP"].neurons),
    "v2, in streams of real numbers": (
        V2,
        ["stages.0.blocks.0.sep_conv.pointwise1", "stages.1.blocks.0.channel_conv.fc1"],
        [
            *CASES["v2, the first branch, behind a repeated image"].neurons,
            "stages.1.blocks.0.channel_conv.entry",
            "stages.1.blocks.0.channel_conv.fc1",
        ],
    ),
}


@pytest.mark.parametrize("case", INTEGER_CASES)
def test_integers_flip_no_spike(case: str, tmp_path: Path) -> None:
    name, units, gone = INTEGER_CASES[case]
    model = silence(live(name), *units)
    quantized = quantize(model, 8)
    artifact = export_onnx(quantized, tmp_path / "model.onnx", precision=Precision.INT8)
    assert neuron_layers(quantized).keys() - neurons(artifact) == set(gone)
    assert not any(
        layer.startswith(tuple(units))
        for layer in (*artifact.integer_layers, *artifact.float_layers)
    )
    batch = images(model).numpy()
    session = OnnxModel(artifact.path, threads=1)
    counts = FlipCounter(
        without_folded(quantized, session), artifact.path, 1, share_float_layers=True
    )
    expected = counts.compare(batch)
    assert counts.is_integer and counts.compared > 0
    assert not counts.per_image().any()
    np.testing.assert_allclose(counts.artifact_logits(batch), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        expected, quantized.logits(torch.from_numpy(batch)), rtol=0, atol=1e-5
    )
    assert np.abs(expected).max() > 0.01
