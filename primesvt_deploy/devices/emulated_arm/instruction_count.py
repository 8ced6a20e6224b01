"""A qemu that counts instructions: Debian's `qemu-user` and a plugin of our own.

Everything else runs on another qemu, which is linked statically as a rule and then takes no
plugins. This one comes with all its libraries, the loader included, so that it runs where none of
them is installed.
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
from primesvt_deploy.progress import SILENT, Progress

__all__ = [
    "compile_plugin",
    "counting_command",
    "counting_environment",
    "make_counting_qemu",
    "plugin_command",
]

_QEMU = "qemu-aarch64"
_PLUGIN = "instructions.so"
_SOURCE = Path(__file__).with_name("instructions.c")
_VARIABLE = "PRIMESVT_INSTRUCTIONS"
_SECOND_INTERFACE = (8, 2)  # the first qemu that refuses plugins of interface 1


def make_counting_qemu(folder: Path, progress: Progress = SILENT) -> None:
    """Put qemu, its libraries and the compiled plugin in an empty folder.

    Args:
        folder: the empty folder.
        progress: gets the stages of `unpack`.

    Raises:
        EmulationError: there is no C compiler, a package cannot be fetched, or the plugin does not
            compile.
    """
    if not shutil.which("cc"):
        raise EmulationError("there is no C compiler here to make a qemu plugin with")
    with tempfile.TemporaryDirectory(prefix="primesvt-qemu-") as scratch:
        unpacked = Path(scratch)
        unpack(["qemu-user"], unpacked, dependencies=True, progress=progress)
        for path in sorted(unpacked.rglob("*")):  # the loader's name is as good as any library's
            if (
                re.search(r"\.so(\.\d+)*$", path.name)
                and path.is_file()
                and "gconv" not in str(path)
            ):
                shutil.copy(path, folder / path.name)
        shutil.copy(unpacked / "usr/bin" / _QEMU, folder / _QEMU)
    output = call([*counting_command(folder), "--version"])
    found = re.search(r"version (\d+)\.(\d+)", output)
    if not found:
        raise EmulationError(f"{_QEMU} does not tell its version: it printed {output[:80]!r}")
    version = (int(found[1]), int(found[2]))
    compile_plugin(folder, interface=2 if version >= _SECOND_INTERFACE else 1)


def compile_plugin(folder: Path, *, interface: int) -> Path:
    """Compile the plugin for a version of qemu's plugin interface; the plugin's path.

    Raises:
        EmulationError: it does not compile.
    """
    plugin = folder / _PLUGIN
    options = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden", f"-DAPI={interface}"]
    call(["cc", *options, "-o", str(plugin), str(_SOURCE)])
    return plugin


def counting_command(folder: Path) -> list[str]:
    """Command line of this qemu, without its plugin.

    Raises:
        EmulationError: no loader came with it.
    """
    loaders = sorted(folder.glob("ld-linux*.so.*"))
    if not loaders:
        raise EmulationError(f"{folder} has no loader for {_QEMU}")
    return [str(loaders[0]), "--library-path", str(folder), str(folder / _QEMU)]


def plugin_command(folder: Path) -> list[str]:
    """Command line of this qemu with its plugin; see `counting_environment`."""
    plugin = str(folder / _PLUGIN).replace(",", ",,")  # a comma would end the name
    return [*counting_command(folder), "-plugin", plugin]


def counting_environment(environment: Mapping[str, str], file: Path) -> dict[str, str]:
    """Environment in which the plugin appends its count so far to `file` at every mark."""
    return {**environment, _VARIABLE: str(file)}
