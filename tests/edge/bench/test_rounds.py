from __future__ import annotations

from collections.abc import Sequence

from primesvt_deploy.edge.bench.rounds import warm_up


class Machine:
    """Runs that get faster, or scatter, on a clock that they move."""

    def __init__(self, times: Sequence[float]) -> None:
        self.times, self.now = list(times), 0.0

    def call(self, count: int) -> list[float]:
        ms = self.times.pop(0) if len(self.times) > 1 else self.times[0]
        self.now += ms * (count + 1) / 1e3
        return [ms] * count

    def clock(self) -> float:
        return self.now


def test_warming_up_waits_until_runs_no_longer_get_faster() -> None:
    machine = Machine([40, 30, 20, 15, 12, 11, 10.5, 10])
    found = warm_up(machine.call, most_seconds=100, clock=machine.clock)
    assert found.stable
    assert found.run_ms == 10
    assert len(machine.times) == 1, "it ended while runs were still getting faster"


def test_a_machine_that_never_settles_is_given_up() -> None:
    machine = Machine([10, 20] * 10_000)
    found = warm_up(machine.call, most_seconds=3, clock=machine.clock)
    assert not found.stable
    assert 3 < found.seconds < 4
