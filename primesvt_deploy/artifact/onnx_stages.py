"""Join the ONNX files of a model at several timesteps to one that stops early, and split it again.

The first stage runs; each of the others is in the branch of an `If` node, which runs only while a
sample of the batch is not sure. The `If` nodes follow one another: weights of a branch within a
branch are not packed by ONNX Runtime. All constants are in the outer graph, those of equal content
once, and so is what is computed of constants alone, as unpacked weights of 4 bits. The whole model
keeps its names, those of a stage of T timesteps begin with `T<T>/`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from primesvt_deploy.artifact.onnx_export import Artifact, write_onnx
from primesvt_deploy.artifact.shared_constants import SharedConstants
from primesvt_deploy.edge.runtime.errors import BundleError
from primesvt_deploy.edge.runtime.stages import STAGES_KEY, Stage, read_stages, stages_json
from primesvt_deploy.lowering.trace import OUTPUT

__all__ = ["TIMESTEPS", "join_stages", "split_stages"]

TIMESTEPS = "timesteps"
"""Output of a file that stops early: T behind the logits of each sample, int64 `[N]`."""


def join_stages(
    artifacts: Sequence[Artifact], stages: Sequence[Stage], path: str | os.PathLike[str]
) -> Artifact:
    """Write one ONNX file of several, which ends with the first stage that is sure of a sample.

    Args:
        artifacts: two or more of the same network for different timesteps, the whole model last.
        stages: timesteps and margin of each, in the same order.
        path: the file, replaced whole if it exists.

    Returns:
        The artifact, with layers and precision of the whole model.

    Raises:
        ExportError: the graph is not valid ONNX.
    """
    models = [onnx.load(artifact.path) for artifact in artifacts]
    joined = onnx.ModelProto()
    joined.CopyFrom(models[-1])
    shared = SharedConstants({value.name for value in joined.graph.input})
    # The whole model first: what all share has its names.
    whole = shared.adopt(models[-1].graph, "", {OUTPUT: _logits(stages[-1])})
    early = [
        shared.adopt(model.graph, _prefix(stage), {OUTPUT: _logits(stage)})
        for model, stage in zip(models[:-1], stages[:-1], strict=True)
    ]
    nodes = _chain([*early, whole], stages, shared, models[-1].graph.output[0])
    graph = joined.graph
    del graph.node[:], graph.initializer[:]
    graph.node.extend([*shared.nodes, *nodes])
    graph.initializer.extend(shared.initializers)
    graph.output.append(_like(graph.output[0], TIMESTEPS, TensorProto.INT64, 1))
    _add_imports(joined, models)
    _add_metadata(joined, models, stages)
    target = Path(path)
    write_onnx(joined, target)
    return replace(
        artifacts[-1],
        path=target,
        bytes=target.stat().st_size,
        initializer_bytes=sum(numpy_helper.to_array(x).nbytes for x in shared.initializers),
    )


def split_stages(path: str | os.PathLike[str]) -> list[onnx.ModelProto]:
    """The stages of an ONNX file, each as a model of its own, of which the logits are the output.

    Args:
        path: a file of `join_stages`, or one that does not stop early, which is a single stage.

    Raises:
        BundleError: its metadata is damaged, or of other stages.
    """
    model = onnx.load(path)
    stages = read_stages(_metadata(model))
    if not stages:
        return [model]
    choices = {f"{_prefix(stage)}if" for stage in stages}
    first = [node for node in model.graph.node if node.name not in choices]
    branches = [
        next(x.g for x in node.attribute if x.name == "then_branch")
        for node in model.graph.node
        if node.name in choices
    ]
    if len(branches) != len(stages) - 1:
        raise BundleError(
            f"{path} has {len(branches) + 1} stages, its metadata {len(stages)}: copy it again"
        )
    bodies = [first, *([*first, *branch.node] for branch in branches)]
    return [
        _alone(model, nodes, stage, is_whole=stage is stages[-1])
        for nodes, stage in zip(bodies, stages, strict=True)
    ]


@dataclass(frozen=True)
class _Result:
    """Tensors that are there after a stage.

    Args:
        logits: so far, `[N, K]`.
        timesteps: behind them, `[N]`, or one for all.
        left: which samples are not sure, `[N, 1]`.
    """

    logits: str
    timesteps: str
    left: str


def _chain(
    bodies: Sequence[list[NodeProto]],
    stages: Sequence[Stage],
    shared: SharedConstants,
    output: onnx.ValueInfoProto,
) -> list[NodeProto]:
    """Nodes of all stages: those of the first one, then an `If` for each of the others."""
    classes = output.type.tensor_type.shape.dim[-1].dim_value
    first = stages[0]
    result = _Result(_logits(first), _steps(first, shared), f"{_prefix(first)}left")
    nodes = [*bodies[0], *_decision(first, shared, classes, result.left)]
    for body, stage in zip(bodies[1:], stages[1:], strict=True):
        p, inner, after = _prefix(stage), list(body), [OUTPUT, TIMESTEPS]
        if stage is not stages[-1]:
            after = [f"{p}result.{OUTPUT}", f"{p}result.{TIMESTEPS}", f"{p}left"]
            inner += _decision(stage, shared, classes, f"{p}unsure")
            inner.append(_node("And", [f"{p}unsure", result.left], [f"{p}then.left"]))
        branches = _branches(stage, inner, result, shared, output)
        choice = helper.make_node("If", [f"{p}wanted"], after, f"{p}if", **branches)
        nodes += [*_wanted(stage, shared, result.left), choice]
        result = _Result(after[0], after[1], f"{p}left")
    return nodes


def _decision(stage: Stage, shared: SharedConstants, classes: int, unsure: str) -> list[NodeProto]:
    """Nodes that find of which samples a stage's logits are not final, `[N, 1]`."""
    p = _prefix(stage)
    # With a single class they are, whatever the margin: largest and second are the same.
    least = shared.array(stage.margin if classes > 1 else 0.0, np.float32, f"{p}least")
    count = shared.array([min(2, classes)], np.int64, f"{p}count")
    axis = shared.array([1], np.int64, f"{p}axis")
    return [
        _node("TopK", [_logits(stage), count], [f"{p}top", f"{p}places"], axis=1),
        _node("ReduceMax", [f"{p}top", axis], [f"{p}largest"], keepdims=1),
        _node("ReduceMin", [f"{p}top", axis], [f"{p}second"], keepdims=1),
        _node("Sub", [f"{p}largest", f"{p}second"], [f"{p}margin"]),
        _node("GreaterOrEqual", [f"{p}margin", least], [f"{p}sure"]),
        _node("Not", [f"{p}sure"], [unsure]),
    ]


