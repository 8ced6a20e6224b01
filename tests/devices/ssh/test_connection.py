from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from devices.ssh.conftest import Server

from primesvt_deploy.devices.ssh.settings import HostSettings
from primesvt_deploy.errors import RemoteError

pytest.importorskip("asyncssh")

from primesvt_deploy.devices.ssh.connection import connect


def login(host: HostSettings) -> str:
    """The name of the user logged in as."""

    async def ask() -> str:
        connection = await connect(host)
        try:
            return (await connection.call("echo $LOGNAME")).out
        finally:
            await connection.close()

    return asyncio.run(ask())


def refusal(host: HostSettings) -> str:
    with pytest.raises(RemoteError) as caught:
        login(host)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fingerprint(key: Path) -> str:
    said = subprocess.run(
        ["ssh-keygen", "-lf", f"{key}.pub"], check=True, capture_output=True, text=True
    )
    return said.stdout.split()[1]


def test_an_unknown_host_key_is_refused_until_vouched_for(
    server: Server, host: HostSettings, keys: Path
) -> None:
    (server.folder / "known_hosts").write_text("")
    own = fingerprint(server.host_key)
    line = refusal(host)
    assert "not known: ssh-ed25519 " + own in line
    assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in line
    assert f"--accept-host-key {own}" in line
    assert login(replace(host, host_key=own)) == server.user
    assert own in refusal(replace(host, host_key=fingerprint(keys / "other_host")))
    assert (server.folder / "known_hosts").read_text() == ""


def test_a_changed_host_key_is_refused(stopped: Server, host: HostSettings, keys: Path) -> None:
    stopped.start(keys / "other_host")
    line = refusal(host)
    assert "CHANGED" in line
    assert f"-R '[127.0.0.1]:{stopped.port}'" in line
    # One that was right before does not help, and vouching for it neither.
    assert "not SHA256" in refusal(replace(host, host_key=fingerprint(keys / "host")))


def test_a_vouched_key_counts_before_known_ones(
    server: Server, host: HostSettings, keys: Path
) -> None:
    other = replace(host, host_key=fingerprint(keys / "other_host"))
    assert "as --accept-host-key says" in refusal(other)


def test_a_revoked_key_is_refused_even_if_vouched_for(server: Server, host: HostSettings) -> None:
    file = server.folder / "known_hosts"
    file.write_text(f"@revoked * {server.host_key.with_suffix('.pub').read_text()}")
    assert "revoked" in refusal(replace(host, host_key=fingerprint(server.host_key)))


def test_hashed_known_hosts(server: Server, host: HostSettings) -> None:
    file = server.folder / "known_hosts"
    subprocess.run(["ssh-keygen", "-H", "-f", str(file)], check=True, capture_output=True)
    assert "127.0.0.1" not in file.read_text()
    assert login(host) == server.user


