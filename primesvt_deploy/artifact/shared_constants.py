"""Constants that several ONNX graphs have in common, each held once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

__all__ = ["SharedConstants"]


class SharedConstants:
    """Constants of all stages, each once, and what is computed of them alone.

    Args:
        inputs: names of the graph's inputs, which all stages have.

    Attributes:
        initializers: the constants.
        nodes: those of which all inputs are constant.
    """

    def __init__(self, inputs: set[str]) -> None:
        self._inputs = inputs
        self._names: dict[tuple[object, ...], str] = {}
        self._constants: set[str] = set()
        self.initializers: list[TensorProto] = []
        self.nodes: list[NodeProto] = []

    def constant(self, tensor: TensorProto, name: str) -> str:
        """Keep a constant unless it is there already; its name."""
        content = numpy_helper.to_array(tensor).tobytes()
        key = (tensor.data_type, tuple(tensor.dims), content)
        if key not in self._names:
            kept = TensorProto()
            kept.CopyFrom(tensor)
            kept.name = self._names[key] = name
            self._constants.add(name)
            self.initializers.append(kept)
        return self._names[key]

    def array(self, value: object, kind: type[np.generic], name: str) -> str:
        """Keep a constant, unless it is there already; its name."""
        return self.constant(numpy_helper.from_array(np.asarray(value, kind)), name)

    def adopt(
        self, graph: onnx.GraphProto, prefix: str, renamed: Mapping[str, str]
    ) -> list[NodeProto]:
        """Take over a graph's constants, and what is computed of them alone.

        Args:
            graph: left as it is.
            prefix: of the names of its nodes, tensors, and constants that no other graph has.
            renamed: tensors that get other names.

        Returns:
            Its other nodes, as copies.
        """
        names = {name: name for name in ("", *self._inputs)}
        names |= {x.name: self.constant(x, prefix + x.name) for x in graph.initializer}
        names |= renamed
        left = []
        for node in graph.node:
            own = NodeProto()
            own.CopyFrom(node)
            own.name = prefix + node.name
            own.input[:] = [names[name] for name in node.input]
            key = (node.domain, node.op_type, *own.input)
            if key in self._names:
                names[node.output[0]] = self._names[key]
                continue
            for name in node.output:
                names.setdefault(name, prefix + name)
            own.output[:] = [names[name] for name in node.output]
            if node.attribute or not self._constants.issuperset(own.input):
                left.append(own)
                continue
            self._names[key] = own.output[0]
            self._constants.update(own.output)
            self.nodes.append(own)
        return left
