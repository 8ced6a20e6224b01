"""Checking a machine: a line for each thing it lacks, before anything is tried."""

from __future__ import annotations

from typing import Any

import pytest

from primesvt_deploy.edge.bench.preflight import check, packages_of

FACTS: dict[str, Any] = {
    "cpu": "Cortex-A76",
    "cpu_part": "0xd0b",
    "architecture": "aarch64",
    "board": "Raspberry Pi 5 Model B Rev 1.0",
    "logical_cores": 4,
    "python": "3.11.2",
    "numpy": "2.0.0",
    "onnxruntime": "1.22.0",
    "c_compiler": "gcc 12.2.0",
}
STATE: dict[str, Any] = {
    "governor": ["performance"],
    "throttled": None,
    "memory_available_bytes": 2_000_000_000,
    "swap_used_bytes": 0,
}


def refusals(requires: dict[str, str] | None = None, **facts: Any) -> tuple[str, ...]:
    machine = {"fingerprint": {**FACTS, **facts}, "state": STATE}
    return check(machine, requires or {}).refusals


def notes(need_bytes: int = 0, **state: Any) -> tuple[str, ...]:
    machine = {"fingerprint": FACTS, "state": {**STATE, **state}}
    found = check(machine, {}, need_bytes=need_bytes)
    assert found.refusals == ()
    return found.notes


def test_a_machine_that_has_all_is_neither_refused_nor_noted() -> None:
    assert refusals({"opset": "1.22"}) == ()
    assert notes(need_bytes=1_000_000_000) == ()


@pytest.mark.parametrize(
    ("facts", "parts"),
    [
        ({"python": "3.9.2"}, ("Python 3.9.2", "3.11 or newer")),
        ({"onnxruntime": None}, ("onnxruntime missing", "pip install", "--bootstrap")),
        ({"numpy": None}, ("numpy missing", "pip install", "--bootstrap")),
        ({"numpy": None, "onnxruntime": None}, ("onnxruntime and numpy missing",)),
        ({"onnxruntime": "1.21.0", "cpu_part": "0xd08"}, ("1.21.0", "Cortex-A72", "23957")),
        ({"onnxruntime": "1.21.0", "cpu_part": "0xd03+0xd08"}, ("Cortex-A72", "install -U")),
        ({"architecture": "armv7l"}, ("armv7l", "32-bit", "64-bit OS is needed")),
        ({"architecture": "armv8l", "onnxruntime": None}, ("64-bit OS is needed",)),
        ({"architecture": "riscv64"}, ("riscv64", "aarch64 is needed")),
    ],
)
def test_each_lack_is_one_line_that_says_what_to_do(
    facts: dict[str, Any], parts: tuple[str, ...]
) -> None:
    (line,) = refusals(**facts)
    assert "\n" not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    "facts",
    [
        {"onnxruntime": "1.21.0"},
        {"onnxruntime": "1.21.1", "cpu_part": "0xd08"},
        {"architecture": "x86_64", "cpu_part": None},
    ],
)
def test_only_what_is_known_to_fail_is_refused(facts: dict[str, Any]) -> None:
    assert refusals(**facts) == ()


def test_an_onnxruntime_too_old_for_the_bundle_names_what_it_lacks() -> None:
    requires = {"opset": "1.20", "com.microsoft::MatMulNBits": "1.22.1"}
    (line,) = refusals(requires)
    assert line.startswith("onnxruntime 1.22.0 is too old for com.microsoft::MatMulNBits (needs")
    assert "opset" not in line
    assert refusals(requires, onnxruntime="1.22.1") == ()


def test_several_lacks_are_named_at_once() -> None:
    assert len(refusals(python="3.8.1", onnxruntime=None)) == 2


def native(*runtimes: str, compiled: bool = False, **facts: Any) -> tuple[str, ...]:
    """Refusals where the native runtime is measured, with other runtimes or alone."""
    machine = {"fingerprint": {**FACTS, **facts}, "state": STATE}
    return check(machine, {}, runtimes=(*runtimes, "native"), compiled=compiled).refusals


def test_the_native_runtime_needs_no_onnxruntime_but_a_compiler() -> None:
    assert native(onnxruntime=None, architecture="armv7l") == ()
    assert native("onnx") == ()
    assert native("onnx", c_compiler=None, compiled=True) == ()
    (line,) = native(c_compiler=None)
    assert line == (
        "no C compiler there to build the native runtime with: apt install gcc libc6-dev there, or "
        "pass --cc, such as aarch64-linux-gnu-gcc, to compile it here"
    )
    (line,) = native("onnx", c_compiler=None)
    assert line.endswith(", or measure --runtime onnx")
    assert native("onnx", numpy=None) == (
        "numpy missing: pip install onnxruntime numpy there, or pass --bootstrap",
    )
    assert native(numpy=None) == ("numpy missing: pip install numpy there, or pass --bootstrap",)
    (line,) = native("onnx", architecture="armv7l")
    assert line.endswith("64-bit), or pass --runtime native")


def test_packages_are_those_of_the_runtimes() -> None:
    assert packages_of(("onnx", "native")) == ("onnxruntime", "numpy")
    assert packages_of(("native",)) == ("numpy",)


@pytest.mark.parametrize(
    ("state", "part"),
    [
        ({"memory_available_bytes": 90_000_000}, "90 MB of memory are free"),
        ({"swap_used_bytes": 5_000_000}, "swap in use: 5.0 MB"),
        ({"governor": ["ondemand"]}, "ondemand"),
        (
            {"throttled": {"raw": "0x1", "now": ["under-voltage"], "since_boot": []}},
            "under-voltage: now",
        ),
    ],
)
def test_what_disturbs_figures_is_a_note(state: dict[str, Any], part: str) -> None:
    (line,) = notes(need_bytes=100_000_000, **state)
    assert part in line