def _wanted(stage: Stage, shared: SharedConstants, left: str) -> list[NodeProto]:
    """Nodes that find whether a stage has to run: whether any sample is left."""
    p = _prefix(stage)
    axis = shared.array([1], np.int64, f"{p}axis")
    return [
        _node("Squeeze", [left, axis], [f"{p}given"]),
        _node("Cast", [f"{p}given"], [f"{p}given.counts"], to=TensorProto.INT32),
        _node("ReduceMax", [f"{p}given.counts"], [f"{p}given.most"], keepdims=0),
        _node("Cast", [f"{p}given.most"], [f"{p}wanted"], to=TensorProto.BOOL),
    ]


def _branches(
    stage: Stage,
    inner: Sequence[NodeProto],
    before: _Result,
    shared: SharedConstants,
    output: onnx.ValueInfoProto,
) -> dict[str, onnx.GraphProto]:
    """The stage, for the samples that are left; and else what there is before it."""
    p, own = _prefix(stage), _steps(stage, shared)
    given = f"{p}given"
    goes_on = any(f"{p}then.left" in node.output for node in inner)
    left = [_node("Identity", [before.left], [f"{p}else.left"])] if goes_on else []
    parts = {
        "then": [
            *inner,
            _node("Where", [before.left, _logits(stage), before.logits], [f"{p}then.{OUTPUT}"]),
            _node("Where", [given, own, before.timesteps], [f"{p}then.{TIMESTEPS}"]),
        ],
        "else": [
            *left,
            _node("Identity", [before.logits], [f"{p}else.{OUTPUT}"]),
            # One a sample, whatever `given` is.
            _node("Where", [given, *[before.timesteps] * 2], [f"{p}else.{TIMESTEPS}"]),
        ],
    }
    graphs = {}
    for name, nodes in parts.items():
        outputs = [
            _like(output, f"{p}{name}.{OUTPUT}", TensorProto.FLOAT, 2),
            _like(output, f"{p}{name}.{TIMESTEPS}", TensorProto.INT64, 1),
        ]
        if goes_on:
            outputs.append(_like(output, f"{p}{name}.left", TensorProto.BOOL, 1, ones=1))
        graphs[f"{name}_branch"] = helper.make_graph(nodes, f"{p}{name}", [], outputs)
    return graphs


