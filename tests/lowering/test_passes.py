"""Each pass keeps its contract, and they run in the sequence that `lowering.passes` documents."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from own_nets import Convolutional
from small_models import TINY, enliven, make_model
from torch import nn

from primesvt_deploy import adopt
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.errors import ExportError
from primesvt_deploy.lowering import passes
from primesvt_deploy.lowering.cleanup import Cleanup
from primesvt_deploy.lowering.contract import PostconditionError, PreconditionError
from primesvt_deploy.lowering.fold_batchnorm import fold_batchnorm
from primesvt_deploy.lowering.fold_constants import FoldConstants
from primesvt_deploy.lowering.integer.lower import LowerToIntegers
from primesvt_deploy.lowering.lif import ChargeFireReset, UnrolledNeuron
from primesvt_deploy.lowering.neuron_pass import NeuronPass
from primesvt_deploy.lowering.stateless import stateless_copy
from primesvt_deploy.lowering.trace import trace
from primesvt_deploy.lowering.unroll import Unroll
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

LIF = ChargeFireReset(
    timesteps=2,
    static_input=False,
    decay=0.5,
    gain=1.0,
    offset=0.0,
    v_threshold=1.0,
    v_reset=0.0,
)


class Branch(nn.Module):
    """A stream, a branch whose neuron is silent, and possibly a neuron behind both."""

    def __init__(self, *, silent: bool = True, spiking: bool = True) -> None:
        super().__init__()
        self.spiking = spiking
        self.stem, self.inner, self.outer = (nn.Conv2d(n, 4, 1) for n in (3, 4, 4))
        self.neurons = nn.ModuleList(UnrolledNeuron(LIF) for _ in range(2))
        self.head = nn.Linear(4, 5)
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        if silent:
            self.inner.weight.data.zero_()
            self.inner.bias.data.fill_(0.1)
        self.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(torch.cat([image, image]))
        x = x + self.outer(self.neurons[0](self.inner(x)))
        means = (self.neurons[1](x) if self.spiking else x).mean(dim=(2, 3))
        return self.head(means.unflatten(0, (2, -1)).mean(dim=0))


@functools.cache
def _graph(**options: bool) -> ir.Model:
    return trace(Branch(**options), replace(TINY, timesteps=2), None)


def graph(**options: bool) -> ir.Model:
    """A traced graph, the test's own."""
    return _graph(**options).clone()


def written(model: ir.Model) -> bytes:
    return ir.serde.serialize_model(model).SerializeToString(deterministic=True)


NEURON_PASSES: list[Callable[[], NeuronPass]] = [Unroll, LowerToIntegers]
both_neuron_passes = pytest.mark.parametrize("neuron_pass", NEURON_PASSES)


# Whether anything was modified


def test_norms_are_folded_once() -> None:
    module = stateless_copy(make_model().module)
    assert fold_batchnorm(module).modified
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert not fold_batchnorm(module).modified
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_constants_are_folded_once() -> None:
    model = graph()
    assert FoldConstants()(model).modified
    before = written(model)
    assert not FoldConstants()(model).modified
    assert written(model) == before


@pytest.mark.parametrize("exact", [True, False])
def test_a_graph_without_silent_branches_is_not_modified(exact: bool) -> None:
    model = graph(silent=False)
    before = written(model)
    assert not FoldConstants(exact=exact)(model).modified
    assert written(model) == before


@both_neuron_passes
def test_a_graph_is_cleaned_up_once(neuron_pass: Callable[[], NeuronPass]) -> None:
    lowered = neuron_pass()(graph())
    assert lowered.modified
    assert Cleanup()(lowered).modified
    before = written(lowered.model)
    assert not Cleanup()(lowered).modified
    assert written(lowered.model) == before


def test_lowering_to_integers_leaves_the_traced_graph_as_it_is() -> None:
    model = graph()
    before = written(model)
    lowered = LowerToIntegers()(model)
    assert written(model) == before
    assert lowered.model is not model
    assert written(LowerToIntegers()(model).model) == written(lowered.model)


# What passes require


