"""Let the engine sum all products of a layer instead of the rows of its active inputs.

Which takes less time depends on how many inputs fire, and on the processor: the engine decides by
both (`edge/native/svit_products.c`). It may where the memory allows for it.
"""

from __future__ import annotations

from dataclasses import replace

from primesvt_deploy.lowering.native.memory_plan import plan_memory
from primesvt_deploy.lowering.native.program import NativeProgram
from primesvt_deploy.lowering.native.records import Operator, SparseOp, SpikesRef
from primesvt_deploy.lowering.native.scratch import products_bytes, scratch_bytes

__all__ = ["LARGEST_COUNT", "largest_count", "with_products"]

LARGEST_COUNT = 127
"""Of an input, `PRODUCT_LARGEST` in the engine."""
_WINDOWS = (32, 16)
"""Windows whose counts are gathered at a time, one for each position and step."""


def with_products(program: NativeProgram) -> NativeProgram:
    """The same program, in no more memory."""
    allowed = _memory(program)
    room = max((scratch_bytes(operator) for operator in program.operators), default=0)
    wanted = tuple(_with_products(operator, room) for operator in program.operators)
    if _memory(replace(program, operators=wanted)) <= allowed:
        return replace(program, operators=wanted)
    for place, operator in enumerate(wanted):
        operators = (*program.operators[:place], operator, *program.operators[place + 1 :])
        found = replace(program, operators=operators)
        if operator is not program.operators[place] and _memory(found) <= allowed:
            program = found
    return program


def _memory(program: NativeProgram) -> int:
    """Bytes of the arena."""
    given, taken = [program.input_buffer()], [program.logits_buffer()]
    return plan_memory(program.operators, given, taken).bytes


def _with_products(operator: Operator, room: int) -> Operator:
    if not isinstance(operator, SparseOp) or largest_count(operator.input) > LARGEST_COUNT:
        return operator
    steps = operator.input.steps
    choices = (replace(operator, gathered=max(count // steps, 1)) for count in _WINDOWS)
    return next((op for op in choices if products_bytes(op) <= room), operator)


def largest_count(spikes: SpikesRef) -> int:
    """The largest count that a spike tensor has room for."""
    return 2**spikes.planes - 1 if spikes.binary else spikes.planes * spikes.step_bits
