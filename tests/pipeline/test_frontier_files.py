"""The files of a frontier: what a kill leaves is taken up, what others wrote is refused."""

from __future__ import annotations

import copy
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from hostile_json import mutations
from killed_children import kills

from primesvt_deploy.cli.tables.frontier import print_frontier
from primesvt_deploy.errors import OutputError, SettingsError
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.measure.latency import Latency
from primesvt_deploy.pipeline import frontier_files as module
from primesvt_deploy.pipeline.frontier import _dominates
from primesvt_deploy.pipeline.frontier_files import FrontierWriter, KnownFrontier
from primesvt_deploy.pruning.search.ledger import Candidate, Ledger
from primesvt_deploy.report.frontier import draw_frontier
from primesvt_deploy.settings import SearchSettings

IDENTITY = {"schema": 1, "question": "f" * 64, "policy": "greedy"}
SETTINGS = SearchSettings(policy="greedy", max_drop=3, seed=5, ignore=("head",))  # an int, as given


def point(saving: float) -> dict[str, Any]:
    accuracy, drop = Accuracy(40, 60).to_dict(), PairedDrop(5, 3, 60).to_dict()
    row = {"T": 1, "held_out": accuracy, "drop": drop, "latency": Latency((1.5,)).to_dict()}
    return {
        "key": {"plan_digest": "0123456789abcdef", "n": 60, "T": [1]},
        "asked_saving_percent": saving, "met": True, "stopped_by": "the budget is met",
        "saved_percent": saving + 0.5, "weight_bytes": int(1000 - 10 * saving),
        "widths": {"stem.0": 3}, "channels": {"stem.0": "e0"}, "search": drop,
        "held_out": accuracy, "drop": drop, "timesteps": [row],
        "cost": {"evaluations": 3, "images": 180, "seconds": 1.5},
    }  # fmt: skip


def finished() -> dict[str, Any]:
    """What a finished call leaves."""
    accuracy = Accuracy(50, 60).to_dict()
    points = [{**point(saving), "pareto": True} for saving in (10.0, 30.0)]
    dense = {"weight_bytes": 1000, "search": accuracy, "held_out": accuracy}
    return {
        **IDENTITY, "model": "tiny", "data": "d.npz", "settings": SETTINGS.to_dict(),
        "dense": {**dense, "timesteps": points[0]["timesteps"]}, "seconds": 2.5, "points": points,
    }  # fmt: skip


def make(directory: Path) -> None:
    """What a frontier does to files, in its order."""
    with FrontierWriter(directory, key=IDENTITY["question"], policy="greedy") as writer:
        ledger = Ledger(writer.ledger_path)
        for saving, plan in ((10.0, "one"), (30.0, "two")):
            if ledger.find(plan, 8) is None:
                ledger.append(
                    Candidate(
                        plan=plan, limit=8, step="greedy", correct=4, lost=2, gained=1, n=8,
                        seconds=0.1,
                    )
                )  # fmt: skip
            content = writer.read()
            if all(p["asked_saving_percent"] != saving for p in content["points"]):
                writer.write({**content, "points": [*content["points"], point(saving)]})
        writer.write(finished())


def written(directory: Path, content: bytes) -> Path:
    (directory / "frontier.json").write_bytes(content)
    (directory / "ledger.jsonl").touch()
    return directory


def text() -> bytes:
    return json.dumps(finished()).encode()


@pytest.mark.slow
def test_a_frontier_that_is_killed_at_any_change_is_finished_by_the_same_call(
    tmp_path: Path,
) -> None:
    make(tmp_path / "whole")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    directory = tmp_path / "here" / "frontier"
    directory.parent.mkdir()
    killed = 0
    for _ in kills(directory.parent, lambda: make(directory)):
        killed += 1
        make(directory)
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == whole
        assert KnownFrontier.read(directory).search == SETTINGS
        shutil.rmtree(directory)
    assert killed > 10


