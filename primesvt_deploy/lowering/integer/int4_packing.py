"""Weights of four bits, two in a byte, unpacked to the exact 8-bit codes as a session loads.

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

from primesvt_deploy.lowering.lif import LIF_DOMAIN
from primesvt_deploy.lowering.lif_operators import Constants, Tape

__all__ = ["GROUP", "MOST", "UNPACK", "pack", "stored_codes", "unpack_function"]

GROUP = 64
"""Rows of a weight matrix `[K, N]` that share a multiplier, in each column."""
MOST = 7
UNPACK = "Unpack4"
"""Name of the function, in the domain of `lowering.neurons`."""
_OFFSET = 8

_Codes = npt.NDArray[np.int8]
_Bytes = npt.NDArray[np.uint8]


def pack(codes: _Codes) -> tuple[_Bytes, _Bytes] | None:
    """Nibbles `[G, N, GROUP / 2]` and multipliers `[G, N]` of codes `[K, N]`; None if beyond them.

    G is the number of groups, the last one filled up with zeros. Low nibbles hold the first half
    of a group, high ones the second.
    """
    groups = -(-len(codes) // GROUP)
    padded = np.zeros((groups * GROUP, codes.shape[1]), dtype=np.int64)
    padded[: len(codes)] = codes
    by_group = padded.reshape(groups, GROUP, -1).transpose(0, 2, 1)
    multipliers = np.gcd.reduce(by_group, axis=2).clip(min=1)
    small = by_group // multipliers[..., None]
    if np.abs(small).max(initial=0) > MOST:
        return None
    nibbles = (small + _OFFSET).astype(np.uint8)
    low, high = nibbles[..., : GROUP // 2], nibbles[..., GROUP // 2 :]
    return low | (high << 4), multipliers.astype(np.uint8)


def stored_codes(tape: Tape, constants: Constants, codes: _Codes, *, packed: bool) -> ir.Value:
    """The int8 matrix `[K, N]` as an initializer, or unpacked from nibbles where they hold it."""
    parts = pack(codes) if packed else None
    if parts is None:
        return constants.array(codes, f"{tape.layer}.codes")
    nibbles = constants.array(parts[0], f"{tape.layer}.nibbles")
    multipliers = constants.array(parts[1], f"{tape.layer}.multipliers")
    rows = constants.array(np.asarray([len(codes)], dtype=np.int64), f"rows.{len(codes)}")
    return tape.add(UNPACK, "codes", [nibbles, multipliers, rows], ["codes"], domain=LIF_DOMAIN)[0]


def unpack_function(opset: int) -> ir.Function:
    """`Unpack4(nibbles [G, N, GROUP / 2], multipliers [G, N], K [1]) -> codes [K, N]`, int8.

    ONNX Runtime keeps whatever it folds until all is folded, so everything is done on bytes but
    the product, which is one MatMulInteger of `[GROUP, 1]` by `[1, 1]` for each multiplier.
    """
    nibbles, multipliers, rows = (ir.Value(name=n) for n in ("nibbles", "multipliers", "rows"))
    tape = Tape("unpack")

    def known(name: str, value: Any, kind: Any) -> ir.Value:
        return tape.one("Constant", name, value=ir.tensor(np.asarray(value, dtype=kind)))

    low = tape.one("BitwiseAnd", "low", nibbles, known("mask", 15, np.uint8))
    high = tape.one("BitShift", "high", nibbles, known("four", 4, np.uint8), direction="RIGHT")
    both = tape.one("Concat", "offset", low, high, axis=2)
    columns = tape.one("Unsqueeze", "columns", both, known("last", [3], np.int64))
    factors = tape.one("Unsqueeze", "factors", multipliers, known("lasts", [2, 3], np.int64))
    middle = known("middle", _OFFSET, np.uint8)
    products = tape.one("MatMulInteger", "products", columns, factors, middle)
    narrow = tape.one("Cast", "narrow", products, to=ir.DataType.INT8)
    flat = tape.one("Squeeze", "flat", narrow, known("end", [3], np.int64))
    turned = tape.one("Transpose", "turned", flat, perm=[0, 2, 1])
    sizes = tape.one("Shape", "sizes", multipliers, start=1)
    matrix = tape.one("Concat", "matrix", known("rest", [-1], np.int64), sizes, axis=0)
    whole = tape.one("Reshape", "whole", turned, matrix)
    first = known("first", [0], np.int64)
    codes = tape.one("Slice", "codes", whole, first, rows, first)
    graph = ir.Graph(
        [nibbles, multipliers, rows], [codes], nodes=tape.nodes, opset_imports={"": opset}
    )
    return ir.Function(LIF_DOMAIN, UNPACK, graph=graph, attributes=[])
