"""Power as the firmware's tool tells it, from scripts that stand for the tool."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from primesvt_deploy.edge.bench import vcgencmd
from primesvt_deploy.edge.bench.power import Sampler, measure_power, read_watts

READINGS = """     3V7_WL_SW_A current(0)=0.50000000A
   3V3_SYS_A current(1)=0.10000000A
   VDD_CORE_A current(7)={core}A
     3V7_WL_SW_V volt(8)=4.00000000V
   3V3_SYS_V volt(9)=3.00000000V
   VDD_CORE_V volt(15)=0.50000000V
      EXT5V_V volt(24)=5.12345000V
"""
Fake = Callable[[str], None]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a `vcgencmd` on the path that runs a script."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def install(script: str) -> None:
        path = tmp_path / "vcgencmd"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return install


def readings(core: str = "2.00000000") -> str:
    return f'[ "$1" = pmic_read_adc ] || exit 1\ncat <<END\n{READINGS.format(core=core)}END'


def test_power_is_the_sum_over_rails_that_have_both(fake: Fake) -> None:
    fake(readings())
    assert read_watts() == pytest.approx(0.5 * 4.0 + 0.1 * 3.0 + 2.0 * 0.5)


@pytest.mark.parametrize(
    "script",
    ["exit 1", f"{readings()}\nexit 3", "echo 'error=1 error_msg=\"Command not registered\"'"],
)
def test_a_board_that_cannot_tell_gives_none_and_runs_nothing(fake: Fake, script: str) -> None:
    fake(script)
    assert read_watts() is None
    assert measure_power(lambda: pytest.fail("ran"), idle_seconds=0.0) is None


def test_no_tool_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert read_watts() is None


def test_rubbish_bytes_are_no_power(fake: Fake) -> None:
    fake(r"printf '\377\000 current(0)=x\nA_A current(0)=1.0A\nB_V volt(1)=1.0V\n'")
    assert read_watts() is None


def test_a_tool_that_hangs_is_given_up(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("exec sleep 60")
    started = time.perf_counter()
    assert vcgencmd.ask_firmware("pmic_read_adc", seconds=0.2) is None
    assert time.perf_counter() - started < 5


def test_energy_is_power_by_time_with_and_without_idle(fake: Fake, tmp_path: Path) -> None:
    busy = tmp_path / "busy"
    fake(f"[ -e {busy} ] && CORE=6.00000000 || CORE=2.00000000\n{readings('${CORE}')}")

    def run() -> int:
        busy.touch()
        time.sleep(0.5)
        return 50

    use = measure_power(run, idle_seconds=0.2, interval=0.02)
    assert use is not None
    assert use.idle.mean_watts == pytest.approx(3.3)
    # The first sample may have been asked for before the script saw the board busy.
    assert 4.3 < use.running.mean_watts <= 5.3 + 1e-9
    assert use.idle.samples >= 2 and use.running.samples >= 5
    assert use.inferences == 50 and use.seconds >= 0.5
    assert use.millijoules == pytest.approx(1e3 * use.running.mean_watts * use.seconds / 50)
    assert use.millijoules - use.millijoules_above_idle == pytest.approx(
        1e3 * 3.3 * use.seconds / 50
    )
    content = use.to_dict()
    assert content["millijoules_an_inference"] == use.millijoules
    assert content["covers"].startswith("PMIC rails")


def test_nothing_done_is_no_energy(fake: Fake) -> None:
    fake(readings())
    assert measure_power(lambda: 0, idle_seconds=0.1, interval=0.02) is None


def test_a_block_that_fails_ends_its_sampling(fake: Fake) -> None:
    fake(readings())
    sampler = Sampler(interval=0.02)
    with pytest.raises(KeyError), sampler:
        time.sleep(0.2)
        raise KeyError
    assert sampler.power is not None and sampler.power.seconds >= 0.2
    count = sampler.power.samples
    time.sleep(0.1)
    assert sampler.power.samples == count