def test_what_a_finished_call_wrote_is_read(tmp_path: Path) -> None:
    known = KnownFrontier.read(written(tmp_path, text()))
    assert known.content == finished()
    assert known.search == SETTINGS
    assert repr(known.search) == repr(SETTINGS), "the search key is made of it"


def test_whatever_stands_in_the_file_is_taken_or_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = refused = 0
    for description, content in mutations(finished(), seed=3, count=400):
        directory = written(tmp_path, content)
        try:
            known = KnownFrontier.read(directory)
            with FrontierWriter(directory, key=IDENTITY["question"], policy="greedy") as writer:
                points = writer.read()["points"]
        except (SettingsError, OutputError) as error:
            assert str(error).isprintable() and len(str(error)) < 500, description
            refused += 1
            continue
        taken += 1
        assert isinstance(known.search, SearchSettings), description
        for one in points:
            assert not any(_dominates(one, other) for other in [one]), description
        print_frontier(known.content, directory)
        assert (tmp_path / "frontier.json").read_bytes() == content, description
    assert taken > 25 and refused > 200
    capsys.readouterr()


@pytest.mark.parametrize(
    "settings",
    [
        {"speed": 1},
        {"seed": "0"},
        {"seed": True},
        {"max_drop": "off"},
        {"max_drop": 1e9},
        {"rates": [[0.5]]},
        {"rates": 0.5},
        {"recover": "free"},
        {"ignore": [None]},
        {"policy": "first\nsecond"},
        {"search_images": 3.5},
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: dict[str, Any]) -> None:
    content = finished()
    content["settings"] |= settings
    written(tmp_path, json.dumps(content).encode())
    with pytest.raises(SettingsError, match=r"frontier\.json is damaged \(.*make the") as caught:
        KnownFrontier.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_frontier_that_was_begun_goes_on_and_a_damaged_one_does_not(tmp_path: Path) -> None:
    begun = {**IDENTITY, "points": [point(10.0)]}
    written(tmp_path, json.dumps(begun).encode())
    with FrontierWriter(tmp_path, key=IDENTITY["question"], policy="greedy") as writer:
        assert writer.read() == begun
    damaged = copy.deepcopy(begun)
    damaged["points"][0]["key"] = None
    for content in (damaged, {**begun, "dense": None}, {**begun, "points": {}}):
        written(tmp_path, json.dumps(content).encode())
        with pytest.raises(OutputError, match=r"is damaged \(.*: pass another --output") as caught:
            FrontierWriter(tmp_path, key=IDENTITY["question"], policy="greedy")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["frontier.json", "ledger.jsonl"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    written(tmp_path, text())
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(SettingsError, match=r"pipe|not whole"):
        KnownFrontier.read(tmp_path)
    with pytest.raises(OutputError, match=r"pipe|no regular file"):
        FrontierWriter(tmp_path, key=IDENTITY["question"], policy="greedy")


def test_a_call_that_ends_while_another_begins_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = module._locked

    def later(directory: Path) -> Any:
        monkeypatch.setattr(module, "_locked", locked)
        other = threading.Thread(target=make, args=(directory,))
        other.start()
        other.join()
        return locked(directory)

    monkeypatch.setattr(module, "_locked", later)
    with FrontierWriter(tmp_path, key=IDENTITY["question"], policy="greedy") as writer:
        assert writer.read() == finished()


@pytest.mark.parametrize("name", ["[/bold]", r"$\frac$"])
def test_a_table_and_a_plot_are_made_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    content = finished() | {"model": name}
    content["points"][0]["weight_bytes"] = 2000  # more than the dense model's, as no search finds
    print_frontier(content, tmp_path / "[/]")
    assert name in (shown := capsys.readouterr().out) and "66.67%" in shown
    assert "[/]" in shown.replace("\n", "")
    draw_frontier(content, tmp_path)
    assert (tmp_path / "frontier.svg").is_file()


@pytest.mark.parametrize("output", ["x" * 300, "a\0b", "/proc/f"])
def test_places_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="cannot write at") as caught:
        FrontierWriter(Path(output), key="k", policy="greedy")
    assert "\n" not in str(caught.value)
