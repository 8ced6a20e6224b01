"""Workers that train together: the weights of one process, also when one of them is killed."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray_sessions import needs_ray, two_workers
from small_models import SHALLOW, make_model, write_arrays

from primesvt_deploy.cluster.crew import Crew, WorkerLostError
from primesvt_deploy.cluster.session import RaySession
from primesvt_deploy.data import open_data
from primesvt_deploy.errors import ClusterError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import Silent
from primesvt_deploy.settings import ComputeSettings, FinetuneSettings
from primesvt_deploy.training import ranks
from primesvt_deploy.training.batches import Share
from primesvt_deploy.training.finetune import Finetuned, finetune

pytestmark = [needs_ray, pytest.mark.slow]

SETTINGS = FinetuneSettings(epochs=3, batch_size=16, images=64, learning_rate=1e-3)
TWO = ComputeSettings(workers=2, device="cpu")


@pytest.fixture(scope="module")
def session() -> Iterator[RaySession]:
    with two_workers() as opened:
        yield opened


@pytest.fixture(scope="module")
def model() -> SViT:
    return make_model(SHALLOW)


@pytest.fixture(scope="module")
def train(model: SViT, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return open_data(model, write_arrays(tmp_path_factory.mktemp("data") / "d.npz", model)).search


class Watcher(Silent):
    def __init__(self) -> None:
        self.told: list[str] = []
        self.steps = 0

    def step(self, note: str = "") -> None:
        self.steps += 1

    def message(self, text: str, *more: str) -> None:
        self.told.append(text)


def together(
    session: RaySession, model: SViT, train: Any, progress: Any = None, **more: Any
) -> Finetuned:
    return finetune(
        model, model, train, SETTINGS,
        compute=TWO, session=session, progress=progress or Silent(), **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(session: RaySession, model: SViT, train: Any) -> Finetuned:
    return together(session, model, train)


def same(one: Finetuned, other: Finetuned) -> bool:
    mine, theirs = one.model.module.state_dict(), other.model.module.state_dict()
    return one.losses == other.losses and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_two_train_as_one_does(undisturbed: Finetuned, model: SViT, train: Any) -> None:
    alone = finetune(model, model, train, SETTINGS)
    # Rounding flips some spikes; the first step's loss has none of that.
    assert undisturbed.losses == pytest.approx(alone.losses, rel=0.05)
    assert undisturbed.images == alone.images == 3 * 64
    assert not undisturbed.model.module.training


def test_a_killed_rank_changes_nothing(
    session: RaySession,
    model: SViT,
    train: Any,
    undisturbed: Finetuned,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    crews: list[Crew] = []
    spawn = session.spawn

    def watched(*arguments: Any, **named: Any) -> Crew:
        crews.append(spawn(*arguments, **named))
        return crews[-1]

    class Kills(Watcher):
        def step(self, note: str = "") -> None:
            super().step(note)
            if self.steps == 6:
                os.kill(crews[-1].processes()[1], signal.SIGKILL)

    monkeypatch.setattr(session, "spawn", watched)
    progress, path = Kills(), tmp_path / "finetune.pt"
    found = together(session, model, train, progress, checkpoint=path)
    assert len(crews) == 2
    assert any("a worker is lost" in t and "goes on at step 4" in t for t in progress.told)
    assert same(found, undisturbed)
    again = Watcher()
    assert same(together(session, model, train, again, checkpoint=path), undisturbed)
    assert again.told == ["fine-tuning goes on at step 12"] and not again.steps


def test_they_meet_on_one_interface_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    host = SimpleNamespace(util=SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1"))
    monkeypatch.setattr(ranks, "ray_library", lambda: host)
    first = ranks.Rank.__new__(ranks.Rank)
    first._share = Share(0, 2)
    address, port = first.meeting()
    with socket.create_connection((address, port)):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port))


def test_ranks_that_are_lost_each_time_end_it(
    session: RaySession, model: SViT, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise WorkerLostError("a worker is lost: its process was killed")

    monkeypatch.setattr(ranks._Drive, "run", lost)
    with pytest.raises(ClusterError, match=r"started 4 times and a worker is lost.*--batch-size"):
        together(session, model, train)


def test_another_number_of_ranks_does_not_go_on_from_the_checkpoint(
    session: RaySession, model: SViT, train: Any, undisturbed: Finetuned, tmp_path: Path
) -> None:
    path, short = tmp_path / "finetune.pt", replace(SETTINGS, epochs=1)
    finetune(model, model, train, short, checkpoint=path)
    watcher = Watcher()
    finetune(
        model, model, train, short,
        compute=TWO, session=session, checkpoint=path, progress=watcher,
    )  # fmt: skip
    assert watcher.steps == 4
