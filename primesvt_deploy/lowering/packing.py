"""Weights of four bits, two in a byte, unpacked to the exact 8-bit codes as a session loads.

A group of `GROUP` rows of a channel shares a multiplier: `codes = multiplier * q`, -7 <= q <= 7.
Unpacking is standard operators on constants, which ONNX Runtime folds once, at load; so products
run on integers as fast as with 8 bits, and nothing is lost beyond the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from primesvt_deploy.lowering.steps import Constants, Tape

__all__ = ["GROUP", "MOST", "pack", "stored_codes"]

GROUP = 32
"""Rows of a weight matrix `[K, N]` that share a multiplier, in each column."""
MOST = 7
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
    nibbles, multipliers = parts
    stored = constants.array(nibbles, f"{tape.layer}.nibbles")
    low = tape.one("BitwiseAnd", "low", stored, _scalar(constants, np.uint8(15)))
    high = tape.one(
        "BitShift", "high", stored, _scalar(constants, np.uint8(4)), direction="RIGHT"
    )
    both = tape.one("Concat", "offset", low, high, axis=0)
    wide = tape.one("Cast", "wide", both, to=ir.DataType.INT32)
    centred = tape.one("Sub", "centred", wide, _scalar(constants, np.int32(_OFFSET)))
    columns = codes.shape[1]
    groups = tape.one("Reshape", "groups", centred, _shape(constants, -1, GROUP, columns))
    factors = constants.array(multipliers[:, None], f"{tape.layer}.multipliers")
    factors = tape.one("Cast", "factors", factors, to=ir.DataType.INT32)
    scaled = tape.one("Mul", "scaled", groups, factors)
    rows = tape.one("Reshape", "rows", scaled, _shape(constants, -1, columns))
    if len(codes) % GROUP:
        ends = [_vector(constants, n) for n in (0, len(codes), 0)]
        rows = tape.one("Slice", "kept", rows, *ends)
    return tape.one("Cast", "codes", rows, to=ir.DataType.INT8)


def _scalar(constants: Constants, value: np.generic) -> ir.Value:
    return constants.array(np.asarray(value), f"unpack.{value.dtype}.{value}")


def _shape(constants: Constants, *sizes: int) -> ir.Value:
    name = "x".join(map(str, sizes))
    return constants.array(np.asarray(sizes, dtype=np.int64), f"shape.{name}")


def _vector(constants: Constants, value: int) -> ir.Value:
    array: npt.NDArray[Any] = np.asarray([value], dtype=np.int64)
    return constants.array(array, f"index.{value}")
