"""Compile the engine's C sources with this machine's compiler, once, and load the result."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import BundleError

__all__ = ["OWN_SOURCES", "READY_LIBRARY", "compile_library", "load_library"]

OWN_SOURCES = Path(__file__).resolve().parents[1] / "native"
"""The engine's sources that belong to this file: `native/` beside the directory it is in.

In a bundle that is the bundle's `native/`. An installed package takes its own, never a bundle's: to
compile those would be to run code of a bundle that was only to be read.
"""

READY_LIBRARY = "PRIMESVT_NATIVE_LIBRARY"
"""Environment variable that names a library which was compiled elsewhere, for a device without a
compiler; see `compile_library`."""

_HEADERS = ("svit.h", "svit_threads.h")
_FUNCTION = r"^(?!typedef)\w[\w *]*\b(svit_\w+)\("
_COMPILERS = ("cc", "gcc", "clang")
_INSTALL = "apt install gcc libc6-dev"
# The last two: results are bit-identical only where no multiplication is fused with an addition.
_FLAGS = ("-std=c99", "-O3", "-fPIC", "-pthread", "-fno-fast-math", "-ffp-contract=off")
_OTHERS_WRITE = 0o022


def load_library(sources: str | os.PathLike[str] = OWN_SOURCES) -> ctypes.CDLL:
    """Load the engine, compiled if this machine has not done so before.

    The library is kept in `primesvt-deploy/` of `XDG_CACHE_HOME` or `~/.cache`, under a name made
    of the sources, the compiler's version and the machine. Where nothing can be kept or loaded from
    there, it is compiled in a temporary directory each time. A library that `READY_LIBRARY` names
    is taken as it is.

    Args:
        sources: directory of the C files.

    Raises:
        BundleError: no sources, no compiler, or one that fails; or a named library that does not
            load, or lacks a function.
    """
    files = _engine_files(Path(sources))
    ready = os.environ.get(READY_LIBRARY, "")
    if ready:
        return _loaded_ready(Path(ready), files)
    compiler = _find_compiler()
    kept = _cache() / f"svit-{_key(files, compiler)}.so"
    return _loaded_if_ours(kept) or _compiled(files, compiler, kept)


def compile_library(
    compiler: Sequence[str], directory: Path, sources: str | os.PathLike[str] = OWN_SOURCES
) -> Path:
    """Compile the engine with a given compiler, such as one for another processor; the library.

    Args:
        compiler: its command.
        directory: an existing directory, to which the library is written.
        sources: directory of the C files.

    Raises:
        BundleError: no sources, or the compiler fails.
    """
    return _compile(_engine_files(Path(sources)), compiler, directory)


def _loaded_ready(library: Path, files: Sequence[Path]) -> ctypes.CDLL:
    """A library that was compiled elsewhere, with all functions of the engine's headers."""
    source, machine = files[0].parent, os.uname().machine
    remedy = f"compile it from {source} for this machine ({machine}), or unset {READY_LIBRARY}"
    try:
        loaded = ctypes.CDLL(os.path.abspath(library))
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise BundleError(f"{library} cannot be loaded ({reason}): {remedy}") from error
    headers = [file.read_text(encoding="utf-8") for file in files if file.name in _HEADERS]
    functions = re.findall(_FUNCTION, "\n".join(headers), re.MULTILINE)
    missing = [name for name in functions if not hasattr(loaded, name)]
    if missing:
        raise BundleError(f"{library} has no {', '.join(missing)}: {remedy}")
    return loaded


def _engine_files(sources: Path) -> list[Path]:
    files = sorted([*sources.glob("svit*.c"), *sources.glob("svit*.h")])
    if not any(file.name == "svit.c" for file in files):
        raise BundleError(
            f"found no svit.c in {sources}, expected the C sources of the native runtime: copy the "
            "bundle again"
        )
    return files


