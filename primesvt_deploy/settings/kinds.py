"""Kinds of what is shipped, and of what a budget counts."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["BudgetOn", "Precision", "Runtime"]


class Precision(StrEnum):
    """Precision of an artifact's weights."""

    FP32 = "fp32"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def bits(self) -> int:
        """Bits a weight."""
        return {"fp32": 32, "int8": 8, "int4": 4}[self.value]


class Runtime(StrEnum):
    """Runtime of the shipped model on the device.

    ONNX: `model.onnx` in ONNX Runtime. NATIVE: `model.svit` in the C engine, for integer weights.
    BOTH: the bundle carries both.
    """

    ONNX = "onnx"
    NATIVE = "native"
    BOTH = "both"

    @property
    def has_onnx(self) -> bool:
        """Whether the bundle carries an ONNX file."""
        return self is not Runtime.NATIVE

    @property
    def has_native(self) -> bool:
        """Whether the bundle carries a file for the native engine."""
        return self is not Runtime.ONNX


class BudgetOn(StrEnum):
    """Quantity that a budget counts.

    FILE: bytes of the model file (of the larger one, where the bundle carries two). PARAMS: bytes
    of its weights and biases alone, the paper's metric. RSS: peak resident memory of a fresh
    process that runs one sample.
    """

    FILE = "file"
    PARAMS = "params"
    RSS = "rss"
