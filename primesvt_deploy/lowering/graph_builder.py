"""Build ONNX graphs: nodes named after the layer they are of, initializers shared by content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["LayerTape", "SharedInitializers"]


class LayerTape(ir.tape.Tape):
    """A tape whose nodes and values are named `<layer>.<name>`.

    Args:
        layer: of the nodes.
        graph: which nodes are appended to; None: they are recorded alone (`nodes`).
    """

    def __init__(self, layer: str, graph: ir.Graph | None = None) -> None:
        super().__init__(graph)
        self.layer = layer

    def node(
        self,
        op_type: str,
        name: str,
        *inputs: ir.Value | None,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        """Record a node with one output, which has the node's name.

        Returns:
            The output.
        """
        name = f"{self.layer}.{name}"
        output = ir.Value(name=name)
        return self.op(op_type, inputs, attributes, domain=domain, name=name, output=output)

    def split(self, name: str, value: ir.Value, parts: Sequence[str]) -> Sequence[ir.Value]:
        """Record a split along the first axis into equal parts, one for each name.

        Returns:
            The parts.
        """
        outputs = [ir.Value(name=f"{self.layer}.{part}") for part in parts]
        attributes = {"axis": 0, "num_outputs": len(parts)}
        name = f"{self.layer}.{name}"
        return self.op_multi_out("Split", [value], attributes, outputs=outputs, name=name)


class SharedInitializers:
    """Initializers of a graph, each stored once; neurons have theirs in common.

    Args:
        graph: which they are registered in.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._tape = ir.tape.Tape(graph)
        self._values: dict[tuple[Any, ...], ir.Value] = {}

    def scalar(self, value: float) -> ir.Value:
        """A float32 scalar."""
        exact = np.float32(value)
        # Nine digits tell any two float32 apart.
        return self.array(np.asarray(exact), f"lif.constant.{float(exact):.9g}")

    def array(self, array: np.ndarray[Any, Any], name: str) -> ir.Value:
        """An initializer of that name and content, the same one whenever both are equal."""
        key = (name, array.dtype.str, array.shape, array.tobytes())
        if key not in self._values:
            if name in self._graph.initializers:
                name = f"{name}.{len(self._values)}"
            tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
            self._values[key] = self._tape.initializer(tensor)
        return self._values[key]