def _find_compiler() -> tuple[str, ...]:
    """The command of `CC`, or of a compiler that is there."""
    wanted = shlex.split(os.environ.get("CC", ""))
    for command in [wanted] if wanted else [[name] for name in _COMPILERS]:
        if shutil.which(command[0]):
            return tuple(command)
    if wanted:
        raise BundleError(
            f"found no C compiler {wanted[0]!r}, which CC names: unset CC, or {_INSTALL}"
        )
    raise BundleError(
        f"found no C compiler, expected {', '.join(_COMPILERS)} to build the native runtime with: "
        f"{_INSTALL}"
    )


def _key(files: Sequence[Path], compiler: Sequence[str]) -> str:
    version = _run([*compiler, "--version"])
    machine = (os.uname().machine, str(ctypes.sizeof(ctypes.c_void_p)))
    digest = hashlib.sha256("\0".join((*compiler, version, *machine, *_FLAGS)).encode())
    for file in files:
        content = file.read_bytes()
        digest.update(f"\0{file.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:32]


def _cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    # A relative one is to be ignored, says the XDG specification.
    base = Path(named) if os.path.isabs(named) else Path(os.path.expanduser("~")) / ".cache"
    return base / "primesvt-deploy"


def _loaded_if_ours(library: Path) -> ctypes.CDLL | None:
    """A library that nobody else can have written; None where there is none that loads."""
    try:
        status = library.stat()
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & _OTHERS_WRITE:
            return None
        return ctypes.CDLL(str(library))
    except OSError:  # not there; or damaged, or of another C library, or on a file system noexec
        return None


def _compiled(files: Sequence[Path], compiler: Sequence[str], kept: Path) -> ctypes.CDLL:
    """Compile, keep the library for the next process if possible, and load it."""
    import tempfile  # not at the top: it is not needed where the library is there

    try:
        with tempfile.TemporaryDirectory(prefix="svit-") as name:
            built = _compile(files, compiler, Path(name))
            _keep(built, kept)
            # It may be removed as soon as it is loaded.
            return _loaded_if_ours(kept) or ctypes.CDLL(str(built))
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise BundleError(
            f"the native runtime cannot be built or loaded ({reason}): let TMPDIR name a directory "
            "with free space that programs may run from"
        ) from error


def _compile(files: Sequence[Path], compiler: Sequence[str], directory: Path) -> Path:
    from concurrent.futures import ThreadPoolExecutor

    def compile_one(file: Path) -> str:
        target = str(directory / f"{file.stem}.o")
        _run([*compiler, *_FLAGS, "-c", "-o", target, os.path.abspath(file)])
        return target

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        objects = list(pool.map(compile_one, [file for file in files if file.suffix == ".c"]))
    library = directory / "svit.so"
    _run([*compiler, "-shared", "-pthread", "-o", str(library), *objects])
    return library


def _run(command: Sequence[str]) -> str:
    """Run a compiler and return what it prints; its first error is a BundleError's one line."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment
        )
    except OSError as error:
        raise BundleError(f"the C compiler {command[0]} cannot be run ({error}): {_INSTALL}") from (
            error
        )
    if ended.returncode == 0:
        return ended.stdout.decode(errors="replace")
    said = ended.stderr.decode(errors="replace").splitlines() or ["no reason given"]
    reason = next((line for line in said if "error:" in line), said[-1])[:200]
    raise BundleError(
        f"the C compiler {command[0]} failed ({reason}): {_INSTALL}, or let CC name another one"
    )


def _keep(built: Path, kept: Path) -> None:
    """Copy a library to the cache, whole or not at all, if the cache can be written."""
    import contextlib
    import tempfile

    with contextlib.suppress(OSError):
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=kept.parent, prefix=f".{kept.stem}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(built.read_bytes())
                file.flush()
                os.fsync(file.fileno())  # boards lose their power at any time
            os.replace(name, kept)
        except BaseException:
            os.unlink(name)
            raise
