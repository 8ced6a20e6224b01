"""Fingerprint and current state of this machine.

    python -m primesvt_deploy.edge.bench.machine

prints both as JSON. Only the standard library is imported, and nothing here needs a Python newer
than 3.8, so that a machine can say what it lacks. onnxruntime is never imported: one that does not
suit the processor ends the process.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.bench.c_compiler import compiler_version
from primesvt_deploy.edge.bench.machine_notes import same_machine, state_notes
from primesvt_deploy.edge.bench.vcgencmd import read_throttled

__all__ = ["fingerprint", "main", "same_machine", "state", "state_notes", "usable_cores"]

_ROOT = Path("/")
_CPUS = "sys/devices/system/cpu"
_ARM = "0x41"
_PARTS: Mapping[str, str] = {
    "0xb76": "ARM1176",
    "0xc07": "Cortex-A7",
    "0xc09": "Cortex-A9",
    "0xc0f": "Cortex-A15",
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
    "0xd80": "Cortex-A520",
    "0xd81": "Cortex-A720",
}
_FEATURES = re.compile(
    r"sse4_[12]|fma|f16c|avx|avx2|avx512\w*|avx_\w+|amx_\w+"
    r"|neon|vfpv4|asimd\w*|fphp|i8mm|bf16|sve\w*"
)
_MEASURED_C = range(1, 150)
"""Degrees Celsius; a zone outside reports no temperature (0 or -273 stands for none)."""


def fingerprint(root: Path = _ROOT) -> dict[str, Any]:
    """Properties of the machine that stay the same from run to run.

    Args:
        root: directory of `/proc`, `/sys` and `/etc`.

    Returns:
        `cpu`, `cpu_part` (ARM; distinct ones joined by `+`), `architecture` (of the processes it
        runs: `armv8l` for a 32-bit Python on a 64-bit kernel), `board`, `logical_cores` and
        `physical_cores` (those this process may use), `features` (sorted instruction sets that
        matter to inference), `memory_bytes`, `system`, and versions: `kernel`, `python`, `numpy`,
        `onnxruntime`, `c_compiler`; None for what the system does not report.
    """
    cpuinfo = _cpuinfo(root)
    parts = _distinct(cpuinfo.get("CPU part", ()))
    flags = (*cpuinfo.get("flags", ()), *cpuinfo.get("Features", ()))
    usable = _usable_cpus()
    return {
        "cpu": _cpu_name(cpuinfo, parts),
        "cpu_part": "+".join(parts) or None,
        "architecture": _architecture(),
        "board": _text(root / "proc/device-tree/model") or None,
        "logical_cores": len(usable),
        "physical_cores": _physical_cores(root, usable),
        "features": sorted({f for line in flags for f in line.split() if _FEATURES.fullmatch(f)}),
        "memory_bytes": _meminfo(root).get("MemTotal"),
        "system": _system(root),
        "kernel": platform.release() or None,
        "python": platform.python_version(),
        "numpy": _version("numpy"),
        "onnxruntime": _version("onnxruntime"),
        "c_compiler": compiler_version(),
    }


def state(root: Path = _ROOT) -> dict[str, Any]:
    """Load, clock, temperature and memory of the machine at this moment.

    Args:
        root: directory of `/proc` and `/sys`.

    Returns:
        `load` (1, 5 and 15 minutes), `governor` (sorted, distinct), `frequency_mhz` (`now`, of the
        fastest core, and `max`), `temperature_c` (of the hottest zone), `throttled` (see
        `vcgencmd.read_throttled`), `memory_available_bytes`, `swap_total_bytes`,
        `swap_used_bytes`, `cpu_ticks` (`busy`, `steal`, `total` of all cores since boot,
        `per_second` of one core); None for what the system does not report.
    """
    memory = _meminfo(root)
    swap, swap_free = memory.get("SwapTotal"), memory.get("SwapFree")
    return {
        "load": _load(root),
        "governor": _distinct(sorted(_of_cpus(root, "cpufreq/scaling_governor"))) or None,
        "frequency_mhz": _frequency(root),
        "temperature_c": _temperature(root),
        "throttled": read_throttled(),
        "memory_available_bytes": memory.get("MemAvailable"),
        "swap_total_bytes": swap,
        "swap_used_bytes": None if swap is None or swap_free is None else swap - swap_free,
        "cpu_ticks": _ticks(root),
    }


def usable_cores() -> int:
    """Logical cores that this process may use."""
    return len(_usable_cpus())


def main() -> int:
    """Print fingerprint and state as JSON."""
    print(json.dumps({"fingerprint": fingerprint(), "state": state()}))
    return 0


def _text(path: Path) -> str:
    """Text of a file; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip(" \n\0")
    except OSError:
        return ""


