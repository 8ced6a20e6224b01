"""What a machine tells of itself, on trees that stand for boards, and what is said of it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import primesvt_deploy
from primesvt_deploy.edge.bench import machine
from primesvt_deploy.edge.bench.machine import fingerprint, same_machine, state, state_notes

PACKAGE = Path(primesvt_deploy.__file__).parent
PI_4 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU part\t: {part}

Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""
QUIET: dict[str, Any] = {
    "load": [0.1, 0.2, 0.3],
    "governor": ["performance"],
    "frequency_mhz": {"now": 2400.0, "max": 2400.0},
    "temperature_c": 55.0,
    "throttled": {"raw": "0x0", "now": [], "since_boot": []},
    "memory_available_bytes": 4 << 30,
    "swap_total_bytes": 1 << 30,
    "swap_used_bytes": 0,
    "cpu_ticks": {"busy": 1000, "steal": 0, "total": 100_000, "per_second": 100},
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Pi with four cores of which this process may use three."""
    files = {
        "proc/cpuinfo": PI_4.format(part="0xd08") * 4,
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "proc/meminfo": "MemTotal:  4000 kB\nMemFree:   500 kB\nMemAvailable:  3000 kB\n"
        "SwapTotal:  100 kB\nSwapFree:  90 kB\n",
        "proc/loadavg": "0.52 0.58 0.59 1/389 12345\n",
        "proc/stat": "cpu  10 20 30 400 50 6 7 8 9 1\ncpu0 1 2 3 4 5 6 7 8 9 1\n",
        "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "sys/class/thermal/thermal_zone0/temp": "48312\n",
        "sys/class/thermal/thermal_zone1/temp": "61500\n",
        "sys/class/thermal/thermal_zone2/temp": "-273000\n",
    }
    for cpu, clock in enumerate((600_000, 1_500_000, 600_000, 600_000)):
        here = f"sys/devices/system/cpu/cpu{cpu}"
        files[f"{here}/topology/core_cpus_list"] = f"{cpu}\n"
        files[f"{here}/cpufreq/scaling_governor"] = "ondemand\n"
        files[f"{here}/cpufreq/scaling_cur_freq"] = f"{clock}\n"
        files[f"{here}/cpufreq/cpuinfo_max_freq"] = "1800000\n"
    write(tmp_path, files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 3}, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def fake_vcgencmd(root: Path, script: str) -> None:
    write(root, {"bin/vcgencmd": f"#!/bin/sh\n{script}\n"})
    (root / "bin/vcgencmd").chmod(0o755)


