"""What the emulated boards say of their CPUs."""

from __future__ import annotations

import pytest

from primesvt_deploy.devices.emulated_arm.cpus import CPUS, cpuinfo, parse_cpus
from primesvt_deploy.errors import EmulationError


def test_cpuinfo_has_four_cores_of_the_part() -> None:
    cores = cpuinfo("cortex-a72").split("\n\n")
    assert len(cores) == 4
    rows = dict(line.split("\t: ") for line in cores[3].splitlines())
    assert rows["processor"] == "3"
    assert rows["CPU part"] == "0xd08"
    assert rows["CPU implementer"] == "0x41"


def test_only_the_newer_cpu_has_the_dot_product() -> None:
    assert "asimddp" not in cpuinfo("cortex-a72")
    assert "asimddp" in cpuinfo("cortex-a76")


def test_names_are_taken_once_each() -> None:
    assert parse_cpus("cortex-a76, cortex-a72,cortex-a76") == ("cortex-a76", "cortex-a72")
    assert parse_cpus(list(CPUS)) == tuple(CPUS)


@pytest.mark.parametrize("names", ["cortex-a53", "cortex-a72,cortex-a53", ",", ""])
def test_an_unknown_cpu_is_told_the_known_ones(names: str) -> None:
    with pytest.raises(EmulationError, match=r"cortex-a72 \(Pi 4\), cortex-a76 \(Pi 5\)$"):
        parse_cpus(names)
