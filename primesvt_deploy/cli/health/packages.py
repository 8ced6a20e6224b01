"""Python packages: versions against those that the project demands, and whether they import."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata

from primesvt_deploy.cli.health.finding import BROKEN, MISSING, OK, Finding
from primesvt_deploy.cli.health.probe import Probe
from primesvt_deploy.edge.runtime.versions import version_numbers

__all__ = [
    "check_imports",
    "check_packages",
    "check_torch",
    "installed_version",
    "requirements",
    "start_edge_imports",
    "start_torch",
]

PROJECT = "primesvt-deploy"
_EDGE = "Edge install: run, inspect, bench, compare"
_AREAS = {
    "": (_EDGE, "every command"),
    "build": ("Build extra: build, frontier, analyze, verify", "build, frontier, analyze, verify"),
    "ssh": ("SSH extra: bench --host", "bench --host"),
    "cluster": ("Cluster extra: --workers, --ray", "--workers and --ray"),
    "sign": ("Sign extra: build --sign, --trust", "build --sign, --trust of other commands"),
}
"""Heading, and what needs it, by extra; no others are for users."""
_ON_GPU = "searching and fine-tuning on a GPU (--device cuda)"
_REQUIREMENT = re.compile(r"([\w.-]+)\s*>=\s*([\w.]+)(?:\s*;\s*extra\s*==\s*[\"'](\w+)[\"'])?")
_IMPORTS = "import numpy, onnxruntime, PIL.Image"
_TORCH = """\
import json, torch
cuda = torch.cuda.is_available()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({"built_for": torch.version.cuda, "devices": names}))
"""


def installed_version(name: str) -> str | None:
    """Version of an installed distribution, without importing it; None: it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements() -> dict[str, dict[str, str]] | None:
    """Lowest version by distribution, by extra; None where the project itself is not installed."""
    try:
        lines = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        return None
    found: dict[str, dict[str, str]] = {extra: {} for extra in _AREAS}
    for line in lines:
        match = _REQUIREMENT.fullmatch(line.strip())
        if match and (match[3] or "") in found:
            found[match[3] or ""][match[1]] = match[2]
    for name in found["ssh"]:  # of which `build` is a superset
        found["build"].pop(name, None)
    return found


def check_packages() -> Iterator[Finding]:
    """Python, and each package that the edge install or an extra demands."""
    yield Finding(_EDGE, "python", OK, platform.python_version())
    demanded = requirements()
    if demanded is None:
        yield Finding(
            *(_EDGE, PROJECT, MISSING, "it is found on the path, but not installed"),
            needed_for="checking the versions of packages",
            mend=f"pip install {PROJECT}",
        )
        return
    for extra, packages in demanded.items():
        for name, lowest in sorted(packages.items()):
            yield _package(extra, name, lowest)


def _package(extra: str, name: str, lowest: str) -> Finding:
    area, needed_for = _AREAS[extra]
    version = installed_version(name)
    if version is None:
        state, found = MISSING, ""
        mend = f"pip install '{PROJECT}[{extra}]'" if extra else f"pip install '{name}>={lowest}'"
    elif version_numbers(version) < version_numbers(lowest):
        state, found = BROKEN, f"{version}, expected {lowest} or newer"
        mend = f"pip install -U '{name}>={lowest}'"
    else:
        state, found, mend = OK, version, ""
    return Finding(area, name, state, found, needed_for, mend, required=not extra)


def start_edge_imports() -> Probe | None:
    """Import the edge install's packages in a process of their own, if they are installed."""
    if any(installed_version(name) is None for name in ("numpy", "onnxruntime", "pillow")):
        return None
    return Probe([sys.executable, "-P", "-c", _IMPORTS])


def start_torch() -> Probe | None:
    """Import torch in a process of its own, and ask for CUDA, if it is installed."""
    if installed_version("torch") is None:
        return None
    return Probe([sys.executable, "-P", "-c", _TORCH])


def check_imports(probe: Probe | None) -> Iterator[Finding]:
    """Whether the edge install's packages import: onnxruntime may not suit the processor."""
    if probe is None:
        return
    failure = probe.failure()
    name = "import of numpy, onnxruntime and Pillow"
    if failure is None:
        yield Finding(_EDGE, name, OK, "", "every command", required=True)
        return
    mend = "pip install --force-reinstall numpy onnxruntime pillow"
    yield Finding(_EDGE, name, BROKEN, failure, "every command", mend, required=True)


def check_torch(probe: Probe | None) -> Iterator[Finding]:
    """Whether torch imports, and what CUDA devices it finds."""
    if probe is None:
        return
    area, needed_for = _AREAS["build"]
    failure = probe.failure()
    if failure is not None:
        mend = "pip install --force-reinstall torch"
        yield Finding(area, "import of torch", BROKEN, failure, needed_for, mend)
        return
    said = probe.json()
    yield Finding(area, "import of torch", OK, "", needed_for)
    devices = said["devices"]
    if devices:
        named = ", ".join(f"cuda:{number} {name}" for number, name in enumerate(devices))
        yield Finding(area, "CUDA", OK, named, _ON_GPU)
    else:
        built = said["built_for"]
        found = f"no device answers torch for CUDA {built}" if built else "this torch is for CPUs"
        yield Finding(
            *(area, "CUDA", MISSING, found, f"{_ON_GPU} alone"),
            "an NVIDIA driver" if built else "see pytorch.org/get-started for a torch with CUDA",
        )
