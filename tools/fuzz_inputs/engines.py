"""Ways to choose the next file: at random, by hypothesis, or guided by what atheris sees run."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from random import Random

from fuzz_inputs.outcomes import Found, judge, judge_many
from fuzz_inputs.targets import Target

__all__ = ["ENGINES", "Tell"]

Tell = Callable[[str, int, Sequence[Found]], None]
"""Gets a target's name, how many files it was given, and which were not clean."""

_AT_ONCE = 100
_OF_A_PROCESS = 5


def seeded(targets: Sequence[Target], seconds: float, seed: int, tell: Tell) -> None:
    """All targets in turns, with files altered at random."""
    random, end = Random(seed), time.monotonic() + seconds
    for target in _in_turns(targets, end):
        count = _OF_A_PROCESS if target.costly else _AT_ONCE
        tell(target.name, count, judge_many(target, random, count))


def by_hypothesis(targets: Sequence[Target], seconds: float, seed: int, tell: Tell) -> None:
    """All targets in turns, with edits that hypothesis draws, and shrinks if one is not clean."""
    random, end = Random(seed), time.monotonic() + seconds
    for target in _in_turns(targets, end):
        count = _OF_A_PROCESS if target.costly else _AT_ONCE
        tell(target.name, count, _shortest(target, count, random.randrange(2**32)))


def _shortest(target: Target, count: int, seed: int) -> list[Found]:
    """The shortest edits, of so many that are drawn, with which a target is not clean."""
    import hypothesis
    from hypothesis import strategies as st

    last: list[Found] = []
    edits = st.lists(
        st.tuples(st.integers(0, 2**20), st.integers(0, 64), st.binary(max_size=64)), max_size=6
    )

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.sampled_from(target.seeds), edits)
    def find(content: bytes, drawn: Sequence[tuple[int, int, bytes]]) -> None:
        changed = bytearray(content)
        for place, left_out, put_in in drawn:
            start = place % (len(changed) + 1)
            changed[start : start + left_out] = put_in
        found = judge(target, bytes(changed))
        if found is not None:
            last[:] = [found]
            raise AssertionError(found.said)

    with contextlib.suppress(AssertionError):
        find()
    return last


def by_atheris(targets: Sequence[Target], seconds: float, seed: int, tell: Tell) -> None:
    """One target, guided by coverage; it ends the process."""
    import atheris

    (target,) = targets

    def one(content: bytes) -> None:
        found = judge(target, content)
        tell(target.name, 1, [found] if found else [])

    def altered(content: bytes, most: int, number: int) -> bytes:
        random = Random(number)
        if random.random() < 0.5:
            return bytes(atheris.Mutate(content, most))[:most]
        return target.alter(content or target.seeds[0], random)[:most]

    corpus = f"{os.environ.get('TMPDIR', '/tmp')}/fuzz-inputs-{os.getpid()}"
    os.makedirs(corpus)
    for number, content in enumerate(target.seeds):
        with open(f"{corpus}/{number}", "wb") as file:
            file.write(content)
    longest = max(map(len, target.seeds)) + 4096
    options = [f"-max_total_time={int(seconds)}", f"-seed={seed}", f"-max_len={longest}"]
    atheris.Setup([sys.argv[0], *options, "-rss_limit_mb=4096", corpus], one,
                  custom_mutator=altered)  # fmt: skip
    atheris.Fuzz()


def _in_turns(targets: Sequence[Target], end: float) -> Iterator[Target]:
    while True:
        for target in targets:
            if time.monotonic() > end:
                return
            yield target


ENGINES = {"seeded": seeded, "hypothesis": by_hypothesis, "atheris": by_atheris}
