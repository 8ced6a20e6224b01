"""Pack weights of four bits, two in a byte; a session unpacks the exact 8-bit codes as it loads.

A group of `GROUP` rows of a channel shares a multiplier: `codes = multiplier * q`, -7 <= q <= 7.
Unpacking is a function of standard operators in the file, `ai.primesvt::Unpack4`, on constants, so
that ONNX Runtime folds it once, at load; products then run on integers as fast as with 8 bits, and
nothing is lost beyond the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from primesvt_deploy.lowering.graph_builder import LayerTape, SharedInitializers
from primesvt_deploy.lowering.lif import LIF_DOMAIN

__all__ = ["GROUP", "MAX_INT4", "UNPACK", "pack", "stored_codes", "unpack_function"]

GROUP = 64
"""Rows of a weight matrix `[K, N]` that share a multiplier, in each column."""
MAX_INT4 = 7
"""Largest absolute value of four bits here."""
UNPACK = "Unpack4"
"""Name of the function that unpacks, in the domain of `lowering.lif`."""
_OFFSET = 8

_Codes = npt.NDArray[np.int8]
_Bytes = npt.NDArray[np.uint8]


def pack(codes: _Codes) -> tuple[_Bytes, _Bytes] | None:
    """Pack codes `[K, N]` as nibbles `[G, N, GROUP / 2]` and multipliers `[G, N]`, if they fit.

    G is the number of groups, the last one filled up with zeros. Low nibbles hold the first half
    of a group, high ones the second.
    """
    groups = -(-len(codes) // GROUP)
    padded = np.zeros((groups * GROUP, codes.shape[1]), dtype=np.int64)
    padded[: len(codes)] = codes
    by_group = padded.reshape(groups, GROUP, -1).transpose(0, 2, 1)
    multipliers = np.gcd.reduce(by_group, axis=2).clip(min=1)
    small = by_group // multipliers[..., None]
    if np.abs(small).max(initial=0) > MAX_INT4:
        return None
    nibbles = (small + _OFFSET).astype(np.uint8)
    low, high = nibbles[..., : GROUP // 2], nibbles[..., GROUP // 2 :]
    return low | (high << 4), multipliers.astype(np.uint8)


def stored_codes(
    tape: LayerTape, initializers: SharedInitializers, codes: _Codes, *, packed: bool
) -> ir.Value:
    """An int8 matrix `[K, N]` as an initializer, or unpacked from nibbles where they hold it."""
    parts = pack(codes) if packed else None
    if parts is None:
        return initializers.array(codes, f"{tape.layer}.codes")
    nibbles = initializers.array(parts[0], f"{tape.layer}.nibbles")
    multipliers = initializers.array(parts[1], f"{tape.layer}.multipliers")
    rows = initializers.array(np.asarray([len(codes)], dtype=np.int64), f"rows.{len(codes)}")
    return tape.node(UNPACK, "codes", nibbles, multipliers, rows, domain=LIF_DOMAIN)


def unpack_function(opset: int) -> ir.Function:
    """Function `Unpack4(nibbles [G, N, GROUP / 2], multipliers [G, N], K [1]) -> int8 [K, N]`.

    ONNX Runtime keeps whatever it folds until all is folded, so everything is done on bytes but
    the product, which is one MatMulInteger of `[GROUP, 1]` by `[1, 1]` for each multiplier.
    """
    nibbles, multipliers, rows = (ir.Value(name=n) for n in ("nibbles", "multipliers", "rows"))
    tape = LayerTape("unpack")

    def constant(name: str, value: Any, kind: Any) -> ir.Value:
        return tape.node("Constant", name, value=ir.tensor(np.asarray(value, dtype=kind)))

    low = tape.node("BitwiseAnd", "low", nibbles, constant("mask", 15, np.uint8))
    high = tape.node("BitShift", "high", nibbles, constant("four", 4, np.uint8), direction="RIGHT")
    both = tape.node("Concat", "offset", low, high, axis=2)
    columns = tape.node("Unsqueeze", "columns", both, constant("last", [3], np.int64))
    factors = tape.node("Unsqueeze", "factors", multipliers, constant("lasts", [2, 3], np.int64))
    middle = constant("middle", _OFFSET, np.uint8)
    products = tape.node("MatMulInteger", "products", columns, factors, middle)
    narrow = tape.node("Cast", "narrow", products, to=ir.DataType.INT8)
    flat = tape.node("Squeeze", "flat", narrow, constant("end", [3], np.int64))
    turned = tape.node("Transpose", "turned", flat, perm=[0, 2, 1])
    sizes = tape.node("Shape", "sizes", multipliers, start=1)
    matrix = tape.node("Concat", "matrix", constant("rest", [-1], np.int64), sizes, axis=0)
    whole = tape.node("Reshape", "whole", turned, matrix)
    first = constant("first", [0], np.int64)
    codes = tape.node("Slice", "codes", whole, first, rows, first)
    graph = ir.Graph(
        [nibbles, multipliers, rows], [codes], nodes=tape.nodes, opset_imports={"": opset}
    )
    return ir.Function(LIF_DOMAIN, UNPACK, graph=graph, attributes=[])
