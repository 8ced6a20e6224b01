"""Names that a person can follow in a viewer, and nothing in the file that is not used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from primesvt_deploy.lowering.contract import PostconditionError, PreconditionError
from primesvt_deploy.lowering.traced_graph import SCOPES_KEY, module_names, neuron_nodes

__all__ = ["Cleanup"]

_PARAMETERS = ("weight", "bias", "running_mean", "running_var")
"""What the name of a torch module's own tensor ends with."""


class Cleanup(ir.passes.InPlacePass):
    """Name nodes and values after the torch modules they come from; drop what is dead; in place.

    Equal initializers become one. Inner shapes are dropped, as onnxruntime infers them and they
    weigh more than the nodes. Requires that the neurons are lowered; ensures that names are
    unique and that no node or initializer is dead.
    """

    def requires(self, model: ir.Model) -> None:
        """Check that the neurons are lowered.

        Raises:
            PreconditionError: one is not; it is named.
        """
        left = neuron_nodes(model.graph)
        if left:
            raise PreconditionError(
                f"neuron {left[0].name} is not lowered yet: cleanup is the last pass"
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Clean up a lowered graph."""
        return ir.passes.Sequential(
            common_passes.DeduplicateInitializersPass(),
            common_passes.RemoveUnusedNodesPass(),
            common_passes.RemoveUnusedOpsetsPass(),
            NameAfterModules(),
            DropTracingDetails(),
        )(model)

    def ensures(self, model: ir.Model) -> None:
        """Check that names are unique and that nothing is dead.

        Raises:
            PostconditionError: a name is there twice, or something is not used; it is named.
        """
        graph = model.graph
        outputs = [value for node in graph for value in node.outputs]
        values = [*graph.inputs, *graph.initializers.values(), *outputs]
        _check_unique("nodes", (node.name for node in graph))
        _check_unique("tensors", (value.name for value in values if value.name))
        for node in graph:
            if not any(value.uses() or value.is_graph_output() for value in node.outputs):
                raise PostconditionError(f"node {node.name} computes what nothing uses")
        for value in graph.initializers.values():
            if not (value.uses() or value.is_graph_output()):
                raise PostconditionError(f"initializer {value.name} is not used")


class NameAfterModules(ir.passes.InPlacePass):
    """Name nodes, their outputs and their constants after torch modules, in place.

    A node of module `stem.0.conv` is named so, or `<module>.<operator>` where the module's name
    does not say the operator (numbered where a module has several); its outputs are named after
    it, and shape and axis constants after the first node that uses them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Name the nodes of a graph that carry the modules they were traced from."""
        graph = model.graph
        ends = {*graph.inputs, *graph.outputs}
        traced = [node for node in graph if SCOPES_KEY in node.metadata_props]
        taken = {str(value.name) for value in ends}
        for node in graph:
            if SCOPES_KEY not in node.metadata_props:
                taken.update([str(node.name), *(str(value.name) for value in node.outputs)])
        modified = False
        for node in traced:
            modified |= _name_node(node, taken, ends)
        for value in list(graph.initializers.values()):
            modified |= _name_constant(graph, value)
        return ir.passes.PassResult(model, modified)


class DropTracingDetails(ir.passes.InPlacePass):
    """Drop what tracing noted on nodes and values, inner shapes, and foreign metadata; in place."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Drop the details of a graph."""
        modified = common_passes.ClearMetadataAndDocStringPass()(model).modified
        ends = {*model.graph.inputs, *model.graph.outputs}
        for value in (value for node in model.graph for value in node.outputs):
            inferable = value not in ends and (value.shape, value.type) != (None, None)
            modified |= inferable or bool(value.metadata_props)
            value.metadata_props.clear()
            if inferable:
                value.shape, value.type = None, None
        modified |= (model.producer_name, model.producer_version) != ("primesvt-deploy", None)
        model.producer_name, model.producer_version = "primesvt-deploy", None
        foreign = [key for key in model.metadata_props if not key.startswith("primesvt.")]
        for key in foreign:
            del model.metadata_props[key]
        return ir.passes.PassResult(model, modified or bool(foreign))


def _name_node(node: ir.Node, taken: set[str], ends: set[ir.Value]) -> bool:
    module = next(reversed(module_names(node)), "")
    operator = node.op_type.lower()
    base = module if module.endswith(operator) else ".".join(filter(None, (module, operator)))
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}.{number}"
    taken.add(name)
    before = [node.name, *(value.name for value in node.outputs)]
    node.name = name
    for index, value in enumerate(node.outputs):
        if value not in ends:
            value.name = name if index == 0 else f"{name}.{index}"
    return before != [node.name, *(value.name for value in node.outputs)]


def _name_constant(graph: ir.Graph, value: ir.Value) -> bool:
    uses = value.uses()
    if not uses or str(value.name).endswith(_PARAMETERS) or _is_scalar(value):
        return False
    base = f"{next(iter(uses)).node.name}.constant"
    if re.fullmatch(rf"{re.escape(base)}(\.\d+)?", str(value.name)):
        return False
    name, number = base, 1
    while name in graph.initializers:
        number += 1
        name = f"{base}.{number}"
    value.name = name
    return True


def _is_scalar(value: ir.Value) -> bool:
    return str(value.name).startswith("lif.constant.")


def _check_unique(kind: str, names: Iterable[str | None]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise PostconditionError(f"{count} {kind} are called {name}")
