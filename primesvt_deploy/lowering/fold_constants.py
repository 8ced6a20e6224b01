"""Fold what silent branches inject: constants of channels, known before the graph ever runs.

Pruning can leave a branch whose neurons never fire. Where shortcuts add membrane currents, its last
convolution then adds its bias to the stream, the same at every pixel, timestep and image. Here
such constants are followed through a traced graph (neurons still `ai.primesvt::LIF`) up to the
sum that takes one in. The sum with zero vanishes. Any other constant goes into the bias of a
convolution before it, if nothing else uses what that changes, or stays as one `[1, C, 1, 1]`
term. The branch is then dead, and leaves with its weights.

Floats added in another order round differently, which can flip a spike. Integer artifacts must
flip none, so there no constant moves: each is added where the branch was, as the model does it.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from primesvt_deploy.lowering.constant_tensors import Constants, find_constants, is_zero
from primesvt_deploy.lowering.contract import PostconditionError
from primesvt_deploy.lowering.graph_builder import SharedInitializers
from primesvt_deploy.lowering.traced_graph import (
    initializer_array,
    neuron_nodes,
    require_neurons,
)

__all__ = ["FoldConstants"]


class FoldConstants(ir.passes.InPlacePass):
    """Remove the silent branches of a traced graph, in place; without any it stays as it is.

    Requires a traced graph whose neurons are not lowered; ensures that a neuron is left.

    Args:
        exact: add nothing in another order than the model does (integer artifacts).
    """

    def __init__(self, *, exact: bool = False) -> None:
        super().__init__()
        self.exact = exact

    def requires(self, model: ir.Model) -> None:
        """Check that the graph is as it was traced."""
        require_neurons(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold the constants of a traced graph."""
        constants = find_constants(model.graph, self.exact)
        sums = [node for node in model.graph if _variable_operand(node, constants) is not None]
        if not sums:
            return ir.passes.PassResult(model, modified=False)
        initializers = SharedInitializers(model.graph)
        kept = [node for node in sums if not _detach_branch(node, constants, initializers)]
        # The branches leave first: what only they use has no other consumer from here on.
        common_passes.RemoveUnusedNodesPass()(model)
        for node in () if self.exact else kept:
            if node.graph is not None:
                _absorb(node, initializers)
        common_passes.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """Check that a neuron is left.

        Raises:
            PostconditionError: none is.
        """
        if not neuron_nodes(model.graph):
            raise PostconditionError(
                "every neuron of the model is in a branch that stays silent: no spike is left"
            )


def _variable_operand(node: ir.Node, constants: Constants) -> ir.Value | None:
    """Operand of a sum that a constant is added to; None: the node is no such sum."""
    if node.domain != "" or node.op_type != "Add" or node.outputs[0].is_graph_output():
        return None
    is_constant = [value is not None and value in constants for value in node.inputs]
    if sum(is_constant) != 1:
        return None
    variable, output = node.inputs[is_constant.index(False)], node.outputs[0]
    # The constant must not be what gives the sum its shape.
    if variable is None or variable.shape is None or variable.shape != output.shape:
        return None
    channels = constants[_other(node, variable)]
    fits = len(variable.shape) > 1 and variable.shape[1] == channels.size
    stored = initializer_array(variable) is not None
    return variable if not stored and (fits or is_zero(channels)) else None


def _other(node: ir.Node, operand: ir.Value) -> ir.Value:
    a, b = node.inputs
    other = b if a is operand else a
    assert other is not None
    return other


def _detach_branch(node: ir.Node, constants: Constants, initializers: SharedInitializers) -> bool:
    """Have a sum no longer use its constant branch; True: it was zero, and the sum is gone."""
    variable = _variable_operand(node, constants)
    assert variable is not None and variable.shape is not None
    branch = _other(node, variable)
    channels = constants[branch]
    if is_zero(channels):
        _remove(node, variable)
        return True
    shaped = channels.reshape(1, -1, *[1] * (len(variable.shape) - 2))
    value = initializers.array(shaped, f"{node.outputs[0].name}.constant")
    node.replace_input_with(list(node.inputs).index(branch), value)
    return False


def _remove(node: ir.Node, variable: ir.Value) -> None:
    ir.convenience.replace_all_uses_with(node.outputs[0], variable)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _absorb(node: ir.Node, initializers: SharedInitializers) -> None:
    """Have a convolution, or a sum with another constant, add the constant of `node` as well."""
    is_second = initializer_array(node.inputs[1]) is not None
    variable, term = node.inputs if is_second else node.inputs[::-1]
    channels, absorber = initializer_array(term), _absorber(variable)
    if variable is None or channels is None or absorber is None:
        return
    target, place = absorber
    old, before = target.inputs[place], initializer_array(target.inputs[place])
    assert old is not None and before is not None
    after = before + channels.reshape(before.shape)
    if len(list(old.uses())) == 1:
        old.const_value = ir.tensor(after, name=old.name)
    else:  # other calls of the layer use it, too
        target.replace_input_with(place, initializers.array(after, str(old.name)))
    _remove(node, variable)


def _absorber(value: ir.Value | None) -> tuple[ir.Node, int] | None:
    """Find a node that can add a constant to `value` for its one consumer, and the operand."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.domain != "" or value.is_graph_output():
        return None
    if len({use.node for use in value.uses()}) != 1:
        return None
    first, only = node.inputs[0], len(node.outputs) == 1
    if node.op_type == "Conv":
        has_bias = len(node.inputs) > 2 and initializer_array(node.inputs[2]) is not None
        return (node, 2) if has_bias else None
    if node.op_type == "Add":
        return _absorber_of_sum(node)
    # What is added to a channel may be added before it is pooled, or presented T times over.
    repeated = node.op_type == "Concat" and all(part is first for part in node.inputs)
    if (repeated and node.attributes["axis"].value == 0) or (node.op_type == "MaxPool" and only):
        return _absorber(first)
    return None


def _absorber_of_sum(node: ir.Node) -> tuple[ir.Node, int] | None:
    shape = node.outputs[0].shape
    a, b = node.inputs
    if shape is None or a is b:
        return None
    for place, array in enumerate(map(initializer_array, node.inputs)):
        if array is not None and array.shape == (1, shape[1], *[1] * (len(shape) - 2)):
            return node, place
    operands = [operand for operand in (b, a) if operand is not None and operand.shape == shape]
    return next(filter(None, map(_absorber, operands)), None)