def test_a_board_by_its_processors_part_and_usable_cores(pi: Path) -> None:
    found = fingerprint(pi)
    assert (found["cpu"], found["cpu_part"]) == ("Cortex-A72", "0xd08")
    assert found["board"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert (found["logical_cores"], found["physical_cores"]) == (3, 3)
    assert found["features"] == ["asimd"]
    assert found["memory_bytes"] == 4000 * 1024
    assert found["system"] == "Debian GNU/Linux 12 (bookworm)"


def test_unlike_cores_are_all_named(pi: Path) -> None:
    both = PI_4.format(part="0xd05") + PI_4.format(part="0xd0b") + PI_4.format(part="0xd05")
    write(pi, {"proc/cpuinfo": both})
    found = fingerprint(pi)
    assert (found["cpu"], found["cpu_part"]) == ("Cortex-A55 + Cortex-A76", "0xd05+0xd0b")


def test_an_unknown_part_is_given_as_numbers(pi: Path) -> None:
    write(pi, {"proc/cpuinfo": PI_4.format(part="0xfff")})
    assert fingerprint(pi)["cpu"] == "implementer 0x41, part 0xfff"


def test_a_pc_by_its_model_name_and_cores_that_share_a_core(pi: Path) -> None:
    flags = "fpu sse4_1 smep avx avx2 avx512f avx512_vnni avx_vnni fma sme"
    write(pi, {"proc/cpuinfo": f"model name\t: Some CPU @ 2 GHz\nflags\t\t: {flags}\n\n" * 2})
    for cpu in (0, 1):
        write(pi, {f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list": "0-1\n"})
    found = fingerprint(pi)
    assert (found["cpu"], found["cpu_part"]) == ("Some CPU @ 2 GHz", None)
    assert (found["logical_cores"], found["physical_cores"]) == (3, 2)
    assert found["features"] == sorted(
        ["sse4_1", "avx", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "fma"]
    )


def test_a_32_bit_python_on_a_64_bit_kernel_is_a_32_bit_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    assert fingerprint()["architecture"] == "aarch64"
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert fingerprint()["architecture"] == "armv8l"


def test_versions_are_found_without_importing_and_none_where_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert fingerprint()["onnxruntime"]

    def missing(package: str) -> str:
        raise machine.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(machine.metadata, "version", missing)
    assert fingerprint()["onnxruntime"] is None and fingerprint()["numpy"] is None


@pytest.mark.parametrize(
    ("name", "script", "variables", "expected"),
    [
        ("gcc", "echo 'gcc 12.2.0'; echo 'Copyright'", {}, "gcc 12.2.0"),
        ("tcc", 'echo "$1"', {"CC": "tcc -O1"}, "-O1"),
        ("gcc", "echo 1", {"CC": "clang"}, None),
        ("cc", "exit 1", {}, None),
        ("cc", "", {}, None),
    ],
)
def test_the_c_compiler_says_its_version(
    pi: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    script: str,
    variables: dict[str, str],
    expected: str | None,
) -> None:
    monkeypatch.delenv("CC", raising=False)
    assert fingerprint(pi)["c_compiler"] is None
    write(pi, {f"bin/{name}": f"#!/bin/sh\n{script}\n"})
    (pi / "bin" / name).chmod(0o755)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert fingerprint(pi)["c_compiler"] == expected


def test_the_state_of_a_board(pi: Path) -> None:
    found = state(pi)
    assert found["load"] == [0.52, 0.58, 0.59]
    assert found["governor"] == ["ondemand"]
    assert found["frequency_mhz"] == {"now": 1500.0, "max": 1800.0}
    assert found["temperature_c"] == 61.5
    assert found["throttled"] is None
    assert found["memory_available_bytes"] == 3000 * 1024
    assert (found["swap_total_bytes"], found["swap_used_bytes"]) == (100 * 1024, 10 * 1024)
    ticks = found["cpu_ticks"]
    assert (ticks["busy"], ticks["steal"], ticks["total"]) == (73, 8, 531)


def test_a_machine_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert set(state(tmp_path).values()) == {None}
    found = fingerprint(tmp_path)
    assert found["board"] is None and found["memory_bytes"] is None and found["features"] == []
    assert state_notes(state(tmp_path), state(tmp_path), own_seconds=1.0, seconds=1.0) == []


def test_throttling_bits_are_named(pi: Path) -> None:
    fake_vcgencmd(pi, '[ "$1" = get_throttled ] && echo throttled=0x50005')
    assert state(pi)["throttled"] == {
        "raw": "0x50005",
        "now": ["under-voltage", "throttled"],
        "since_boot": ["under-voltage", "throttled"],
    }
    fake_vcgencmd(pi, "echo throttled=0x80002")
    assert state(pi)["throttled"] == {
        "raw": "0x80002",
        "now": ["frequency capped"],
        "since_boot": ["soft temperature limit"],
    }


@pytest.mark.parametrize("script", ["echo throttled=0x5; exit 1", "echo VCHI error", "exit 0"])
def test_a_firmware_tool_that_fails_tells_nothing(pi: Path, script: str) -> None:
    fake_vcgencmd(pi, script)
    assert state(pi)["throttled"] is None


def notes(**after: Any) -> list[str]:
    return state_notes(QUIET, {**QUIET, **after}, own_seconds=9.9, seconds=10.0)


def ticks(busy: int, steal: int = 0, total: int = 4000) -> dict[str, int]:
    """After so many further ticks."""
    start = QUIET["cpu_ticks"]
    return {
        "busy": start["busy"] + busy,
        "steal": start["steal"] + steal,
        "total": start["total"] + total,
        "per_second": 100,
    }


def test_nothing_is_said_where_nothing_is_wrong() -> None:
    assert notes(cpu_ticks=ticks(busy=1030)) == []


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"cpu_ticks": ticks(busy=1290)}, ["other programs took 30% of one core"]),
        ({"cpu_ticks": ticks(busy=990, steal=200)}, ["host took 5.0% of the processor time"]),
        ({"governor": ["ondemand"]}, ["frequency governor ondemand"]),
        ({"frequency_mhz": {"now": 1500.0, "max": 2400.0}}, ["clock at 1500 of 2400 MHz"]),
        ({"temperature_c": 81.2}, ["hot: 81 C"]),
        ({"swap_used_bytes": 7_000_000}, ["swap in use: 7.0 MB, 7.0 MB more than before"]),
    ],
)
def test_each_disturbance_is_one_line(after: dict[str, Any], said: list[str]) -> None:
    found = notes(**after)
    assert len(found) == len(said)
    for line, part in zip(found, said, strict=True):
        assert part in line


