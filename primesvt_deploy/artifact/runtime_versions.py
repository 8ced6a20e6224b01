"""The least onnxruntime that an ONNX file needs, by operator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

__all__ = ["OLDEST", "required_versions"]

OLDEST = "1.20"
"""The oldest onnxruntime that artifacts are meant for; what they need is older or as old."""


def required_versions(path: Path) -> dict[str, str]:
    """Least onnxruntime version by `opset` and by `domain::Name` of contributed operators."""
    model = onnx.load(path, load_external_data=False)
    special = {
        f"{node.domain}::{node.op_type}"
        for node in _nodes(model.graph)
        if node.domain not in ("", "ai.onnx")
    }
    return {"opset": OLDEST, **dict.fromkeys(sorted(special), OLDEST)}


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of a graph and of all branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)
