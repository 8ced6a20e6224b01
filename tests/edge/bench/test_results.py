"""Result files: damage is found before anything is compared, other files stay."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from edge.bench.test_comparison import result, variant

from primesvt_deploy.edge.bench.comparison import compare_results, without_counterpart
from primesvt_deploy.edge.bench.results import check_target, read_results, write_results
from primesvt_deploy.errors import MeasurementError, OutputError

WHOLE = result(variant("a", 10.0), variant("b", 5.0))
DAMAGE: list[tuple[tuple[str | int, ...], Any]] = [
    (("machine",), None),
    (("machine", "features"), [1]),
    (("bundles",), 3),
    (("variants",), "x"),
    (("variants", 0), None),
    (("variants", 1, "batch"), None),
    (("variants", 1, "profile"), ["latency"]),
    (("variants", 0, "name"), 7),
    (("variants", 0, "memory", "steady", "VmHWM"), "many"),
    (("variants", 0, "latency_ms"), {"median": 1.0}),
    (("variants", 0, "rounds_ms"), []),
    (("variants", 0, "rounds_ms", 3), []),
    (("variants", 0, "rounds_ms", 3, 0), 0.0),
    (("variants", 0, "rounds_ms", 3, 0), -1.0),
    (("variants", 0, "rounds_ms", 3, 0), float("nan")),
    (("variants", 0, "rounds_ms", 3, 0), float("inf")),
]


@pytest.mark.parametrize(("place", "value"), DAMAGE)
def test_damage_is_one_line(tmp_path: Path, place: tuple[str | int, ...], value: Any) -> None:
    content = copy.deepcopy(WHOLE)
    part: Any = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(MeasurementError, match=r"r\.json is (damaged|not a complete)") as error:
        read_results(tmp_path / "r.json")
    assert "\n" not in str(error.value)


def test_a_whole_one_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_results(WHOLE, tmp_path / "r.json")
    assert read_results(tmp_path / "r.json") == WHOLE
    assert os.listdir(tmp_path) == ["r.json"]


def test_deep_nesting_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("[" * 100_000)
    with pytest.raises(MeasurementError, match="not a complete JSON"):
        read_results(tmp_path / "r.json")


def test_what_has_no_counterpart_is_named() -> None:
    one = result(variant("a", 10.0), variant("b", 5.0))
    other = result(variant("a", 10.0), variant("c", 5.0))
    compared = compare_results(one, other)
    assert without_counterpart(one, other, compared) == (
        ("b, latency, batch 1, 1 thread",),
        ("c, latency, batch 1, 1 thread",),
    )
    same = compare_results(one, one)
    assert without_counterpart(one, one, same) == ((), ())


def test_files_that_are_no_results_are_not_overwritten(tmp_path: Path) -> None:
    for name, text in (("notes.txt", "dear diary"), ("manifest.json", '{"schema": "x/1"}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(OutputError, match="is no result of bench"):
            check_target(tmp_path / name)
        assert (tmp_path / name).read_text() == text
    write_results(WHOLE, tmp_path / "r.json")
    check_target(tmp_path / "r.json")
    check_target(tmp_path / "new.json")


@pytest.mark.parametrize("wrong", ["", ".", "/", "no/where.json"])
def test_no_place_for_a_file_is_refused(wrong: str) -> None:
    with pytest.raises(OutputError, match="--output"):
        check_target(wrong)


def test_a_link_and_a_device_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("target.json")
    write_results(WHOLE, tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert read_results(tmp_path / "target.json") == WHOLE
    # A device of our own to lose: a pseudo-terminal.
    leader, follower = os.openpty()
    try:
        name = os.ttyname(follower)
        write_results({"schema": "primesvt-bench/1"}, name)
        assert not Path(name).is_file()
        assert b"primesvt-bench/1" in os.read(leader, 4096)
    finally:
        os.close(leader)
        os.close(follower)
