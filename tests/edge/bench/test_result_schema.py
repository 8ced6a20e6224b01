"""Results as others may have altered them: compared and shown, or refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from edge.bench.test_comparison import result, variant
from hostile_json import mutations
from hypothesis import given, settings
from hypothesis import strategies as st

from primesvt_deploy.cli import cli
from primesvt_deploy.cli.tables.bench import print_result
from primesvt_deploy.edge.bench.result_schema import check_measured, check_result
from primesvt_deploy.edge.bench.results import check_target, read_results
from primesvt_deploy.edge.runtime.checked_json import parse_json
from primesvt_deploy.errors import DeployError, OutputError

WHOLE = result(variant("a", 10.0), variant("b", 5.0))
ALL = 10**6
_RESIDENT = {"VmHWM": 40_000_000, "RssAnon": 20_000_000}


def measured() -> dict[str, Any]:
    """A result as a bench of both runtimes gives it."""
    content = result(variant("a", 10.0), variant("a", 5.0), python="3.12.3", physical_cores=4,
                     c_compiler="gcc 12.2.0")  # fmt: skip
    onnx, native = content["variants"]
    for row in content["variants"]:
        row["rounds_ms"] = row["rounds_ms"][:3]
        row["latency_ms"] = {"n": 15, "min": 4.9, "median": 5.0, "mean": 5.0, "p95": 5.2,
                             "p99": None}  # fmt: skip
        row |= {
            "runtime": "onnx", "file": "model.onnx", "file_bytes": 1000, "initializer_bytes": None,
            "seconds": {"import": 0.1, "load": 0.2, "first_run": 0.3}, "samples_per_second": 200.0,
            "memory": dict.fromkeys(("start", "imported", "session", "first run", "steady"),
                                    _RESIDENT),
            "histogram": {"edges_ms": [4.9, 5.0, 5.2], "counts": [9, 6], "above": 0},
            "arena": {"extended_bytes": 10, "reserved_bytes": 20}, "native": None,
            "operators": {"runs": 3, "slowest": [], "by_type": [
                {"operator": "Conv", "nodes": 2, "ms": 0.5, "share": 0.75}]},
            "energy": {
                "idle": {"mean_watts": 2.0, "samples": 9, "seconds": 5.0},
                "running": {"mean_watts": 4.0, "samples": 9, "seconds": 5.0},
                "inferences": 100, "seconds": 5.0, "millijoules_an_inference": 200.0,
                "millijoules_an_inference_above_idle": -1.0, "covers": "PMIC rails"},
        }  # fmt: skip
    native |= {
        "name": "a, native, batch 1, 1 thread", "runtime": "native", "profile": None,
        "arena": None, "operators": None, "energy": None,
        "native": {"kernels": "neon", "arena_bytes": 1000, "program_peak_bytes": 2000},
    }  # fmt: skip
    content["comparisons"] = [
        {"variant": native["name"], "against": onnx["name"], "rounds": 3, "time_ratio": 0.5,
         "interval95": [0.4, 0.6]}
    ]  # fmt: skip
    content["notes"] = ["noisy: a, latency, batch 1, 1 thread: p95 is 2 times the median"]
    return content


def require_one_line(error: Exception, described: str) -> None:
    said = str(error)
    assert said.isprintable() and len(said) < 1000, (described, said[:300])


def run(*arguments: str) -> str:
    """What a command prints; a traceback is a failure of the test."""
    ran = CliRunner().invoke(cli, arguments, catch_exceptions=False, standalone_mode=False)
    return ran.stdout


def compare(*arguments: str | Path) -> str:
    return run("compare", *map(str, arguments))


def compare_altered(place: Path, described: str, text: bytes) -> None:
    (place / "a.json").write_text(json.dumps(WHOLE))
    (place / "b.json").write_bytes(text)
    for pair in (("a.json", "b.json"), ("b.json", "a.json")):
        paths = [place / name for name in pair]
        try:
            shown = compare(*paths)
            found = parse_json(compare(*paths, "--any-machine", "--json"))
        except DeployError as error:
            require_one_line(error, described)
        else:
            assert "faster" in shown or "slower" in shown, described
            assert found["compared"][str(paths[1])], described


@given(seed=st.integers(0, 2**32))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_altered_results_are_compared_or_refused(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    place = tmp_path_factory.getbasetemp()
    for described, text in mutations(WHOLE, seed=seed, count=3):
        compare_altered(place, described, text)


@pytest.mark.slow
def test_no_alteration_at_any_place_is_a_traceback(tmp_path: Path) -> None:
    compared = 0
    for described, text in mutations(result(variant("a", 10.0)), seed=0, count=ALL):
        (tmp_path / "b.json").write_bytes(text)
        try:
            read_results(tmp_path / "b.json")
        except DeployError as error:
            require_one_line(error, described)
        else:
            compare_altered(tmp_path, described, text)
            compared += 1
    assert compared > 50


@given(seed=st.integers(0, 2**32))
@settings(derandomize=True, deadline=None, max_examples=20)
def test_an_altered_result_of_a_host_is_shown_or_refused(seed: int) -> None:
    for described, text in mutations(measured(), seed=seed, count=20):
        try:
            content = parse_json(text)
            check_measured(content)
        except ValueError as error:
            require_one_line(error, described)
        else:
            print_result(content)


def test_a_whole_result_passes() -> None:
    check_result(WHOLE)
    check_measured(measured())
    print_result(measured())


def test_extremes_have_finite_ratios(tmp_path: Path) -> None:
    for name, ms in (("fast.json", 1e-6), ("slow.json", 1e9)):
        (tmp_path / name).write_text(json.dumps(result(variant("a", ms))))
        content = json.loads((tmp_path / name).read_text())
        content["variants"][0]["rounds_ms"] = [[ms]]
        (tmp_path / name).write_text(json.dumps(content))
    for pair in (("fast.json", "slow.json"), ("slow.json", "fast.json")):
        paths = [tmp_path / name for name in pair]
        (row,) = parse_json(compare(*paths, "--json"))["compared"][str(paths[1])]
        assert row["time_ratio"] in (1e15, 0.0)
        assert compare(*paths)


@pytest.mark.parametrize("change", [{"name": "other"}, {"batch": 4, "bundle": "b"}])
def test_a_configuration_that_stands_twice_is_refused(change: dict[str, Any]) -> None:
    content = result(variant("a", 10.0), {**variant("a", 5.0), **change})
    with pytest.raises(ValueError, match=r"variants\[1\] is the same configuration as variants"):
        check_result(content)


def test_a_plot_shows_names_as_they_are(tmp_path: Path) -> None:
    content = result(variant("a", 1.0))
    content["variants"][0]["name"] = "$\\frac{a$ " + "x" * 9000
    (tmp_path / "$\\frac{a$.json").write_text(json.dumps(content))
    (tmp_path / "b.json").write_text(json.dumps(result(variant("a", 2.0))))
    compare(
        *(tmp_path / name for name in ("b.json", "$\\frac{a$.json")), "--plot", tmp_path / "p.svg"
    )
    drawn = (tmp_path / "p.svg").read_text()
    assert "$\\frac{a$ xxx" in drawn and "$\\frac{a$.json" in drawn


def test_what_is_no_file_is_refused_unopened(tmp_path: Path) -> None:
    """A pipe without a writer would be waited for."""
    (tmp_path / "a.json").write_text(json.dumps(WHOLE))
    os.mkfifo(tmp_path / "pipe")
    for other, said in (("pipe", "a pipe"), (".", "a directory"), ("/dev/zero", "a character")):
        with pytest.raises(DeployError, match=f"not a complete JSON file .it is {said}"):
            compare(tmp_path / "a.json", tmp_path / other)


@pytest.mark.parametrize("text", [b"[" * 5000, b'{"schema": "primesvt-bench/1"}', None])
def test_a_damaged_baseline_is_refused_before_anything_is_measured(
    text: bytes | None, tmp_path: Path
) -> None:
    if text is None:
        os.mkfifo(tmp_path / "b.json")
    else:
        (tmp_path / "b.json").write_bytes(text)
    with pytest.raises(DeployError, match=r"b\.json is (not a complete JSON|damaged)") as caught:
        run("bench", "none.onnx", "--baseline", str(tmp_path / "b.json"))
    require_one_line(caught.value, "")


def test_a_target_is_read_no_further_than_a_result_is(tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    for text in (b"[" * 5000, b'{"schema": ["primesvt-bench/"]}', b'{"schema": NaN}', b"\xff"):
        target.write_bytes(text)
        with pytest.raises(OutputError, match="is no result of bench"):
            check_target(target)
    with target.open("wb") as file:
        file.truncate(2**40)  # of holes: it takes no space
    with pytest.raises(OutputError, match="is no result of bench"):
        check_target(target)
    os.mkfifo(tmp_path / "pipe")
    check_target(tmp_path / "pipe")  # written to as it is, never read