def test_load_before_the_start_is_said() -> None:
    before = {**QUIET, "load": [1.5, 0.1, 0.1]}
    (line,) = state_notes(before, QUIET, own_seconds=0.0, seconds=10.0)
    assert line.startswith("load 1.50 in the minute before")


def test_throttling_now_lately_and_earlier_are_distinguished() -> None:
    def reading(raw: str, now: list[str], since_boot: list[str]) -> dict[str, Any]:
        return {"throttled": {"raw": raw, "now": now, "since_boot": since_boot}}

    old = reading("0x10000", [], ["under-voltage"])
    assert state_notes({**QUIET, **old}, {**QUIET, **old}, own_seconds=0, seconds=1) == [
        "under-voltage: since boot, not now (0x10000)"
    ]
    assert notes(**reading("0x40000", [], ["throttled"])) == [
        "throttled: during the measurement (0x40000)"
    ]
    worse = reading("0x70001", ["under-voltage"], ["under-voltage", "throttled"])
    assert state_notes({**QUIET, **old}, {**QUIET, **worse}, own_seconds=0, seconds=1) == [
        "under-voltage: now (0x70001)",
        "throttled: during the measurement (0x70001)",
    ]


def test_the_clock_ticks_too_coarsely_to_blame_others_for_one_tick() -> None:
    found = state_notes(
        QUIET, {**QUIET, "cpu_ticks": ticks(busy=4, total=40)}, own_seconds=0.02, seconds=0.1
    )
    assert found == []


def test_machines_differ_by_what_changes_results() -> None:
    a = fingerprint()
    b = deepcopy(a)
    b.update(kernel="other", python="3.99", numpy="9", memory_bytes=1, system="other")
    assert same_machine(a, b) == []
    b.update(cpu="Cortex-A76", onnxruntime=None, features=[*a["features"], "i8mm"])
    assert same_machine(a, b) == [
        f"cpu: {a['cpu']} against Cortex-A76",
        f"onnxruntime: {a['onnxruntime']} against unknown",
        "features: none more against i8mm",
    ]


def test_it_runs_on_a_bare_python_with_the_package_next_to_it(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE / "edge/bench", tmp_path / "primesvt_deploy/edge/bench")
    for name in ("__init__.py", "version.py", "edge/__init__.py"):
        shutil.copy(PACKAGE / name, tmp_path / "primesvt_deploy" / name)
    done = subprocess.run(
        # Neither site-packages nor the environment: what -S leaves is the standard library.
        [sys.executable, "-S", "-E", "-m", "primesvt_deploy.edge.bench.machine"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert set(found) == {"fingerprint", "state"}
    assert found["fingerprint"]["onnxruntime"] is None
    assert set(found["state"]) == set(QUIET)


@pytest.mark.parametrize(
    "file",
    [
        *("__init__.py", "version.py", "edge/__init__.py", "edge/bench/__init__.py"),
        *("edge/bench/machine.py", "edge/bench/machine_notes.py", "edge/bench/vcgencmd.py"),
        "edge/bench/c_compiler.py",
    ],
)
def test_a_python_too_old_for_a_bundle_can_still_say_so(file: str) -> None:
    source = (PACKAGE / file).read_text(encoding="utf-8")
    assert "from __future__ import annotations" in source or file in (
        "version.py",
        "edge/__init__.py",
        "edge/bench/__init__.py",
    )
    ast.parse(source, feature_version=(3, 8))
