"""Read a traced graph: its neurons, its initializers, and the torch modules its nodes come from."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from primesvt_deploy.lowering.contract import PreconditionError
from primesvt_deploy.lowering.lif import LIF_DOMAIN, LIF_OP, ChargeFireReset
from primesvt_deploy.lowering.metadata import NEURONS_KEY

__all__ = [
    "SCOPES_KEY",
    "initializer_array",
    "is_neuron",
    "layer_name",
    "module_names",
    "neuron_constants",
    "neuron_layer_name",
    "neuron_nodes",
    "require_neurons",
]

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Node metadata by torch.onnx: list of the torch modules, outermost first, and the operator."""


def is_neuron(node: ir.Node) -> bool:
    """Whether a node is an `ai.primesvt::LIF`."""
    return node.domain == LIF_DOMAIN and node.op_type == LIF_OP


def neuron_nodes(graph: ir.Graph) -> list[ir.Node]:
    """The neurons of a graph that are not lowered yet, in the graph's order."""
    return [node for node in graph if is_neuron(node)]


def require_neurons(model: ir.Model) -> None:
    """Check that a graph is as it was traced, its neurons not lowered yet.

    Raises:
        PreconditionError: they are lowered already, or there are none.
    """
    if neuron_nodes(model.graph):
        return
    if NEURONS_KEY in model.metadata_props:
        raise PreconditionError(
            "the graph's neurons are lowered already: this pass comes before that"
        )
    raise PreconditionError("the traced graph has no spiking neuron: is the model a SViT?")


def neuron_constants(node: ir.Node) -> ChargeFireReset:
    """Constants of a neuron, from the attributes of its node."""
    values = {name: attribute.value for name, attribute in node.attributes.items()}
    for flag in ("static_input", "half_up"):
        values[flag] = bool(values[flag])
    return ChargeFireReset(**{"v_reset": None, **values})


def module_names(node: ir.Node) -> list[str]:
    """Names of the torch modules that a node is of, outermost first; none: it was not traced."""
    scopes = node.metadata_props.get(SCOPES_KEY, "")
    names = [part.strip(" '[]") for part in scopes.split(",")]
    return [name for name in names[:-1] if name]


def layer_name(node: ir.Node) -> str:
    """Name of the torch module that a node is of; its own name if it was not traced."""
    modules = module_names(node)
    return modules[-1] if modules else str(node.name)


def neuron_layer_name(node: ir.Node) -> str:
    """Name of a neuron's layer: its module without a trailing `.neuron`."""
    return layer_name(node).removesuffix(".neuron")


def initializer_array(value: ir.Value | None) -> np.ndarray | None:
    """Content of an initializer; None for any other tensor.

    Unlike `onnx_ir.convenience.get_const_tensor` it leaves Constant nodes out: passes replace the
    content of what they find, which an initializer has and a Constant node's output has not.
    """
    if value is None or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())
