"""Names that a person can follow in a viewer, and nothing in the file that is not used."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

__all__ = ["tidy"]


def tidy(model: ir.Model) -> None:
    """Name nodes and values after the torch layers they come from; drop what is dead; in place.

    Equal initializers become one. A node is named `<layer>.<operator>` (a number is added where
    a layer has several), its values after it.
    """
    ir.passes.Sequential(
        passes.DeduplicateInitializersPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
    )(model)
    taken: set[str] = {str(value.name) for value in model.graph.inputs}
    taken |= {str(value.name) for value in model.graph.outputs} | set(model.graph.initializers)
    taken |= {str(v.name) for n in model.graph if _is_named(n) for v in n.outputs}
    for node in model.graph:
        if not _is_named(node):
            _rename(model.graph, node, taken)
        for key in [k for k in node.metadata_props if not k.startswith("primesvt.")]:
            del node.metadata_props[key]
        node.doc_string = None
    for index, value in enumerate(list(model.graph.initializers.values())):
        if "/" in str(value.name) or str(value.name).startswith("val_"):
            value.name = f"constant.{index}"
    model.producer_name = "primesvt-deploy"
    for key in [k for k in model.metadata_props if not k.startswith("primesvt.")]:
        del model.metadata_props[key]


def _is_named(node: ir.Node) -> bool:
    """Unrolled neurons have their names already."""
    return "primesvt.layer" in node.metadata_props


def _rename(graph: ir.Graph, node: ir.Node, taken: set[str]) -> None:
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    modules = [part.strip(" '[]") for part in scopes.split(",")][:-1]
    layer = next((name for name in reversed(modules) if name), "")
    base = ".".join(part for part in (layer, node.op_type.lower()) if part)
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}.{number}"
    taken.add(name)
    node.name = name
    for index, value in enumerate(node.outputs):
        if value not in graph.outputs:
            value.name = name if index == 0 else f"{name}.{index}"
