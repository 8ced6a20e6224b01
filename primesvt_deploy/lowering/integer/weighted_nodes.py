"""Decide which weighted nodes run on integers; ONNX artifacts and native programs agree on it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from primesvt_deploy.lowering.integer.spike_counts import SpikeCounts
from primesvt_deploy.lowering.integer.weight_grid import GridWeights, grid_of
from primesvt_deploy.lowering.traced_graph import initializer_array

__all__ = ["integer_grid", "linear_weights"]

_NO_OVERFLOW = 2**15 - 1
"""x86 without VNNI adds pairs of products in 16 bits, saturating."""


def integer_grid(counts: SpikeCounts | None, weights: np.ndarray) -> tuple[GridWeights | None, str]:
    """Find the grid of a layer that can run on integers, or the reason why it cannot.

    Args:
        counts: what its input holds; None: real numbers.
        weights: output channels first.
    """
    if counts is None or not counts.fit_a_byte:
        return None, "its input is real" if counts is None else "its input is beyond 255"
    grid = grid_of(weights)
    if grid is None:
        return None, "its weights are not of 8 bits"
    if np.frexp(counts.unit)[0] != 0.5:
        return None, "its input is no multiple of a power of two"
    largest_code = int(np.abs(grid.codes.astype(np.int64)).max(initial=0))
    if 2 * counts.largest * largest_code > _NO_OVERFLOW:
        return None, "its input could overflow 16 bits"
    return grid, ""


def linear_weights(node: ir.Node) -> np.ndarray | None:
    """Weights `[N, K]` of a product with a matrix of weights; None: the node is no such layer."""
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    array = initializer_array(node.inputs[1])
    if array is None:
        return None
    if node.op_type == "MatMul":
        both_stored = initializer_array(node.inputs[0]) is not None
        return None if array.ndim != 2 or both_stored else np.ascontiguousarray(array.T)
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    plain = (given.get("alpha", 1.0), given.get("beta", 1.0)) == (1.0, 1.0)
    if not plain or given.get("transA", 0):
        return None
    return array if given.get("transB", 0) else array.T
