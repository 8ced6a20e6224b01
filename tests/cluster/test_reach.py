"""A cluster that cannot be joined is told in a line, within seconds."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from ray_sessions import needs_ray

from primesvt_deploy.cluster import reach as reaching
from primesvt_deploy.cluster.reach import reach
from primesvt_deploy.errors import ClusterError, SettingsError


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("address", ["cluster", "ray://10.0.0.1:10001", "h:0", "h:99999", "a b:1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(SettingsError, match="expected HOST:PORT of its head"):
        reach(address)


def test_a_port_that_is_closed(silent: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    begun = time.monotonic()
    with pytest.raises(ClusterError, match=rf"answers at 127.0.0.1:{port} \(connection refused\)"):
        reach(f"127.0.0.1:{port}")
    assert time.monotonic() - begun < 5


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at no-such-host.invalid:6379"):
        reach("no-such-host.invalid:6379")


@needs_ray
def test_something_else_that_listens(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching, "_JOIN_SECONDS", 3.0)
    with pytest.raises(ClusterError, match="what listens there is something else"):
        reach(f"127.0.0.1:{silent}")


def test_another_version_of_ray_or_python() -> None:
    message = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.40.0\n    Python: 3.11.7\n"
        "This process on node 192.0.2.2 was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n"
    )
    found = str(reaching._refused(message, " at h:1"))
    assert found.startswith(
        "the Ray cluster at h:1 runs Ray 2.40.0 on Python 3.11.7, and this process Ray 2.60.0 on "
        "Python 3.12.1: expected the same"
    )
