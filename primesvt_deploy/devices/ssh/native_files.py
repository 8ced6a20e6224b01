"""The native runtime for a host: its sources, or what a cross compiler of this machine made."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from primesvt_deploy.devices.cross_compiler import make_variables
from primesvt_deploy.devices.ssh.uploads import Upload
from primesvt_deploy.edge.bench.c_compiler import version_of
from primesvt_deploy.edge.bench.native_program import READY_PROGRAM, build_program
from primesvt_deploy.edge.runtime.native_library import READY_LIBRARY, compile_library
from primesvt_deploy.errors import BundleError, SettingsError

__all__ = ["NativeFiles", "cross_compiled"]

_FOLDER = "native"


@dataclass(frozen=True)
class NativeFiles:
    """Files that a cross compiler made.

    Attributes:
        compiler: the first line that it says of its version.
        uploads: the files, to stand in the directory on the host.
        variables: path of a file in that directory, by the environment variable that names it.
    """

    compiler: str
    uploads: list[Upload]
    variables: Mapping[str, str]


@contextmanager
def cross_compiled(command: str, *, tell: Callable[[str], None]) -> Iterator[NativeFiles]:
    """Compile the native runtime's library, and its C program `classify` if possible.

    Args:
        command: of the compiler, with options if need be.
        tell: receives a line for the user.

    Raises:
        SettingsError: there is no such compiler, or it fails.
    """
    words = shlex.split(command)
    if not words or not shutil.which(words[0]):
        raise SettingsError(
            f"--cc: found no compiler {command!r} here, expected one for the host's processor: "
            "apt install gcc-aarch64-linux-gnu and pass aarch64-linux-gnu-gcc, or leave --cc out"
        )
    tell(f"compiling the native runtime with {command}")
    with tempfile.TemporaryDirectory(prefix="svit-") as name:
        folder = Path(name)
        try:
            library = compile_library(words, folder)
        except BundleError as error:
            raise SettingsError(f"--cc: {error}") from error
        files = {READY_LIBRARY: Upload(library, f"{_FOLDER}/{library.name}")}
        try:
            program = build_program(folder / "program", variables=make_variables(words))
            files[READY_PROGRAM] = Upload(program, f"{_FOLDER}/{program.name}", executable=True)
        except BundleError as error:
            tell(f"memory of the native C program: not measured: {error}")
        yield NativeFiles(
            compiler=version_of(words) or command,
            uploads=list(files.values()),
            variables={variable: upload.target for variable, upload in files.items()},
        )
