from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from devices.ssh.conftest import Server, until

from primesvt_deploy.devices.ssh.run_on_host import run_on_host
from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.errors import RemoteError

pytest.importorskip("asyncssh")

STANDIN = "bundles.0-a_bundle.standin"


def measure(
    host: HostSettings,
    bundle: Path,
    wishes: Mapping[str, Any] | None = None,
    *,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    return run_on_host(host, [bundle], wishes or {}, requires={}, tell=tell, job=STANDIN)


def refusal(host: HostSettings, bundle: Path, wishes: Mapping[str, Any] | None = None) -> str:
    with pytest.raises(RemoteError) as caught:
        measure(host, bundle, wishes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_result_and_progress_come_back_and_nothing_is_left(
    server: Server, host: HostSettings, bundle: Path
) -> None:
    told: list[str] = []
    result = measure(host, bundle, {"lines": 3, "x": "é"}, tell=told.append)
    assert result["seen"] == {"lines": 3, "x": "é"}
    assert result["bundles"] == ["bundles/0-a_bundle"]
    assert result["preflight"]["machine"]["fingerprint"]["python"] == sys.version.split()[0]
    assert told[0].startswith("connected to ")
    assert told[-4:] == ["line 0", "line 1", "line 2", "last line, unfinished"]
    until(lambda: not server.left(), 3)


def test_progress_streams_while_the_job_runs(
    server: Server, host: HostSettings, bundle: Path
) -> None:
    flag = server.folder / "go on"

    def tell(line: str) -> None:
        if line == "line 1":
            flag.touch()

    assert measure(host, bundle, {"lines": 2, "until": str(flag)}, tell=tell)
    assert flag.exists()


def test_a_dropped_connection_comes_back(server: Server, host: HostSettings, bundle: Path) -> None:
    flag = server.folder / "go on"
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        if line == "line 1":
            server.drop()
        if line.startswith("back"):
            flag.touch()

    result = measure(host, bundle, {"lines": 2, "until": str(flag)}, tell=tell)
    assert result["seen"]["lines"] == 2
    assert told[-5:] == [
        "line 0",
        "line 1",
        "connection lost, trying again",
        "back; the job went on",
        "last line, unfinished",
    ]
    until(lambda: not server.left(), 3)


def test_a_job_that_ends_while_the_host_is_away_is_fetched(
    server: Server, host: HostSettings, bundle: Path
) -> None:
    flag = server.folder / "go on"

    def tell(line: str) -> None:
        if line == "line 0":
            server.stop()
            flag.touch()
            place = next(server.home.glob("primesvt-deploy-*"))
            until(lambda: (place / "rc-0").is_symlink())
            server.start()

    assert measure(host, bundle, {"lines": 1, "until": str(flag)}, tell=tell)["seen"]
    until(lambda: not server.left(), 3)


def test_a_host_that_never_comes_back_keeps_nothing(
    server: Server, host: HostSettings, bundle: Path
) -> None:
    def tell(line: str) -> None:
        if line == "line 0":
            server.stop()

    impatient = replace(host, patience_s=3.0)
    with pytest.raises(RemoteError, match=r"did not come back in 3 s .*ends by itself") as caught:
        measure(impatient, bundle, {"lines": 1, "until": "never"}, tell=tell)
    assert "\n" not in str(caught.value)
    until(lambda: not server.left(), 10)


def test_an_interrupted_run_leaves_nothing(
    server: Server, host: HostSettings, bundle: Path
) -> None:
    def tell(line: str) -> None:
        if line == "line 0":
            os.kill(os.getpid(), signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    # A shell's background job begins with SIGINT ignored, and would wait here for ever.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            measure(host, bundle, {"lines": 1, "until": "never"}, tell=tell)
    finally:
        signal.signal(signal.SIGINT, before)
    until(lambda: not server.left(), 3)


def test_the_jobs_own_error_is_the_line(server: Server, host: HostSettings, bundle: Path) -> None:
    line = refusal(host, bundle, {"error": "the model is odd; mend it"})
    assert line == "pi@127.0.0.1: the model is odd; mend it".replace("pi", server.user)
    until(lambda: not server.left(), 3)


def test_a_killed_job_is_told_as_out_of_memory(
    server: Server, host: HostSettings, bundle: Path
) -> None:
    assert "out of memory" in refusal(host, bundle, {"signal": int(signal.SIGKILL)})
    until(lambda: not server.left(), 3)


def test_missing_onnxruntime(server: Server, host: HostSettings, bundle: Path) -> None:
    bare = server.folder / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    line = refusal(replace(host, python=str(bare / "bin/python")), bundle)
    assert "onnxruntime and numpy missing" in line
    assert "--bootstrap" in line
    until(lambda: not server.left(), 3)


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_an_onnxruntime_that_crashes_is_told(
    server: Server, host: HostSettings, bundle: Path
) -> None:
    python = script(
        server.folder / "python",
        f'case "$2" in "import onnxruntime"*) kill -ILL $$;; esac; exec {sys.executable} "$@"',
    )
    assert "illegal instruction" in refusal(replace(host, python=python), bundle)
    until(lambda: not server.left(), 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("echo 3.9.2", "is Python 3.9.2, 3.11 or newer is needed"), ("exit 127", "no .* there: sudo")],
)
def test_python_too_old_or_missing(
    text: str, expected: str, server: Server, host: HostSettings, bundle: Path
) -> None:
    python = script(server.folder / "python", text)
    with pytest.raises(RemoteError, match=expected):
        measure(replace(host, python=python), bundle)
    until(lambda: not server.left(), 3)


@pytest.mark.parametrize(
    ("step", "said", "expected"),
    [
        ("-c", "3.11.\\0302\\0262", "no .* there"),
        ("-c", "9" * 5000, "no .* there"),
        ("-", "", "expected a directory: it is not complete JSON"),
        ("-", "{\\\"directory\\\": 3}", "expected a directory: free_bytes is missing"),
        ("-m", "[" * 5000, "does not tell what machine it is: it is nested too deeply"),
        ("-m", "{\\\"fingerprint\\\": null}", "machine it is: (fingerprint|state) is"),
        ("-m", "\\0033[2J\\0007", "does not tell what machine it is: it is not complete JSON"),
    ],
)  # fmt: skip
def test_what_a_broken_host_says_is_one_line(
    step: str, said: str, expected: str, server: Server, host: HostSettings, bundle: Path
) -> None:
    condition = f'[ "$1" = {step} ]'
    if step == "-m":
        condition = 'case "$2" in *.machine) ;; *) false;; esac'
    python = script(
        server.folder / "python",
        f'if {condition}; then printf "%b" "{said}"; exit; fi; exec {sys.executable} "$@"',
    )
    line = refusal(replace(host, python=python), bundle)
    assert re.search(expected, line)
    assert line.isprintable() and len(line) < 1500
    until(lambda: not server.left(), 3)


@pytest.mark.parametrize("result", ["[1]", '{"a": NaN}'])
def test_a_result_that_is_damaged_is_one_line(
    result: str, server: Server, host: HostSettings, bundle: Path
) -> None:
    assert "its result is damaged: " in refusal(host, bundle, {"result": result})


def test_a_result_that_is_too_large_is_left_there(
    server: Server, host: HostSettings, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("primesvt_deploy.devices.ssh.host_directory._MOST_BYTES", 1000)
    line = refusal(host, bundle, {"result": "x" * 1001})
    assert "RESULT.json has more than 1000 bytes" in line


def test_a_result_is_checked_before_it_is_given_out(
    host: HostSettings, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measured(*_: object, **__: object) -> dict[str, Any]:
        return {"schema": "primesvt-bench/1", "variants": "none"}

    monkeypatch.setattr("primesvt_deploy.devices.ssh.remote_benchmark.measure_on_host", measured)
    with pytest.raises(RemoteError, match="its result is damaged: machine is missing"):
        run_on_host(host, [bundle], {}, requires={}, tell=print)


def test_nothing_from_a_host_controls_the_terminal(
    server: Server, host: HostSettings, bundle: Path
) -> None:
    """Progress, errors, and what the host's shell mixes into what the follower says."""
    python = script(
        server.folder / "python",
        'case "$2" in *follow) printf "p x y\\ne 0 zero\\n\\033[2Jgone\\n";; esac; '
        f'exec {sys.executable} "$@"',
    )
    told: list[str] = []
    wishes = {"says": "\x1b]0;title\x07", "error": "\x1b[31mred\x1b[0m"}
    with pytest.raises(RemoteError) as caught:
        measure(replace(host, python=python), bundle, wishes, tell=told.append)
    assert str(caught.value).endswith(r"\x1b[31mred\x1b[0m")
    assert r"\x1b]0;title\x07" in told
    assert all(map(str.isprintable, told))


def test_a_disk_that_is_too_small_is_refused_before(
    server: Server, host: HostSettings, bundle: Path
) -> None:
    if not server.contained:
        pytest.skip("a small disk needs root")
    with open(bundle / "weights.bin", "wb") as weights:
        weights.truncate(4_000_000)
    line = refusal(replace(host, directory=str(server.small)), bundle)
    assert "disk full: 3" in line
    assert "--remote-directory" in line


@pytest.mark.slow
def test_a_disk_that_fills_up_is_told(
    server: Server, host: HostSettings, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not server.contained:
        pytest.skip("a small disk needs root")
    # Whoever fills it comes after the check.
    from primesvt_deploy.devices.ssh.host_directory import HostDirectory

    monkeypatch.setattr(HostDirectory, "refuse_if_small", lambda *_: None)
    (bundle / "weights.bin").write_bytes(os.urandom(60_000_000))
    assert "disk full" in refusal(replace(host, directory=str(server.small)), bundle)
    until(lambda: not server.left(), 3)


def test_a_place_that_is_none(server: Server, host: HostSettings, bundle: Path) -> None:
    line = refusal(replace(host, directory="/no/such/place"), bundle)
    assert "/no/such/place" in line
    assert "--remote-directory" in line


def test_no_sftp(stopped: Server, host: HostSettings, bundle: Path) -> None:
    stopped.extra = ["Compression no"]
    stopped.start()
    assert "no SFTP there" in refusal(host, bundle)
    until(lambda: not stopped.left(), 3)


def test_bootstrap_uses_the_environment_that_is_there(
    server: Server, host: HostSettings, bundle: Path
) -> None:
    if not server.contained:
        pytest.skip("the user's own home is not touched: a second user needs root")
    there = server.home / ".cache/primesvt-deploy/venv/bin"
    there.mkdir(parents=True)
    script(there / "python", f'exec {sys.executable} "$@"')
    told: list[str] = []
    assert measure(replace(host, bootstrap=True), bundle, tell=told.append)
    assert f"using {there / 'python'}" in told
    until(lambda: not server.left(), 3)


@pytest.mark.slow
def test_two_runs_at_once_do_not_meet(server: Server, host: HostSettings, bundle: Path) -> None:
    from primesvt_deploy.devices.ssh.remote_benchmark import RemoteRequest, measure_on_host

    request = RemoteRequest(
        bundles=(bundle,),
        settings={"lines": 1},
        requires={},
        runtimes=("onnx",),
        need_bytes=0,
        job=STANDIN,
    )

    async def both() -> list[dict[str, Any]]:
        runs = (measure_on_host(host, request, tell=lambda _: None) for _ in range(2))
        return await asyncio.gather(*runs)

    started = time.monotonic()
    assert all(result["seen"] for result in asyncio.run(both()))
    assert time.monotonic() - started < 60
    until(lambda: not server.left(), 3)


@pytest.mark.slow
def test_a_connection_that_drops_during_the_copy_comes_back(
    server: Server, host: HostSettings, bundle: Path
) -> None:
    (bundle / "more.bin").write_bytes(os.urandom(12_000_000))
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        if line.startswith("copied ") and "connection lost, trying again" not in told:
            server.drop()

    assert measure(host, bundle, {"lines": 1}, tell=tell)["seen"]
    assert "back; the job went on" in told
    until(lambda: not server.left(), 3)
