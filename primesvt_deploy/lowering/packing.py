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

from primesvt_deploy.lowering.neurons import LIF_DOMAIN
from primesvt_deploy.lowering.steps import Constants, Tape

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
    """Nibbles `[P / 2, N]` and multipliers `[P / GROUP, N]` of codes `[K, N]`; None if beyond them.

    P is K rounded up to whole groups. Low nibbles hold the first P / 2 rows, high ones the rest.
    """
    rows = -(-len(codes) // GROUP) * GROUP
    padded = np.zeros((rows, codes.shape[1]), dtype=np.int64)
    padded[: len(codes)] = codes
    groups = padded.reshape(-1, GROUP, codes.shape[1])
    multipliers = np.gcd.reduce(groups, axis=1).clip(min=1)
    small = groups // multipliers[:, None]
    if np.abs(small).max(initial=0) > MOST:
        return None
    nibbles = (small.reshape(rows, -1) + _OFFSET).astype(np.uint8)
    low, high = nibbles[: rows // 2], nibbles[rows // 2 :]
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
    """`Unpack4(nibbles [P / 2, N], multipliers [P / GROUP, N], K [1]) -> codes [K, N]`, int8."""
    nibbles, multipliers, rows = (ir.Value(name=n) for n in ("nibbles", "multipliers", "rows"))
    tape = Tape("unpack")

    def known(name: str, value: npt.NDArray[Any]) -> ir.Value:
        return tape.one("Constant", name, value=ir.tensor(value))

    low = tape.one("BitwiseAnd", "low", nibbles, known("mask", np.asarray(15, np.uint8)))
    four = known("four", np.asarray(4, np.uint8))
    high = tape.one("BitShift", "high", nibbles, four, direction="RIGHT")
    both = tape.one("Concat", "offset", low, high, axis=0)
    wide = tape.one("Cast", "wide", both, to=ir.DataType.INT32)
    centred = tape.one("Sub", "centred", wide, known("half", np.asarray(_OFFSET, np.int32)))
    # Groups as `[P / GROUP, GROUP * N]`, a row of multipliers repeated along each.
    first = known("first", np.asarray([0], np.int64))
    sizes = tape.one("Shape", "sizes", multipliers)
    groups = tape.one("Gather", "groups", sizes, first)
    columns = tape.one("Gather", "columns", sizes, known("second", np.asarray([1], np.int64)))
    length = known("length", np.asarray([GROUP], np.int64))
    cube = tape.one("Concat", "cube", groups, length, columns, axis=0)
    grouped = tape.one("Reshape", "grouped", centred, cube)
    factors = tape.one("Cast", "factors", multipliers, to=ir.DataType.INT32)
    factors = tape.one(
        "Unsqueeze", "factors.row", factors, known("axis", np.asarray([1], np.int64))
    )
    scaled = tape.one("Mul", "scaled", grouped, factors)
    rest = known("rest", np.asarray([-1], np.int64))
    matrix = tape.one("Concat", "matrix", rest, columns, axis=0)
    whole = tape.one("Reshape", "whole", scaled, matrix)
    kept = tape.one("Slice", "kept", whole, first, rows, first)
    codes = tape.one("Cast", "codes", kept, to=ir.DataType.INT8)
    graph = ir.Graph(
        [nibbles, multipliers, rows], [codes], nodes=tape.nodes, opset_imports={"": opset}
    )
    return ir.Function(LIF_DOMAIN, UNPACK, graph=graph, attributes=[])
