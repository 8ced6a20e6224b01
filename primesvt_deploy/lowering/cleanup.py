"""Names that a person can follow in a viewer, and nothing in the file that is not used."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

__all__ = ["tidy"]

_SCOPES = "pkg.torch.onnx.name_scopes"


def tidy(model: ir.Model) -> None:
    """Name nodes and values after the torch layers they come from; drop what is dead; in place.

    Equal initializers become one. A node of torch layer `stem.0.conv` is named so, or
    `<layer>.<operator>` where the layer's name does not say the operator (numbered where a layer
    has several); its outputs are named after it. Inner shapes are dropped, as onnxruntime
    infers them and they weigh more than the nodes.
    """
    ir.passes.Sequential(
        passes.DeduplicateInitializersPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
    )(model)
    ends = {*model.graph.inputs, *model.graph.outputs}
    taken = {str(value.name) for value in ends}
    for node in model.graph:
        scopes = node.metadata_props.get(_SCOPES)
        if scopes is not None:
            _rename(node, scopes, taken, ends)
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if value not in ends:
                value.shape, value.type = None, None
    _name_constants(model.graph)
    model.producer_name = "primesvt-deploy"
    model.producer_version = None
    for key in [k for k in model.metadata_props if not k.startswith("primesvt.")]:
        del model.metadata_props[key]
    model.graph.metadata_props.clear()


def _rename(node: ir.Node, scopes: str, taken: set[str], ends: set[ir.Value]) -> None:
    modules = [part.strip(" '[]") for part in scopes.split(",")][:-1]
    layer = next((name for name in reversed(modules) if name), "")
    operator = node.op_type.lower()
    base = layer if layer.endswith(operator) else ".".join(filter(None, (layer, operator)))
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}.{number}"
    taken.add(name)
    node.name = name
    for index, value in enumerate(node.outputs):
        if value not in ends:
            value.name = name if index == 0 else f"{name}.{index}"


def _name_constants(graph: ir.Graph) -> None:
    """Name each shape and axis constant after the first node that reads it."""
    layers = ("weight", "bias", "running_mean", "running_var")
    for value in list(graph.initializers.values()):
        readers = value.uses()
        if readers and not str(value.name).endswith(layers) and not _is_scalar(value):
            base = name = f"{next(iter(readers)).node.name}.constant"
            number = 1
            while name in graph.initializers:
                number += 1
                name = f"{base}.{number}"
            value.name = name


def _is_scalar(value: ir.Value) -> bool:
    return str(value.name).startswith("lif.constant.")
