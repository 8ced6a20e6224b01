"""`bench` and `compare` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_models import primesvt

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
    for words in ("median", "p95", "p99", "samples/s", "first run", "RssAnon", "arena"):
        assert words in shown, words
    assert max(map(len, shown.splitlines())) <= 80
    assert "warming up" in (place / "stderr").read_text()


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
    found = primesvt("bench", "model.onnx", *QUICK, "--baseline", "slow.json", cwd=place)
    assert found.returncode == 0
    assert "faster" in found.stdout


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
    assert "not compared: [/x] other" in found.stderr
    (place / "again.json").write_text(json.dumps(content))
    content["variants"][0]["bundle"] = content["variants"][0]["name"] = "new"
    (place / "new.json").write_text(json.dumps(content))
    found = primesvt("compare", "again.json", "new.json", cwd=place)
    assert found.returncode == 0, found.stderr
    assert "not compared: new: it has no counterpart" in found.stderr


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
        (("bench", "model.onnx", "--output", ""), "expected a file to write"),
        (("bench", "model.onnx", "--output", "model.onnx"), "is no result of bench"),
        (("bench", "first.json"), "neither a bundle directory nor a .onnx"),
        (("bench", "model.onnx", "--output", "no/where.json"), "there is no directory"),
        (("bench", "model.onnx", "--bootstrap"), "--host"),
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
