"""Compilers that keep what they made: engines are compiled from the same text by many tests.

Before each compiler on PATH stands a script that knows a command by the compiler's version, by its
options, and by its source as the preprocessor gives it, as ccache does: what macros and folders of
headers do is in there. With debug information it knows the lines and places of that, too. Nothing
is kept of commands that compile and link at once, fail, or say anything.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept_files import kept_directory

__all__ = ["write_compiler"]

COMPILERS = ("cc", "gcc", "clang", "aarch64-linux-gnu-gcc", "arm-none-eabi-gcc")

_SCRIPT = """#!/bin/sh
real={real} version={version} kept={kept}
left=$# out= compiles= other= options= lines=-P
while [ $left -gt 0 ]; do
    argument=$1
    shift
    left=$((left - 1))
    case $argument in
    -o) out=$1; shift; left=$((left - 1)); continue ;;
    -c) compiles=1 ;;
    -E | -M* | -S | -save-temps* | @*) other=1 ;;
    -g*) lines= options="$options $argument" ;;
    -I* | -D?*) ;;
    *) [ -f "$argument" ] || options="$options $argument" ;;
    esac
    set -- "$@" "$argument"
done
if [ -z "$compiles" ] || [ -z "$out" ] || [ -n "$other" ]; then
    exec "$real" "$@" ${{out:+-o "$out"}}
fi
made=$kept/$( (echo "$version$options"; exec "$real" "$@" -E $lines 2>&1) | sha256sum | cut -c -64)
if [ -f "$made" ]; then
    touch "$made"
    exec cp "$made" "$out"
fi
"$real" "$@" -o "$out" 2> "$made.$$.said"
code=$?
cat "$made.$$.said" >&2
[ $code = 0 ] && [ ! -s "$made.$$.said" ] && cp "$out" "$made.$$" && mv "$made.$$" "$made"
rm -f "$made.$$.said"
exit $code
"""


@pytest.fixture(scope="session", autouse=True)
def _compilers_that_keep(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Both workers of a run share what is kept."""
    kept, folder = kept_directory(request, "objects"), tmp_path_factory.mktemp("compilers")
    for name in COMPILERS:
        real = shutil.which(name)
        if real:
            write_compiler(folder / name, real, kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        yield


def write_compiler(path: Path, real: str, kept: Path) -> None:
    """The script that stands for a compiler."""
    # With this every included path and every predefined option is said. cc and gcc are one.
    command = [os.path.realpath(real), "-v", "-E", "-x", "c", os.devnull]
    said = subprocess.run(command, capture_output=True).stderr
    version = hashlib.sha256(said).hexdigest()
    path.write_text(
        _SCRIPT.format(real=shlex.quote(real), version=version, kept=shlex.quote(str(kept)))
    )
    path.chmod(0o755)
