"""The CPUs that are emulated, and their `/proc/cpuinfo`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from primesvt_deploy.errors import EmulationError

__all__ = ["CPUS", "Cpu", "cpuinfo", "parse_cpus"]

_CORES = 4
_FIELDS = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision")


@dataclass(frozen=True)
class Cpu:
    """A CPU as Linux describes it in `/proc/cpuinfo`.

    Args:
        board: a board that has it.
        identity: values of the five fields from `CPU implementer` on.
        features: value of `Features`.
    """

    board: str
    identity: tuple[str, str, str, str, str]
    features: str


CPUS = {
    "cortex-a72": Cpu("Pi 4", ("0x41", "8", "0x0", "0xd08", "3"), "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": Cpu(
        "Pi 5",
        ("0x41", "8", "0x4", "0xd0b", "1"),
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc "
        "dcpop asimddp",
    ),
}
"""The CPUs that can be emulated, by qemu's name."""


def parse_cpus(names: str | Sequence[str]) -> tuple[str, ...]:
    """Names of CPUs, each once, from names or from one text with commas between.

    Raises:
        EmulationError: one is not in `CPUS`, or none is named.
    """
    given = names.split(",") if isinstance(names, str) else list(names)
    given = list(dict.fromkeys(name.strip() for name in given if name.strip()))
    unknown = [name for name in given if name not in CPUS]
    if unknown or not given:
        choices = ", ".join(f"{name} ({cpu.board})" for name, cpu in CPUS.items())
        raise EmulationError(f"found the CPU {', '.join(unknown)!r}, expected one of {choices}")
    return tuple(given)


def cpuinfo(name: str) -> str:
    """The text of `/proc/cpuinfo` on a board with four cores of a CPU of `CPUS`."""
    cpu = CPUS[name]
    values = zip(_FIELDS, cpu.identity, strict=True)
    rows = [("BogoMIPS", "108.00"), ("Features", cpu.features), *values]
    cores = [[("processor", str(core)), *rows] for core in range(_CORES)]
    return "\n".join("".join(f"{field}\t: {value}\n" for field, value in core) for core in cores)
