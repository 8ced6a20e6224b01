"""`bench` and `compare` as a user meets them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from unittest import mock

import pytest
from native_bundles import small_bundle
from small_models import TERMINAL, primesvt

from primesvt_deploy.cli.tables.bench import print_result
from primesvt_deploy.edge.bench.results import read_results

QUICK = ("--batches", "1", "--threads", "1", "--seconds", "0.1", "--rounds", "5", "--warmup", "0.2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_artifact: object) -> Path:
    """A directory with a model file and a result of it."""
    directory = tmp_path_factory.mktemp("bench")
    (directory / "model.onnx").write_bytes(tiny_artifact.path.read_bytes())  # type: ignore[attr-defined]
    ran = primesvt("bench", "model.onnx", *QUICK, "--output", "first.json", cwd=directory)
    assert ran.returncode == 0, ran.stderr
    (directory / "stdout").write_text(ran.stdout)
    (directory / "stderr").write_text(ran.stderr)
    return directory


def times(place: Path, name: str, factor: float) -> None:
    """The first result with its times multiplied."""
    content = json.loads((place / "first.json").read_text())
    for variant in content["variants"]:
        variant["rounds_ms"] = [[factor * ms for ms in block] for block in variant["rounds_ms"]]
        variant["latency_ms"]["median"] *= factor
    (place / name).write_text(json.dumps(content))


def test_bench_shows_latency_and_memory(place: Path) -> None:
    shown = (place / "stdout").read_text()
    for words in (
        "median",
        "p95",
        "p99",
        "samples/s",
        "first run",
        "anonymous memory",
        "memory of runs",
    ):
        assert words in shown, words
    assert max(map(len, shown.splitlines())) <= 80
    assert "warming up" in (place / "stderr").read_text()


def test_tables_name_the_runtime(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((place / "first.json").read_text())
    (row,) = content["variants"]
    assert row["runtime"] == "onnx" and row["native"] is None
    own = {"kernels": "neon", "arena_bytes": 118_848, "program_peak_bytes": 2_310_000}
    name = "model.onnx, native, batch 1, 1 thread"
    content["variants"].append(
        {**row, "name": name, "runtime": "native", "profile": None, "arena": None, "native": own}
    )
    content["comparisons"] = [
        {"variant": name, "against": row["name"], "time_ratio": 0.5, "interval95": [0.4, 0.6]}
    ]
    for old in content["variants"][:1]:  # as results were before there was another runtime
        del old["runtime"], old["native"]
    with mock.patch.dict(os.environ, TERMINAL):
        print_result(content)
    shown = capsys.readouterr().out
    for words in ("│ onnx, latency", "│ native", "┃ onnx, latency", " native ┃"):
        assert words in shown, words
    assert f"{name}: 2.00x faster [1.67, 2.50] (95%) than" in " ".join(shown.split())
    assert "model.onnx, native: neon kernels; as a C program 2.31 MB at its peak" in shown
    assert " 0.12 " in shown  # MB of its arena
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.slow
def test_runtimes_are_compared_in_one_command(place: Path) -> None:
    small_bundle(place / "both")
    found = primesvt("bench", "both", *QUICK, "--output", "both.json", cwd=place)
    assert found.returncode == 0, found.stderr
    assert "both, native, batch 1, 1 thread: " in " ".join(found.stdout.split())
    assert "preparing the native runtime" in found.stderr
    found = primesvt("bench", "both", *QUICK, "--runtime", "native", "--json", cwd=place)
    (row,) = json.loads(found.stdout)["variants"]
    assert (row["runtime"], row["profile"]) == ("native", None)
    found = primesvt("bench", "both/model.svit", *QUICK, "--baseline", "both.json", cwd=place)
    assert found.returncode == 0, found.stderr
    assert "model.svit, native" in found.stdout
    found = primesvt("compare", "both.json", "first.json", "--plot", "both.svg", cwd=place)
    assert found.returncode == 0, found.stderr
    assert (place / "both.svg").stat().st_size


@pytest.mark.slow
def test_json_is_the_result_and_nothing_else(place: Path) -> None:
    found = primesvt("bench", "model.onnx", *QUICK, "--operators", "--json", cwd=place)
    content = json.loads(found.stdout)
    assert content["schema"] == "primesvt-bench/1"
    assert content["variants"][0]["operators"]["by_type"]


@pytest.mark.slow
def test_several_are_compared_in_turns(place: Path) -> None:
    (place / "copy.onnx").write_bytes((place / "model.onnx").read_bytes())
    found = primesvt("bench", "model.onnx", "copy.onnx", *QUICK, cwd=place)
    said = " ".join(found.stdout.split())
    assert "than model.onnx, latency, batch 1, 1 thread" in said
    assert "faster [" in said or "slower [" in said


@pytest.mark.slow
def test_a_regression_is_exit_code_1(place: Path) -> None:
    times(place, "fast.json", 1e-3)
    guard = ("--baseline", "fast.json", "--fail-if-slower", "10%")
    found = primesvt("bench", "model.onnx", *QUICK, *guard, cwd=place)
    assert found.returncode == 1
    assert "slower than 10% allows: model.onnx" in found.stderr
    times(place, "slow.json", 1e3)
    slow = json.loads((place / "slow.json").read_text())
    slow["variants"].append({**slow["variants"][0], "name": "of four", "batch": 4})
    (place / "slow.json").write_text(json.dumps(slow))
    found = primesvt("bench", "model.onnx", *QUICK, "--baseline", "slow.json", cwd=place)
    assert found.returncode == 0
    assert "faster" in found.stdout
    assert "not compared: of four: only in slow.json" in found.stderr


def test_compare_tells_ratios_and_draws(place: Path) -> None:
    times(place, "other.json", 2.0)
    found = primesvt("compare", "first.json", "other.json", "--plot", "p.png", cwd=place)
    assert found.returncode == 0, found.stderr
    assert "2.00x slower" in found.stdout
    assert (place / "p.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads(primesvt("compare", "first.json", "other.json", "--json", cwd=place).stdout)
    assert rows["compared"]["other.json"][0]["time_ratio"] == pytest.approx(2.0, rel=1e-3)


def test_compare_refuses_other_machines_unless_told(place: Path) -> None:
    content = json.loads((place / "first.json").read_text())
    content["machine"]["cpu"] = "Cortex-A76"
    (place / "pi.json").write_text(json.dumps(content))
    found = primesvt("compare", "first.json", "pi.json", cwd=place)
    assert found.returncode == 2
    assert "different machines" in found.stderr and "--any-machine" in found.stderr
    assert primesvt("compare", "first.json", "pi.json", "--any-machine", cwd=place).returncode == 0


def test_what_the_guard_did_not_compare_is_told(place: Path) -> None:
    content = json.loads((place / "first.json").read_text())
    content["variants"][0]["bundle"] = "[/x] other"  # nor may a name be read as markup
    content["variants"][0]["name"] = "[/x] other"
    content["variants"] += json.loads((place / "first.json").read_text())["variants"]
    content["bundles"].append({"label": "[/x] other"})
    (place / "two.json").write_text(json.dumps(content))
    found = primesvt("compare", "first.json", "two.json", cwd=place)
    assert "not compared: [/x] other: only in two.json" in found.stderr
    (place / "again.json").write_text(json.dumps(content))
    content["variants"][0]["bundle"] = content["variants"][0]["name"] = "new"
    (place / "new.json").write_text(json.dumps(content))
    found = primesvt("compare", "again.json", "new.json", cwd=place)
    assert found.returncode == 0, found.stderr
    assert found.stderr.splitlines() == [
        "not compared: new: only in new.json",
        "not compared: [/x] other: only in again.json",
    ]
    content = json.loads(primesvt("compare", "again.json", "new.json", "--json", cwd=place).stdout)
    alone = {"new.json": ["new"], "again.json": ["[/x] other"]}
    assert content["not_compared"] == {"new.json": alone}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bench", "none"), "there is nothing at none"),
        (("bench", "model.onnx", "--fail-if-slower", "10%"), "pass --baseline"),
        (("bench", "model.onnx", "--fail-if-slower", "ten", "--baseline", "first.json"), "'ten'"),
        (("bench", "model.onnx", "--baseline", "none.json"), "no result file"),
        (("bench", "model.onnx", "--profile", "fast"), "no session profile 'fast'"),
        (("bench", "model.onnx", "--batches", "1,x"), "--batches is '1,x'"),
        (("bench", "model.onnx", "--threads", "0"), "expected 1 to 1024"),
        (("bench", "model.onnx", "--output", ""), "--output is empty: expected a path"),
        (("bench", "model.onnx", "--output", "model.onnx"), "is no result of bench"),
        (("bench", "first.json"), "neither a bundle directory nor a .onnx"),
        (("bench", "model.onnx", "--output", "no/where.json"), "there is no directory"),
        (("bench", "model.onnx", "--bootstrap"), "--host"),
        (("bench", "model.onnx", "--cc", "gcc"), "--cc is for another machine: name it by --host"),
        (("bench", "model.onnx", "--runtime", "fast"), "there is no runtime 'fast': pass onnx, n"),
        (("bench", "model.onnx", "--runtime", "both"), "is built for the runtime onnx, expected"),
        (("bench", "model.onnx", "--host", "pi", "--cc", "gcc"), "--cc compiles the native runt"),
        (("compare", "first.json"), "name two or more"),
        (("compare", "first.json", "model.onnx"), "not a complete JSON"),
        (("compare", "first.json", "first.json"), "named twice"),
        (("compare", "first.json", "other.json", "--plot", "p.txt"), ".png or .svg"),
    ],
)
def test_a_mistake_is_one_line(place: Path, arguments: tuple[str, ...], said: str) -> None:
    found = primesvt(*arguments, cwd=place)
    assert found.returncode == 2
    assert said in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_a_finished_measurement_is_kept_where_it_cannot_be_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    content = json.loads((place / "first.json").read_text())
    (tmp_path / "results").mkdir()
    (tmp_path / "model.onnx").touch()

    def measured(*_: object, **__: object) -> dict[str, object]:
        (tmp_path / "results").rmdir()
        return content

    monkeypatch.setattr(sys.modules["primesvt_deploy.cli.bench"], "_measured", measured)
    options = ("--output", "results/r.json", *(["--json"] if as_json else []))
    ended = primesvt("bench", "model.onnx", *options, cwd=tmp_path)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: cannot write {tmp_path}/results/r.json: No such file")
    kept = line.partition("the result is at ")[2].removesuffix(", move it from there")
    assert Path(kept).parent == tmp_path
    assert read_results(kept) == content
    if as_json:
        assert json.loads(ended.stdout)["variants"] == content["variants"]
    else:
        assert "median" in ended.stdout


def test_a_plot_in_no_directory_is_refused_first(place: Path) -> None:
    ended = primesvt("compare", "no.json", "none.json", "--plot", "no/where.svg", cwd=place)
    assert ended.returncode == 2
    assert ended.stderr == "error: --plot: there is no directory no: make it\n"
