"""Buffers that live at the same time never share memory."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from primesvt_deploy.lowering.native.memory_plan import ALIGNMENT, plan_memory
from primesvt_deploy.lowering.native.records import (
    Buffer,
    Data,
    NeuronOp,
    NeuronRef,
    SpikesRef,
    ValuesRef,
)

NAME = Data(np.zeros(1, dtype=np.uint8))
OPERATORS = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 4000)), min_size=1, max_size=12)


def chain(choices: list[tuple[int, int]]) -> tuple[list[NeuronOp], list[Buffer]]:
    """Operators that each read an earlier buffer and write a new one."""
    buffers = [Buffer(100)]
    operators = []
    for source, size in choices:
        target = Buffer(size)
        operators.append(
            NeuronOp(
                name=NAME,
                input=ValuesRef(buffer=buffers[source % len(buffers)]),
                neuron=NeuronRef(),
                output=SpikesRef(buffer=target),
            )
        )
        buffers.append(target)
    return operators, buffers


@given(OPERATORS)
@settings(max_examples=100, deadline=None)
def test_no_two_live_buffers_overlap(choices: list[tuple[int, int]]) -> None:
    operators, buffers = chain(choices)
    plan = plan_memory(operators, buffers[:1], buffers[-1:])
    lives = {buffer: [number, number] for number, buffer in enumerate(buffers, start=-1)}
    for number, operator in enumerate(operators):
        assert isinstance(operator.input.buffer, Buffer)
        lives[operator.input.buffer][1] = number
    lives[buffers[-1]][1] = len(operators)
    for a in buffers:
        start = plan.offsets[a]
        assert start % ALIGNMENT == 0 and start + a.bytes <= plan.bytes
        for b in buffers:
            together = lives[a][0] <= lives[b][1] and lives[b][0] <= lives[a][1]
            apart = start + a.bytes <= plan.offsets[b] or plan.offsets[b] + b.bytes <= start
            assert a is b or not together or apart


def test_memory_of_the_dead_is_used_again() -> None:
    operators, buffers = chain([(0, 1000), (1, 1000), (2, 1000), (3, 1000)])
    plan = plan_memory(operators, buffers[:1], buffers[-1:])
    assert plan.bytes <= 2 * 1024 + ALIGNMENT
