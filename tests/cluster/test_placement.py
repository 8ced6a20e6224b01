"""Workers are divided among nodes, or refused in a line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primesvt_deploy.cluster.placement import Node, Placement, place_workers
from primesvt_deploy.errors import ClusterError, SettingsError
from primesvt_deploy.settings import ComputeSettings

GPUS = [Node(cpus=32, gpus=4), Node(cpus=16, gpus=4), Node(cpus=8, gpus=0)]


def placed(nodes: list[Node], **settings: object) -> Placement:
    return place_workers(nodes, ComputeSettings(**settings), "the cluster")  # type: ignore[arg-type]


def test_one_a_gpu() -> None:
    assert placed(GPUS, ray="auto") == Placement(workers=8, device="cuda", threads=4)
    assert placed(GPUS, ray="auto", workers=3).workers == 3


def test_one_a_node_where_there_are_no_gpus_or_the_cpu_is_asked_for() -> None:
    assert placed(GPUS, ray="auto", device="cpu") == Placement(workers=3, device="cpu", threads=8)
    head = Node(cpus=0, gpus=0)
    assert placed([head, Node(cpus=6, gpus=0)], ray="auto").workers == 1


def test_a_private_session_may_have_more_workers_than_cores() -> None:
    one = place_workers(
        [Node(cpus=2, gpus=0)], ComputeSettings(workers=5), "this machine", shared=False
    )
    assert one == Placement(workers=5, device="cpu", threads=1)
    with pytest.raises(ClusterError, match=r"^workers are 9, but this machine has 2 CPU cores: "):
        place_workers(
            [Node(cpus=2, gpus=0)], ComputeSettings(workers=9), "this machine", shared=False
        )


@given(st.lists(st.integers(1, 64), min_size=1, max_size=6), st.integers(1, 40))
def test_threads_of_all_workers_fit_the_nodes_and_no_more_would(
    cpus: list[int], workers: int
) -> None:
    nodes = [Node(cpus=count, gpus=0) for count in cpus]
    if workers > sum(cpus):
        with pytest.raises(ClusterError, match="CPU core"):
            placed(nodes, ray="auto", workers=workers)
        return
    threads = placed(nodes, ray="auto", workers=workers).threads
    assert sum(count // threads for count in cpus) >= workers
    assert sum(count // (threads + 1) for count in cpus) < workers


@pytest.mark.parametrize(
    ("nodes", "settings", "message"),
    [
        (GPUS, {"workers": 9}, "workers are 9, but the cluster has 8 GPUs, .* pass --workers 8"),
        (GPUS[2:], {"device": "cuda"}, "the cluster has no GPU: pass --device cpu"),
        (GPUS[2:], {"workers": 9}, "workers are 9, but the cluster has 8 CPU cores"),
    ],
)
def test_too_few(nodes: list[Node], settings: dict[str, object], message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        placed(nodes, ray="auto", **settings)


def test_a_gpu_by_its_number() -> None:
    with pytest.raises(SettingsError, match="device is cuda:1, but each worker takes a GPU of its"):
        placed(GPUS, workers=2, device="cuda:1")