def _cpuinfo(root: Path) -> dict[str, list[str]]:
    """Values in `/proc/cpuinfo` by key, one a core."""
    found: dict[str, list[str]] = {}
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), []).append(value.strip())
    return found


def _cpu_name(cpuinfo: Mapping[str, list[str]], parts: list[str]) -> str | None:
    makers = _distinct(cpuinfo.get("CPU implementer", ()))
    if makers == [_ARM] and all(part in _PARTS for part in parts):
        # Where a 32-bit kernel gives a model name as well, it says no more than "ARMv7".
        return " + ".join(_PARTS[part] for part in parts)
    names = _distinct(cpuinfo.get("model name", ()))
    if names:
        return " + ".join(names)
    if parts:
        return f"implementer {'+'.join(makers)}, part {'+'.join(parts)}"
    return platform.processor() or None


def _architecture() -> str:
    machine = platform.machine()
    if sys.maxsize > 2**32:
        return machine
    return {"aarch64": "armv8l", "x86_64": "i686", "AMD64": "x86"}.get(machine, machine)


def _usable_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _physical_cores(root: Path, usable: Iterable[int]) -> int | None:
    topology = [root / _CPUS / f"cpu{cpu}" / "topology" for cpu in usable]
    siblings = [_text(t / "core_cpus_list") or _text(t / "thread_siblings_list") for t in topology]
    return len(set(siblings)) if siblings and all(siblings) else None


def _meminfo(root: Path) -> dict[str, int]:
    """Sizes in `/proc/meminfo` by key, bytes."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    return {key: 1024 * int(value) for key, value in found}


def _system(root: Path) -> str | None:
    release = _text(root / "etc/os-release") or _text(root / "usr/lib/os-release")
    found = re.search(r"^PRETTY_NAME=[\"']?(.*?)[\"']?$", release, re.MULTILINE)
    return found.group(1) if found else platform.system() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _load(root: Path) -> list[float] | None:
    found = re.match(r"([\d.]+) ([\d.]+) ([\d.]+) ", _text(root / "proc/loadavg"))
    return [float(part) for part in found.groups()] if found else None


def _of_cpus(root: Path, name: str) -> list[str]:
    """Contents of the file of that name of each core."""
    texts = (_text(path) for path in (root / _CPUS).glob(f"cpu[0-9]*/{name}"))
    return [text for text in texts if text]


def _frequency(root: Path) -> dict[str, float] | None:
    now = [int(k) for k in _of_cpus(root, "cpufreq/scaling_cur_freq") if k.isdigit()]
    most = [int(k) for k in _of_cpus(root, "cpufreq/cpuinfo_max_freq") if k.isdigit()]
    return {"now": max(now) / 1e3, "max": max(most) / 1e3} if now and most else None


def _temperature(root: Path) -> float | None:
    found = []
    for path in (root / "sys/class/thermal").glob("thermal_zone*/temp"):
        text = _text(path)
        if text.isdigit() and int(text) // 1000 in _MEASURED_C:
            found.append(int(text) / 1e3)
    return max(found, default=None)


def _ticks(root: Path) -> dict[str, int] | None:
    # user nice system idle iowait irq softirq steal; guests are part of user.
    found = re.match(r"cpu +((?:\d+ ){7}\d+)", _text(root / "proc/stat"))
    if found is None:
        return None
    counts = [int(part) for part in found.group(1).split()]
    idle, steal = counts[3] + counts[4], counts[7]
    return {
        "busy": sum(counts) - idle - steal,
        "steal": steal,
        "total": sum(counts),
        "per_second": os.sysconf("SC_CLK_TCK"),
    }


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


if __name__ == "__main__":
    sys.exit(main())
