"""`bench --host` whole: the command line, a real sshd, the real job, a real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from devices.ssh.conftest import Server, until
from small_models import primesvt

from primesvt_deploy.devices.ssh.settings import HostSettings

pytest.importorskip("asyncssh")


@pytest.mark.slow
def test_a_result_comes_back_from_the_host(
    server: Server, host: HostSettings, tiny_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = server.folder / "ssh_config"
    with config.open("a") as file:
        file.write(f"\nHost pi\n  HostName 127.0.0.1\n  Port {server.port}\n  User {server.user}\n"
                   f"  UserKnownHostsFile {server.folder / 'known_hosts'}\n")  # fmt: skip
    found = primesvt(
        "bench", "model.onnx", "model.ort", "--batches", "1", "--threads", "1", "--seconds", "0.3",
        "--rounds", "5", "--warmup", "0.5", "--output", "pi.json", "--host", "pi",
        "-F", config, "-i", str(host.identity), "--remote-python", host.python,
        cwd=tiny_files,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "pi: " in found.stdout and "samples/s" in found.stdout
    assert "model.ort, latency, batch 1, 1 thread: median" in found.stderr
    result = json.loads((tiny_files / "pi.json").read_text())
    assert [v["bundle"] for v in result["variants"]] == ["model.onnx", "model.ort"]
    assert result["host"] == "pi" and result["preflight"]["machine"]["fingerprint"]
    until(lambda: not server.left(), 3)


def test_a_damaged_model_is_refused_before_anything_is_copied(
    server: Server, host: HostSettings, tmp_path: Path
) -> None:
    found = primesvt("bench", "none", "--host", "pi@127.0.0.1", cwd=tmp_path)
    assert found.returncode == 2
    assert found.stderr.strip() == (
        "error: there is nothing at none: expected a bundle or a model file"
    )
