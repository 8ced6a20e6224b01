"""The native runtime on a host: compiled there, or here by a cross compiler."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from devices.ssh.conftest import Server, until
from devices.ssh.test_run_on_host import STANDIN, script
from native_bundles import small_bundle
from small_models import primesvt

from primesvt_deploy.devices.ssh.native_files import cross_compiled
from primesvt_deploy.devices.ssh.run_on_host import run_on_host
from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.devices.ssh.uploads import runner_uploads
from primesvt_deploy.edge.bench.native_program import READY_PROGRAM
from primesvt_deploy.edge.runtime.native_library import READY_LIBRARY
from primesvt_deploy.errors import RemoteError, SettingsError

pytest.importorskip("asyncssh")

CROSS = "aarch64-linux-gnu-gcc"
MACHINE_OF_AARCH64 = 183
needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")
needs_cross = pytest.mark.skipif(not shutil.which(CROSS), reason=f"there is no {CROSS} here")


def test_sources_are_copied_where_the_native_runtime_is_measured() -> None:
    usual, native = ({u.target: u.source for u in runner_uploads(native=n)} for n in (False, True))
    added = {target: native[target] for target in native.keys() - usual.keys()}
    folder = "primesvt_deploy/edge/native"
    assert {f"{folder}/{name}" for name in ("svit.c", "svit.h", "classify.c", "Makefile")} <= set(
        added
    )
    for source in added.values():
        for header in re.findall(r'^#include "(.*)"', source.read_text(), re.MULTILINE):
            assert f"{folder}/{header}" in added


@pytest.mark.parametrize("command", ["no-such-gcc -O2", "", " "])
def test_a_missing_cross_compiler_is_one_line(command: str) -> None:
    with (
        pytest.raises(SettingsError, match=r"--cc: found no compiler .* here, expected one for"),
        cross_compiled(command, tell=print),
    ):
        pass


def test_a_cross_compiler_that_fails_is_one_line(tmp_path: Path) -> None:
    broken = script(tmp_path / "gcc", "echo 'x.c:1: error: no such thing' >&2; exit 1")
    with (
        pytest.raises(SettingsError, match=r"--cc: the C compiler .* failed \(x.c:1: error: no"),
        cross_compiled(broken, tell=print),
    ):
        pass


def test_a_cross_compiler_without_anything_to_compile_is_refused(host: HostSettings) -> None:
    with pytest.raises(SettingsError, match="--cc compiles the native runtime, in which nothing"):
        run_on_host(replace(host, compiler="cc"), [], {}, requires={}, tell=print)


@needs_cross
@pytest.mark.slow
def test_a_cross_compiler_makes_a_library_and_a_program() -> None:
    told: list[str] = []
    command = f"{CROSS} -DFOR=device"  # which compiles what another test has compiled
    with cross_compiled(command, tell=told.append) as made:
        assert [upload.target for upload in made.uploads] == ["native/svit.so", "native/classify"]
        assert [upload.executable for upload in made.uploads] == [False, True]
        assert made.variables == {
            READY_LIBRARY: "native/svit.so",
            READY_PROGRAM: "native/classify",
        }
        for upload in made.uploads:
            (machine,) = struct.unpack_from("<H", upload.source.read_bytes(), 18)
            assert machine == MACHINE_OF_AARCH64
        assert made.compiler.startswith(CROSS)
    assert told == [f"compiling the native runtime with {command}"]
    assert not any(upload.source.exists() for upload in made.uploads)


@needs_cc
@pytest.mark.slow
def test_without_make_the_program_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("cc")
    assert compiler
    monkeypatch.setenv("PATH", "/nowhere")
    told: list[str] = []
    linker = {"PATH": "/usr/bin:/bin"}
    with cross_compiled(f"/usr/bin/env PATH={linker['PATH']} {compiler}", tell=told.append) as made:
        assert list(made.variables) == [READY_LIBRARY]
    assert told[-1].startswith("memory of the native C program: not measured: make cannot be run")


def without_compiler(server: Server) -> str:
    """An interpreter on a host that has no programs."""
    return script(server.folder / "python", f'PATH=/nowhere exec {sys.executable} "$@"')


def measure(host: HostSettings, bundle: Path, runtimes: Sequence[str]) -> dict[str, Any]:
    return run_on_host(
        host, [bundle], {}, requires={}, runtimes=runtimes, tell=lambda line: None, job=STANDIN
    )


def test_a_host_without_a_compiler_says_what_to_do(
    server: Server, host: HostSettings, bundle: Path
) -> None:
    bare = replace(host, python=without_compiler(server))
    with pytest.raises(RemoteError) as caught:
        measure(bare, bundle, ("native",))
    assert str(caught.value).endswith(
        ": no C compiler there to build the native runtime with: apt install gcc libc6-dev there, "
        "or pass --cc, such as aarch64-linux-gnu-gcc, to compile it here"
    )
    assert measure(bare, bundle, ("onnx",))["seen"] == {}
    until(lambda: not server.left(), 3)


@pytest.fixture
def bench(
    server: Server, host: HostSettings, tmp_path: Path
) -> Callable[..., tuple[int, str, dict[str, Any]]]:
    """Runs `bench` of a bundle for both runtimes on the host: exit code, errors and result."""
    bundle = small_bundle(tmp_path / "bundle")
    quick = ("--batches", "1", "--threads", "1", "--seconds", "0.3", "--rounds", "5")

    # Its compilers keep what they made, as those of this process do.
    usual = script(
        server.folder / "usual-python", f'PATH={os.environ["PATH"]} exec {sys.executable} "$@"'
    )

    def run(*options: str, python: str = usual) -> tuple[int, str, dict[str, Any]]:
        ended = primesvt(
            "bench", bundle, *quick, "--warmup", "0.3", "--json",
            "--host", f"{server.user}@127.0.0.1", "-p", str(server.port),
            "-F", str(host.config), "-i", str(host.identity),
            "--remote-python", python, "--remote-directory", str(server.home), *options,
            cwd=tmp_path,
        )  # fmt: skip
        return ended.returncode, ended.stderr, json.loads(ended.stdout or "{}")

    known = (server.folder / "known_hosts").as_posix()
    (server.folder / "ssh_config").write_text(f"UserKnownHostsFile {known}\n")
    return run


@needs_cc
@pytest.mark.slow
def test_it_is_compiled_there_and_nothing_is_left(
    server: Server, bench: Callable[..., tuple[int, str, dict[str, Any]]]
) -> None:
    code, errors, found = bench()
    assert code == 0, errors
    assert [row["runtime"] for row in found["variants"]] == ["onnx", "native"]
    assert found["variants"][1]["native"]["program_peak_bytes"] > 0
    assert found["machine"]["c_compiler"] and "cross_compiler" not in found
    until(lambda: not server.left(), 3)
    assert not (server.home / ".cache/primesvt-deploy").exists()


@needs_cc
@pytest.mark.slow
def test_what_was_compiled_here_is_used_there(
    server: Server, bench: Callable[..., tuple[int, str, dict[str, Any]]]
) -> None:
    code, errors, found = bench(
        "--cc", "cc", "--runtime", "native", python=without_compiler(server)
    )
    assert code == 0, errors
    (row,) = found["variants"]
    assert row["runtime"] == "native" and row["native"]["program_peak_bytes"] > 0
    assert found["machine"]["c_compiler"] is None and found["cross_compiler"].startswith("cc")
    until(lambda: not server.left(), 3)


@needs_cross
@pytest.mark.slow
def test_a_library_of_another_processor_is_one_line(
    server: Server, bench: Callable[..., tuple[int, str, dict[str, Any]]]
) -> None:
    code, errors, _ = bench("--cc", CROSS, "--runtime", "native")
    assert code == 2
    line = errors.splitlines()[-1]
    assert re.fullmatch(
        r"error: \S+: /\S+/native/svit\.so cannot be loaded \(.*\): pass --cc a compiler for that "
        r"machine, or leave it out",
        line,
    )
    until(lambda: not server.left(), 3)