def _alone(
    joined: onnx.ModelProto, nodes: Sequence[NodeProto], stage: Stage, *, is_whole: bool
) -> onnx.ModelProto:
    """One stage of a file, by the nodes that run up to it."""
    prefix = _prefix(stage)
    wanted, kept = {_logits(stage)}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(NodeProto())
            kept[-1].CopyFrom(node)
    made = {name for node in kept for name in node.output}
    for node in kept:
        node.name = node.name.removeprefix(prefix)
        for names in (node.input, node.output):
            names[:] = [x.removeprefix(prefix) if x in made else x for x in names]
    graph = helper.make_graph(
        kept[::-1],
        joined.graph.name,
        joined.graph.input,
        joined.graph.output[:1],
        [tensor for tensor in joined.graph.initializer if tensor.name in wanted],
    )
    alone = helper.make_model(graph, functions=joined.functions, opset_imports=joined.opset_import)
    alone.ir_version = joined.ir_version
    alone.producer_name = joined.producer_name
    held = _metadata(joined)
    mine = {key: value for key, value in held.items() if "/" not in key and key != STAGES_KEY}
    if not is_whole:
        mine |= {k.removeprefix(prefix): x for k, x in held.items() if k.startswith(prefix)}
    helper.set_model_props(alone, {key: value for key, value in mine.items() if value})
    return alone


def _add_imports(joined: onnx.ModelProto, models: Sequence[onnx.ModelProto]) -> None:
    """Add the functions and the domains of operators that only early stages have."""
    domains = {entry.domain for entry in joined.opset_import}
    functions = {(entry.domain, entry.name) for entry in joined.functions}
    for model in models[:-1]:
        for entry in model.opset_import:
            if entry.domain not in domains:
                domains.add(entry.domain)
                joined.opset_import.append(entry)
        for function in model.functions:
            if (function.domain, function.name) not in functions:
                functions.add((function.domain, function.name))
                joined.functions.append(function)


def _add_metadata(
    joined: onnx.ModelProto, models: Sequence[onnx.ModelProto], stages: Sequence[Stage]
) -> None:
    """Add the stages, and of each what sets its metadata apart; empty where it lacks a key."""
    of_whole = _metadata(models[-1])
    entries = {**of_whole, STAGES_KEY: stages_json(stages)}
    for model, stage in zip(models[:-1], stages[:-1], strict=True):
        own = {**dict.fromkeys(of_whole, ""), **_metadata(model)}
        for key, value in own.items():
            if value != of_whole.get(key):
                entries[_prefix(stage) + key] = value
    helper.set_model_props(joined, entries)


def _metadata(model: onnx.ModelProto) -> Mapping[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _prefix(stage: Stage) -> str:
    return f"T{stage.timesteps}/"


def _steps(stage: Stage, shared: SharedConstants) -> str:
    return shared.array(stage.timesteps, np.int64, f"{_prefix(stage)}timesteps")


def _logits(stage: Stage) -> str:
    return f"{_prefix(stage)}{OUTPUT}"


def _node(kind: str, given: Sequence[str], made: Sequence[str], **more: int) -> NodeProto:
    node = helper.make_node(kind, given, made, name=made[0])
    node.attribute.extend(helper.make_attribute(name, value) for name, value in more.items())
    return node


def _like(
    output: onnx.ValueInfoProto, name: str, kind: TensorProto.DataType, axes: int, ones: int = 0
) -> onnx.ValueInfoProto:
    """Declaration of a tensor whose first axes are those of an output, the others of size 1."""
    dims = output.type.tensor_type.shape.dim[:axes]
    shape = [dim.dim_param or dim.dim_value for dim in dims]
    return helper.make_tensor_value_info(name, kind, [*shape, *[1] * ones])
