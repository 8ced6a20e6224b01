"""A qemu that counts instructions: Debian's `qemu-user` and a plugin of our own.

It is apart from the qemu that everything else runs on: that one is linked statically, as a rule,
and then takes no plugins. This one comes with all its libraries, the loader included, so that it
runs where none of them is installed.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from primesvt_deploy.devices.emulated_arm.debian_packages import unpack
from primesvt_deploy.devices.emulated_arm.programs import call
from primesvt_deploy.errors import EmulationError

__all__ = ["compile_plugin", "counted", "counting_command", "make_counter", "with_count"]

_QEMU = "qemu-aarch64"
_PLUGIN = "instructions.so"
_SOURCE = Path(__file__).with_name("instructions.c")
_VARIABLE = "PRIMESVT_INSTRUCTIONS"
_SECOND_INTERFACE = (8, 2)  # the first qemu that refuses plugins of interface 1


def make_counter(folder: Path) -> None:
    """Put qemu, its libraries and the compiled plugin in an empty folder.

    Raises:
        EmulationError: there is no C compiler, the packages cannot be had, or it does not compile.
    """
    if not shutil.which("cc"):
        raise EmulationError("there is no C compiler here to make a qemu plugin with")
    with tempfile.TemporaryDirectory(prefix="primesvt-qemu-") as scratch:
        unpacked = Path(scratch)
        unpack(["qemu-user"], unpacked, dependencies=True)
        for path in sorted(unpacked.rglob("*")):  # the loader's name is as good as any library's
            if (
                re.search(r"\.so(\.\d+)*$", path.name)
                and path.is_file()
                and "gconv" not in str(path)
            ):
                shutil.copy(path, folder / path.name)
        shutil.copy(unpacked / "usr/bin" / _QEMU, folder / _QEMU)
    said = call([*counting_command(folder), "--version"])
    found = re.search(r"version (\d+)\.(\d+)", said)
    if not found:
        raise EmulationError(f"{_QEMU} does not tell its version: it said {said[:80]!r}")
    version = (int(found[1]), int(found[2]))
    compile_plugin(folder, interface=2 if version >= _SECOND_INTERFACE else 1)


def compile_plugin(folder: Path, *, interface: int) -> Path:
    """Compile the plugin for a version of qemu's plugin interface; its path.

    Raises:
        EmulationError: it does not compile.
    """
    plugin = folder / _PLUGIN
    options = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden", f"-DAPI={interface}"]
    call(["cc", *options, "-o", str(plugin), str(_SOURCE)])
    return plugin


def counting_command(folder: Path) -> list[str]:
    """The command line that is this qemu, without its plugin.

    Raises:
        EmulationError: no loader came with it.
    """
    loaders = sorted(folder.glob("ld-linux*.so.*"))
    if not loaders:
        raise EmulationError(f"{folder} has no loader for {_QEMU}")
    return [str(loaders[0]), "--library-path", str(folder), str(folder / _QEMU)]


def counted(folder: Path) -> list[str]:
    """The command line that is this qemu with its plugin; see `with_count`."""
    plugin = str(folder / _PLUGIN).replace(",", ",,")  # a comma would end the name
    return [*counting_command(folder), "-plugin", plugin]


def with_count(environment: Mapping[str, str], file: Path) -> dict[str, str]:
    """An environment that has the plugin append its count so far to `file` at every mark."""
    return {**environment, _VARIABLE: str(file)}
