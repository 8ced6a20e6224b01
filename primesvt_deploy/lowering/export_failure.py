"""Explain in one line why torch.onnx could not export a module, and where in the user's code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from primesvt_deploy.errors import type_and_message
from primesvt_deploy.lowering.code_line import line_of_error, line_of_stack

__all__ = ["export_failure"]

_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")
_NODE = re.compile(r"Error when translating node %(\w+)")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_DATA_DEPENDENT = {
    "GuardOnDataDependentSymNode",
    "DataDependentOutputException",
    "DynamicOutputShapeException",
}


def export_failure(
    error: BaseException, module: nn.Module, example: torch.Tensor, dynamic_shapes: Any
) -> str:
    """Reason, line of the user's code where one is known, and advice.

    torch.onnx tries several ways of capturing a module and reports the last, so that what made
    the first one fail is found by capturing the module once more.

    Args:
        error: what `torch.onnx.export` raised.
        module: that it was given, with its example input and dynamic shapes.
        example: see `module`.
        dynamic_shapes: see `module`.
    """
    try:
        program = torch.export.export(
            module, (example,), dynamic_shapes=dynamic_shapes, strict=False
        ).run_decompositions()
    except Exception as cause:  # torch.export raises many kinds
        return _of_capture(cause)
    return _of_translation(error, program)


def _of_capture(cause: Exception) -> str:
    text = str(cause)
    place = line_of_error(cause) or line_of_stack(text)
    kind = type(cause).__name__
    if "specialized" in text and "dynamic" in text:
        reason = "its code fixes the number of samples, which an artifact leaves open"
        return f"{reason}{_at(place)}; take it from the input's shape"
    if kind in _DATA_DEPENDENT:
        reason = "its code decides by the value of a tensor"
        advice = "decide by a plain Python number or flag, or compute both with torch.where"
        return f"{reason}{_at(place)}; {advice}"
    advice = "write this part with plain torch operators"
    return f"torch.export cannot capture it{_at(place)}: {_one_line(cause)}; {advice}"


def _of_translation(error: BaseException, program: torch.export.ExportedProgram) -> str:
    messages = [str(each) for each in _causes(error)]
    node = next((found[1] for text in messages if (found := _NODE.search(text))), None)
    stacks = [n.meta.get("stack_trace") or "" for n in program.graph.nodes if n.name == node]
    place = line_of_stack(stacks[0]) if stacks else ""
    operator = next((found[1] for text in messages if (found := _OPERATOR.search(text))), None)
    advice = "; compute it of other torch operators"
    if operator is None:
        cause = _one_line([*_causes(error)][-1])
        return f"an operator cannot be written in ONNX{_at(place)}: {cause}{advice}"
    return f"ONNX has no operator for {operator}{_at(place)}{advice}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _one_line(error: BaseException) -> str:
    """Type and first sentence of an error's message."""
    text = _ESCAPES.sub("", type_and_message(error))
    return text.partition(". ")[0].rstrip(".:, ")


def _at(place: str) -> str:
    return f" ({place})" if place else ""
