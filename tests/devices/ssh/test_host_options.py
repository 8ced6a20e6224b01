from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from primesvt_deploy.cli.options.host import host_options
from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.errors import SettingsError

FINGERPRINT = "SHA256:" + 43 * "a"


def parse(*arguments: str) -> HostSettings | None:
    received: list[HostSettings | None] = []

    @click.command()
    @host_options
    @click.option("--other", default=1)
    def command(*, host: HostSettings | None, other: int) -> None:
        assert other == 1
        received.append(host)

    CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)
    return received[0]


def test_all_options_arrive() -> None:
    assert parse() is None
    assert parse("--host", "pi") == HostSettings("pi")
    options = (
        "--host pi@board -p 2222 -i key -F config --bootstrap --cc arm-gcc "
        "--remote-python python3.12 "
        f"--remote-directory /data --patience 30 --accept-host-key {FINGERPRINT}"
    )
    assert parse(*options.split()) == HostSettings(
        "pi@board",
        port=2222,
        identity=Path("key"),
        config=Path("config"),
        bootstrap=True,
        compiler="arm-gcc",
        python="python3.12",
        directory="/data",
        patience_s=30.0,
        host_key=FINGERPRINT,
    )


@pytest.mark.parametrize(
    "option", ["--port=22", "--bootstrap", "--patience=3", "-i=key", "--cc=gcc"]
)
def test_options_of_a_host_need_one(option: str) -> None:
    with pytest.raises(SettingsError, match="name it by --host"):
        parse(option)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--host @pi", "--host: found '@pi'"),
        ("--host pi@", "--host: found 'pi@'"),
        ("--host=-oProxyCommand=x", "--host: found"),
        ("--host pi -p 70000", "--port: found 70000"),
        ("--host pi --accept-host-key aa:bb", "--accept-host-key: found 'aa:bb'"),
        ("--host pi --patience 0", "--patience: found 0"),
    ],
)
def test_values_that_cannot_be(arguments: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        parse(*arguments.split())


def test_asyncssh_is_loaded_only_to_reach_a_host() -> None:
    code = (
        "import sys, primesvt_deploy.cli.options.host\n"
        "import primesvt_deploy.devices.ssh.run_on_host as s\n"
        "assert 'asyncssh' not in sys.modules\n"
        "sys.modules['asyncssh'] = None\n"
        "from primesvt_deploy.devices.ssh.settings import HostSettings\n"
        "s.run_on_host(HostSettings('x'), [], {}, requires={}, tell=print)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "RemoteError: --host needs asyncssh: pip install 'primesvt-deploy[ssh]'" in done.stderr
