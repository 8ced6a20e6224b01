"""Check whether a machine can run a bundle, before anything is tried there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from primesvt_deploy.edge.bench.machine_notes import standing_notes
from primesvt_deploy.edge.runtime.runtimes import NATIVE, ONNX
from primesvt_deploy.edge.runtime.versions import UPGRADE, lacking, version_numbers

__all__ = ["KNOWN_BAD", "KnownBad", "Preflight", "check", "packages_of"]

_OLDEST_PYTHON = (3, 11)
_WITH_WHEELS = ("x86_64", "aarch64", "arm64", "AMD64")
_OF_32_BITS = ("armv6l", "armv7l", "armv8l", "arm", "i386", "i486", "i586", "i686", "x86")


@dataclass(frozen=True, kw_only=True)
class KnownBad:
    """A version of onnxruntime that does not work on a processor.

    Args:
        onnxruntime: version of onnxruntime.
        cpu_part: part number of the processor in `/proc/cpuinfo`.
        cpu: name of the processor.
        reason: what happens there.
    """

    onnxruntime: str
    cpu_part: str
    cpu: str
    reason: str


KNOWN_BAD = (
    KnownBad(
        onnxruntime="1.21.0",
        cpu_part="0xd08",
        cpu="Cortex-A72",
        reason="illegal instruction, onnxruntime issue 23957",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """Result of checking a machine.

    Args:
        refusals: reasons why nothing can be measured there, one line each.
        notes: notes on figures measured there, one line each.
    """

    refusals: tuple[str, ...]
    notes: tuple[str, ...]


def packages_of(runtimes: Sequence[str]) -> tuple[str, ...]:
    """Packages that runtimes need, by their names for pip and for import."""
    return ("onnxruntime", "numpy") if ONNX in runtimes else ("numpy",)


def check(
    machine: Mapping[str, Any],
    requires: Mapping[str, str],
    *,
    need_bytes: int = 0,
    runtimes: Sequence[str] = (ONNX,),
    compiled: bool = False,
) -> Preflight:
    """Check whether a machine can run a bundle.

    Args:
        machine: output of `python -m primesvt_deploy.edge.bench.machine` there: `fingerprint`
            and `state`.
        requires: the least onnxruntime, by `domain::Operator` or `opset`, as in `session.json`.
        need_bytes: memory that a run takes; 0 if it has not been measured.
        runtimes: the runtimes that it shall run the bundle in.
        compiled: whether the native runtime comes compiled.
    """
    facts, state = machine["fingerprint"], machine["state"]
    notes = [*_memory_notes(state, need_bytes), *standing_notes(state)]
    refusals = tuple(_refusals(facts, requires, runtimes, compiled))
    return Preflight(refusals=refusals, notes=tuple(notes))


def _refusals(
    facts: Mapping[str, Any], requires: Mapping[str, str], runtimes: Sequence[str], compiled: bool
) -> Iterator[str]:
    without_wheels = _without_wheels(facts["architecture"])
    if without_wheels and ONNX in runtimes:
        yield without_wheels + (", or pass --runtime native" if NATIVE in runtimes else "")
        return
    if version_numbers(facts["python"]) < _OLDEST_PYTHON:
        yield f"Python {facts['python']} is too old: 3.11 or newer is needed"
    packages = packages_of(runtimes)
    missing = [package for package in packages if facts[package] is None]
    if missing:
        install = f"pip install {' '.join(packages)} there, or pass --bootstrap"
        yield f"{' and '.join(missing)} missing: {install}"
    if ONNX in runtimes and facts["onnxruntime"] is not None:
        yield from _runtime_refusals(facts, requires)
    if NATIVE in runtimes and not compiled and facts.get("c_compiler") is None:
        others = ", or measure --runtime onnx" if ONNX in runtimes else ""
        yield (
            "no C compiler there to build the native runtime with: apt install gcc libc6-dev "
            f"there, or pass --cc, such as aarch64-linux-gnu-gcc, to compile it here{others}"
        )


def _without_wheels(architecture: str) -> str:
    """One line on why onnxruntime cannot be installed; empty: it can."""
    if architecture in _OF_32_BITS:
        return (
            f"{architecture} is a 32-bit system, for which onnxruntime has no wheels: "
            "a 64-bit OS is needed (such as Raspberry Pi OS 64-bit)"
        )
    if architecture not in _WITH_WHEELS:
        return f"onnxruntime has no wheels for {architecture}: x86_64 or aarch64 is needed"
    return ""


def _runtime_refusals(facts: Mapping[str, Any], requires: Mapping[str, str]) -> Iterator[str]:
    version = facts["onnxruntime"]
    lacks = lacking(version, requires)
    if lacks:
        yield f"onnxruntime {version} is too old for {', '.join(lacks)}: {UPGRADE} there"
    parts = (facts.get("cpu_part") or "").split("+")
    for bad in KNOWN_BAD:
        if version_numbers(version) == version_numbers(bad.onnxruntime) and bad.cpu_part in parts:
            yield (
                f"onnxruntime {version} does not work on {bad.cpu} ({bad.reason}): {UPGRADE} there"
            )


def _memory_notes(state: Mapping[str, Any], need_bytes: int) -> Iterator[str]:
    available = state.get("memory_available_bytes")
    if available is not None and available < need_bytes:
        yield (
            f"{available / 1e6:.0f} MB of memory are free, a run takes about "
            f"{need_bytes / 1e6:.0f} MB: expect swapping, or that it is killed"
        )
