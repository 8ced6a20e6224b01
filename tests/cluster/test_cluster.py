"""A cluster that runs already: joined after its versions and sizes are checked."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from ray_sessions import children, needs_ray, runs

from primesvt_deploy.cluster import library
from primesvt_deploy.cluster import session as sessions
from primesvt_deploy.cluster.session import RaySession
from primesvt_deploy.errors import ClusterError
from primesvt_deploy.settings import ComputeSettings

pytestmark = [needs_ray, pytest.mark.slow]

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps it on 127.0.0.1
    # A process keeps the token that it has shown to a private session before.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": library.process_token(),
}


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, QUIET[name])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of one node with two cores, on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
        "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2", "--num-gpus=0",
        "--include-dashboard=false", "--object-store-memory=100000000",
    ]  # fmt: skip
    head = subprocess.Popen(
        command, env={**os.environ, **QUIET}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            time.sleep(0.2)
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
        yield f"127.0.0.1:{port}"
    finally:
        started = children(head.pid)
        head.send_signal(signal.SIGTERM)
        head.wait(60)
        for process in filter(runs, started):
            os.kill(process, signal.SIGKILL)


def test_it_is_joined_and_left_running(address: str) -> None:
    for _ in range(2):
        with RaySession(ComputeSettings(ray=address, workers=2)) as session:
            assert session.placement.workers == 2 and session.placement.device == "cpu"
            with session.spawn(dict, lambda number: ([("number", number)],)) as crew:
                calls = [crew.submit(i, "get", "number") for i in range(2)]
                assert crew.results(calls) == [0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 3}, "workers are 3, but the Ray cluster at 127.0.0.1:.* has 2 CPU cores"),
        ({"device": "cuda"}, "the Ray cluster at 127.0.0.1:.* has no GPU"),
    ],
)
def test_one_that_is_too_small(address: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        RaySession(ComputeSettings(ray=address, **settings)).__enter__()  # type: ignore[arg-type]


def test_one_whose_nodes_have_another_torch(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, driver = sessions.make_report(), os.getpid()

    def make() -> Callable[[], dict[str, str | None]]:
        here = made()

        def report() -> dict[str, str | None]:
            import os

            other = {} if os.getpid() == driver else {"torch": "1.13.1"}
            return {**here, **other}

        return report

    monkeypatch.setattr(sessions, "make_report", make)
    with pytest.raises(ClusterError, match=r"has torch 1\.13\.1, and this process torch 2"):
        RaySession(ComputeSettings(ray=address)).__enter__()


def test_cores_that_others_hold(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from primesvt_deploy.cluster import crew as crews

    with (
        RaySession(ComputeSettings(ray=address, workers=2)) as session,
        session.spawn(dict, lambda number: ()),
    ):
        monkeypatch.setattr(crews, "_START_SECONDS", 2.0)
        with pytest.raises(ClusterError, match=r"0 of 2 workers started within 2 s, .* 0 are"):
            session.spawn(dict, lambda number: ())


NODES = """
import sys
from ray.cluster_utils import Cluster

some = {"num_gpus": 0, "node_ip_address": "127.0.0.1", "object_store_memory": 100_000_000}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **some})
node = cluster.add_node(num_cpus=1, **some)
print(cluster.address, flush=True)
sys.stdin.readline()
node.kill_raylet()
print("killed", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


def test_the_worker_of_a_node_that_leaves_goes_on_on_another() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", NODES],
        env={**os.environ, **QUIET},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as nodes:
        assert nodes.stdin is not None and nodes.stdout is not None
        address = next(line for line in nodes.stdout if line.startswith("127.0.0.1:"))
        with (
            RaySession(ComputeSettings(ray=address.strip())) as session,
            session.spawn(dict, lambda number: ([("number", number)],)) as crew,
        ):
            assert len(crew) == 2
            before = crew.processes()
            print(file=nodes.stdin, flush=True)
            assert nodes.stdout.readline() == "killed\n"
            while all(map(runs, before)):
                time.sleep(0.1)
            calls = [crew.submit(i, "get", "number") for i in range(2)]
            assert crew.results(calls) == [0, 1]
            assert len({*before, *crew.processes()}) == 3
        print(file=nodes.stdin, flush=True)
