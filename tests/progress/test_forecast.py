"""The time left: silent until something is measured, close when it is, and never jumping."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from progress.clocks import Clock

from primesvt_deploy.progress import PlannedStage
from primesvt_deploy.progress.forecast import Forecast

PLAN = (
    PlannedStage("export", seconds=5.0),
    PlannedStage("dense accuracy", images=1000.0),
    PlannedStage("search", images=4000.0, guessed=True),
    PlannedStage("held-out accuracy", images=2000.0),
)


def played(
    forecast: Forecast, clock: Clock, seconds: dict[str, float]
) -> Iterator[tuple[str, float, float | None, float]]:
    """Run stages; after each second the stage, the true time left, the estimate, the fraction."""
    left = sum(seconds.values())
    for name, lasts in seconds.items():
        forecast.begin(name)
        for second in range(1, int(lasts) + 1):
            clock.wait(1.0)
            left -= 1.0
            forecast.report(second / lasts)
            yield name, left, forecast.remaining(), forecast.fraction()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_is_said_before_anything_is_measured(clock: Clock) -> None:
    forecast = Forecast(clock)
    assert forecast.remaining() is None
    forecast.plan(PLAN)
    forecast.begin("export")
    clock.wait(3.0)
    forecast.report(0.5)
    assert forecast.remaining() is None
    assert forecast.fraction() == 0.0


def test_where_stages_take_what_was_planned_the_estimate_is_right(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.plan(PLAN)
    seconds = {"export": 5, "dense accuracy": 100, "search": 400, "held-out accuracy": 200}
    for name, left, found, _ in played(forecast, clock, seconds):
        if name == "export":
            assert found is None
        elif found is not None:
            assert found == pytest.approx(left, rel=0.05, abs=5.0)
    assert found is not None and found < 5.0


def test_a_wrong_guess_is_mended_without_a_jump(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.plan(PLAN)
    seconds = {"export": 5, "dense accuracy": 100, "search": 1600, "held-out accuracy": 200}
    shown = [(left, found) for _, left, found, _ in played(forecast, clock, seconds)]
    known = [(left, found) for left, found in shown if found is not None]
    for (_, before), (_, after) in itertools.pairwise(known):
        assert abs(after - before) < 0.1 * before + 5.0
    assert all(found >= 0.0 for _, found in known)
    late = [(left, found) for left, found in known if left < 900]
    assert all(found == pytest.approx(left, rel=0.1, abs=5.0) for left, found in late)


def test_the_fraction_never_falls_and_stays_below_one(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.plan(PLAN)
    seconds = {"export": 50, "dense accuracy": 30, "search": 900, "held-out accuracy": 20}
    fractions = [fraction for *_, fraction in played(forecast, clock, seconds)]
    assert fractions == sorted(fractions)
    assert 0.9 < fractions[-1] <= 1.0


def test_a_stage_that_ends_early_takes_its_work_out(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.plan(PLAN)
    for _ in played(forecast, clock, {"export": 5, "dense accuracy": 100, "search": 20}):
        pass
    forecast.begin("held-out accuracy")
    clock.wait(60.0)  # so that what is shown has settled
    forecast.report(0.3)
    assert forecast.remaining() == pytest.approx(140.0, rel=0.05)


def test_results_that_were_kept_teach_nothing(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.plan(PLAN)
    forecast.begin("dense accuracy")
    clock.wait(0.1)
    forecast.report(1.0)
    forecast.begin("search")
    assert forecast.remaining() is None


def test_a_stage_that_nobody_planned_hides_the_estimate_if_it_lasts(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.plan(PLAN)
    for _ in played(forecast, clock, {"export": 5, "dense accuracy": 100}):
        pass
    forecast.begin("something else")
    assert forecast.remaining() == pytest.approx(600.0, rel=0.05)
    clock.wait(30.0)
    assert forecast.remaining() is None
    forecast.begin("search")
    assert forecast.remaining() == pytest.approx(600.0, rel=0.05)


def test_several_stages_of_one_name_are_one(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.plan(PLAN)
    for _ in played(forecast, clock, {"export": 5, "dense accuracy": 100}):
        pass
    for size in (3, 2, 1):
        forecast.begin(f"search at {size} MB")
        clock.wait(100.0)
        forecast.report(1.0)
    assert forecast.remaining() == pytest.approx(300.0, rel=0.05)


def test_a_new_plan_replaces_the_old(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.plan(PLAN)
    for _ in played(forecast, clock, {"export": 5, "dense accuracy": 100}):
        pass
    forecast.plan(PLAN[3:])
    forecast.begin("held-out accuracy")
    clock.wait(30.0)
    assert forecast.remaining() == pytest.approx(170.0, rel=0.05)


def test_a_stage_that_ends_at_the_latest_is_not_taken_for_longer(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.plan([*PLAN[:2], PlannedStage("latency", images=1e6, most=60.0)])
    for _ in played(forecast, clock, {"export": 5, "dense accuracy": 100}):
        pass
    forecast.begin("latency")
    assert forecast.remaining() == pytest.approx(60.0, abs=3.0)
    clock.wait(59.0)
    forecast.report(0.06)
    left = forecast.remaining()
    assert left is not None and left < 3.0


def test_without_a_plan_a_stage_tells_its_own_time(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.begin("fine-tuning")
    assert forecast.remaining() is None
    clock.wait(30.0)
    forecast.report(0.25)
    assert forecast.remaining() == pytest.approx(90.0)


MEASURED = tuple(replace(stage, image_s=0.1 if stage.images else None) for stage in PLAN)


def test_with_a_measured_pace_the_time_left_is_known_from_the_start(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.plan(MEASURED)
    assert forecast.remaining() == pytest.approx(705.0)
    seconds = {"export": 5, "dense accuracy": 100, "search": 400, "held-out accuracy": 200}
    for _, left, found, _ in played(forecast, clock, seconds):
        assert found == pytest.approx(left, rel=0.05, abs=5.0)


def test_a_machine_that_has_become_slower_is_noticed(clock: Clock) -> None:
    forecast = Forecast(clock)
    forecast.plan(MEASURED)
    seconds = {"export": 5, "dense accuracy": 200, "search": 800, "held-out accuracy": 400}
    for name, left, found, _ in played(forecast, clock, seconds):
        if name in ("search", "held-out accuracy"):
            assert found == pytest.approx(left, rel=0.15, abs=5.0)


def test_of_a_measured_stage_slow_steps_at_first_mislead_less(clock: Clock) -> None:
    estimates = []
    for plan in (PLAN, MEASURED):
        forecast = Forecast(clock)
        forecast.plan(plan)
        for _ in played(forecast, clock, {"export": 5, "dense accuracy": 100}):
            pass
        forecast.begin("search")  # 400 s by its plan, of which half are over
        clock.wait(200.0)
        forecast.report(0.3)
        estimates.append(forecast.remaining() or 0.0)
    assert abs(estimates[1] - 400.0) < abs(estimates[0] - 400.0)