def test_neurons_must_be_stateless_before_norms_are_folded_or_a_module_is_traced() -> None:
    model = make_model()
    module = model.module.eval()
    for lower in (fold_batchnorm, lambda m: trace(m, model.config, None)):
        with pytest.raises(PreconditionError, match=r"neuron stem\.0\.neuron keeps state"):
            lower(module)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda norm: norm.train(), r"blocks\.0\.mlp\.fc1\.bn is in training mode"),
        (
            lambda norm: setattr(norm, "running_mean", None),
            r"blocks\.0\.mlp\.fc1\.bn has no running statistics",
        ),
    ],
    ids=["training", "no statistics"],
)
def test_norms_that_cannot_be_folded_are_refused(
    change: Callable[[nn.Module], Any], reason: str
) -> None:
    module = stateless_copy(make_model().module)
    change(module.get_submodule("blocks.0.mlp.fc1.bn"))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(PreconditionError, match=reason) as caught:
        fold_batchnorm(module)
    assert str(caught.value).isprintable()
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_a_norm_without_statistics_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = make_model()
    norm = model.module.get_submodule("stem.1.bn")
    norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    with pytest.raises(ExportError, match=r"stem\.1\.bn has no running statistics"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@both_neuron_passes
def test_passes_on_a_traced_graph_come_before_its_neurons_are_lowered(
    neuron_pass: Callable[[], NeuronPass],
) -> None:
    lowered = neuron_pass()(graph())
    for late in (FoldConstants(), Unroll(), LowerToIntegers()):
        before = written(lowered.model)
        with pytest.raises(PreconditionError, match="neurons are lowered already"):
            late(lowered)
        assert written(lowered.model) == before


def test_cleanup_comes_last() -> None:
    model = graph()
    before = written(model)
    with pytest.raises(PreconditionError, match=r"neuron .* is not lowered yet"):
        Cleanup()(model)
    assert written(model) == before


def test_integer_lowering_requires_one_number_of_timesteps() -> None:
    model = graph()
    first = next(node for node in model.graph if node.op_type == "LIF")
    first.attributes["timesteps"] = ir.AttrInt64("timesteps", 4)
    with pytest.raises(PreconditionError, match=r"neurons have \[2, 4\] timesteps"):
        LowerToIntegers()(model)


@pytest.mark.parametrize("late", [FoldConstants, *NEURON_PASSES])
def test_a_graph_without_neurons_is_refused(late: Callable[[], ir.passes.PassBase]) -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n"]))
    node = ir.node("Relu", [x])
    empty = ir.Graph([x], [node.outputs[0]], nodes=[node], opset_imports={"": 18})
    with pytest.raises(PreconditionError, match="no spiking neuron"):
        late()(ir.Model(empty, ir_version=8))


def test_what_is_refused_is_an_export_error_of_one_line() -> None:
    with pytest.raises(ExportError) as caught:
        Cleanup()(graph())
    assert str(caught.value).isprintable()
    assert isinstance(caught.value, ir.passes.PreconditionError)
    assert issubclass(PostconditionError, ExportError)


# What passes ensure


def test_a_network_whose_neurons_are_all_silent_is_refused() -> None:
    with pytest.raises(PostconditionError, match="every neuron of the model is in a branch"):
        FoldConstants()(graph(spiking=False))


def test_a_neuron_pass_that_leaves_a_neuron_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primesvt_deploy.lowering.unroll.neuron_nodes", lambda _: [])
    with pytest.raises(PostconditionError, match="was not lowered"):
        Unroll()(graph())


class Forgetful(Cleanup):
    """Cleans nothing up."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, modified=False)


def test_what_cleanup_leaves_behind_is_found() -> None:
    model = Unroll()(graph()).model
    Cleanup()(model)
    Forgetful()(model)
    first, second = list(model.graph)[:2]
    name = first.name
    first.name = second.name
    with pytest.raises(PostconditionError, match=f"2 nodes are called {second.name}"):
        Forgetful()(model)
    first.name = name
    spare = ir.node("Neg", [model.graph.inputs[0]], name="spare")
    model.graph.append(spare)
    with pytest.raises(PostconditionError, match="node spare computes what nothing uses"):
        Forgetful()(model)
    model.graph.remove(spare)
    tensor = ir.tensor([1.0], name="left over")
    model.graph.register_initializer(ir.Value(name="left over", const_value=tensor))
    with pytest.raises(PostconditionError, match="initializer left over is not used"):
        Forgetful()(model)


def test_a_norm_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module = stateless_copy(make_model().module)
    monkeypatch.setattr("primesvt_deploy.lowering.fold_batchnorm._fold_norms", lambda _: False)
    with pytest.raises(PostconditionError, match=r"stem\.0\.bn is still there"):
        fold_batchnorm(module)


def test_a_gain_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module = stateless_copy(make_model().module)
    monkeypatch.setattr(UnrolledNeuron, "give_up_gain", lambda _: 1.0)
    with pytest.raises(PostconditionError, match=r"stem\.0\.neuron still multiplies its input"):
        fold_batchnorm(module)


# The sequence

MODULE_PASSES = ["stateless_copy", "fold_batchnorm", "trace"]


def recorded(model: SViT, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[str]:
    """Names of the passes that lower a model, in order."""
    names: list[str] = []

    def module_pass(name: str, call: Callable[..., Any], *args: Any) -> Any:
        names.append(name)
        return call(*args)

    for name in MODULE_PASSES:
        noting = functools.partial(module_pass, name, getattr(passes, name))
        monkeypatch.setattr(passes, name, noting)
    ours = (FoldConstants, Unroll, LowerToIntegers, Cleanup)
    run = ir.passes.PassBase.__call__

    def graph_pass(self: ir.passes.PassBase, given: Any) -> ir.passes.PassResult:
        names.extend([type(self).__name__] * isinstance(self, ours))
        return run(self, given)

    monkeypatch.setattr(ir.passes.PassBase, "__call__", graph_pass)
    passes.lower_to_graph(model.module, model.config, **options)
    return names


@pytest.mark.parametrize("precision", Precision)
def test_passes_run_in_the_documented_sequence(
    precision: Precision, tiny: SViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    integer = precision is not Precision.FP32
    model = quantize(tiny, precision.bits) if integer else tiny
    found = recorded(model, monkeypatch, precision=precision)
    neurons = "LowerToIntegers" if integer else "Unroll"
    assert found == [*MODULE_PASSES, "FoldConstants", neurons, "Cleanup"]
    documented = [line.split()[0] for line in (passes.__doc__ or "").splitlines() if "   " in line]
    assert [name for name in documented if name in found] == found


def test_no_neuron_of_a_users_own_class_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle of such a class must list every neuron of it."""
    model = adopt(enliven(Convolutional()), timesteps=2, image_size=16)
    assert recorded(model, monkeypatch) == [*MODULE_PASSES, "Unroll", "Cleanup"]