def test_a_key_of_another_kind_does_not_hide_the_known_one(
    stopped: Server, host: HostSettings, tmp_path: Path
) -> None:
    """ssh asks for the kinds of key it knows first."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(tmp_path / "ecdsa")], check=True
    )
    public = (tmp_path / "ecdsa.pub").read_text()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{stopped.port} {public}")
    stopped.extra = [f"HostKey {tmp_path / 'ecdsa'}"]
    stopped.start()
    assert login(host) == stopped.user


def test_files_and_none_of_ssh_config(server: Server, host: HostSettings) -> None:
    config = server.folder / "ssh_config"
    by_config = replace(host, known_hosts=None)
    assert "not known" in refusal(by_config)  # the usual files are not there
    config.write_text("UserKnownHostsFile none\n")  # asyncssh alone would trust anybody
    assert "not known" in refusal(by_config)
    config.write_text(f"UserKnownHostsFile /not/there {server.folder / 'known_hosts'}\n")
    assert login(by_config) == server.user
    config.write_text(f"GlobalKnownHostsFile {server.folder / 'known_hosts'}\n")
    assert login(by_config) == server.user


def test_the_usual_files_stay_where_the_global_one_is_set(
    server: Server, host: HostSettings
) -> None:
    usual = server.folder / "client" / ".ssh"
    usual.mkdir()
    shutil.copy(server.folder / "known_hosts", usual / "known_hosts")
    (server.folder / "ssh_config").write_text("GlobalKnownHostsFile /not/there\n")
    assert login(replace(host, known_hosts=None)) == server.user


def test_a_broken_line_does_not_spoil_known_hosts(server: Server, host: HostSettings) -> None:
    file = server.folder / "known_hosts"
    file.write_text("nonsense\n@odd x y\n|1|no|hash ssh-ed25519 AAAA\n" + file.read_text())
    assert login(host) == server.user


def test_an_alias_with_a_jump_host(server: Server, host: HostSettings) -> None:
    (server.folder / "ssh_config").write_text(
        f"Host board\n  HostName 127.0.0.1\n  User {server.user}\n  ProxyJump gate\n"
        f"Host gate\n  HostName 127.0.0.1\n  User {server.user}\n"
        f"Host *\n  Port {server.port}\n  IdentityFile {server.client_key}\n  ProxyJump gate\n"
        "  RemoteCommand exit 3\n  RequestTTY yes\n"
    )
    assert login(replace(host, destination="board", port=None, identity=None)) == server.user
    assert server.process is not None


def test_the_jump_hosts_key_is_checked_too(server: Server, host: HostSettings, keys: Path) -> None:
    other = (keys / "other_host.pub").read_text()
    known = server.folder / "known_hosts"
    known.write_text(known.read_text() + f"gate {other}")
    (server.folder / "ssh_config").write_text(
        f"Host gate\n  HostName 127.0.0.1\n  Port {server.port}\n  HostKeyAlias gate\n"
        f"  User {server.user}\n  IdentityFile {server.client_key}\n"
        "Host 127.0.0.1\n  ProxyJump gate\n"
    )
    line = refusal(host)
    assert line.startswith("gate: its host key has CHANGED")


def test_jumps_in_circles(host: HostSettings) -> None:
    assert host.config is not None
    host.config.write_text("Host a\n ProxyJump b\nHost b\n ProxyJump a\n")
    assert "circles" in refusal(replace(host, destination="a"))


def test_port_user_and_key_given_win_over_ssh_config(server: Server, host: HostSettings) -> None:
    (server.folder / "ssh_config").write_text("User nobody\nPort 1\nIdentityFile /not/there\n")
    assert login(host) == server.user


def test_a_wrong_key(server: Server, host: HostSettings, keys: Path) -> None:
    line = refusal(replace(host, identity=keys / "other_client"))
    assert f"permission denied for {server.user}@127.0.0.1" in line
    assert str(keys / "other_client") in line
    assert f"ssh-copy-id {server.user}@127.0.0.1" in line


def test_a_missing_key(host: HostSettings) -> None:
    assert "check -i" in refusal(replace(host, identity=Path("/not/there")))


def test_an_encrypted_key_needs_an_agent(server: Server, host: HostSettings, keys: Path) -> None:
    line = refusal(replace(host, identity=keys / "locked"))
    assert f"ssh-add {keys / 'locked'} first" in line


@contextmanager
def agent(folder: Path, key: Path) -> Iterator[str]:
    """An agent that holds a key; where its socket is."""
    if not (shutil.which("ssh-agent") and shutil.which("ssh-add")):
        pytest.skip("there is no ssh-agent here")
    path = folder / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        from devices.ssh.conftest import until

        until(path.exists)
        subprocess.run(
            ["ssh-add", "-q", str(key)],
            check=True,
            env={"SSH_AUTH_SOCK": str(path), "PATH": "/usr/bin:/bin"},
        )
        yield str(path)
    finally:
        process.kill()
        process.wait()


def test_keys_of_the_agent(
    server: Server, host: HostSettings, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = replace(host, identity=None)
    assert "tried no key" in refusal(none)
    with agent(server.folder, keys / "client") as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        assert login(none) == server.user
        assert login(replace(host, identity=keys / "locked")) == server.user
        config = server.folder / "ssh_config"
        config.write_text(f"IdentitiesOnly yes\nIdentityFile {keys / 'other_client'}\n")
        assert "permission denied" in refusal(none)
        config.write_text("IdentityAgent none\n")
        assert "tried no key" in refusal(none)


def test_host_down(stopped: Server, host: HostSettings) -> None:
    line = refusal(host)
    assert f"port {stopped.port}" in line
    assert "connection refused" in line


def test_a_name_nobody_has(host: HostSettings) -> None:
    assert "no host is called" in refusal(replace(host, destination="pi@no-such-host.invalid"))


def test_something_else_listens(host: HostSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        assert host.config is not None
        host.config.write_text("ConnectTimeout 1\n")
        assert "no answer in 1 s" in refusal(replace(host, port=port))


def test_a_config_that_is_none(host: HostSettings) -> None:
    assert "check -F" in refusal(replace(host, config=Path("/not/there")))
    assert host.config is not None
    host.config.write_text("Port ssh\n")
    assert "ssh_config cannot be read" in refusal(replace(host, port=None))
