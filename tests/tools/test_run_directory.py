"""What lies in a run's directory is never lost, and never taken for another run's."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from reference.directory import CHECKPOINT, IDENTITY, LOG, WEIGHTS, RunDirectory, read_log
from training_runs import TRAINING, logged, made, paint, recipe_text

from primesvt_deploy.errors import OutputError, SettingsError


@pytest.fixture
def begun(place: Path, tmp_path: Path) -> Path:
    """The place of a run that was stopped after a step, in `run`."""
    (tmp_path / "recipe.toml").write_text((place / "recipe.toml").read_text())
    (tmp_path / "images").symlink_to(place / "images")
    assert not made(tmp_path, "run", seconds=0.0).go()
    return tmp_path


def contents(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file()}


def refused(start: Callable[[], object], directory: Path) -> str:
    """The one line of a refusal that changes nothing."""
    before = contents(directory)
    with pytest.raises(OutputError) as caught:
        start()
    assert contents(directory) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_of_something_else_are_left_alone(begun: Path) -> None:
    for name in (LOG, WEIGHTS, CHECKPOINT):
        own = begun / f"own-{name}"
        own.mkdir()
        (own / name).write_text("mine")
        assert f"holds {name} of something else" in refused(made(begun, own.name).go, own)


def test_another_recipe_is_refused_and_named(begun: Path) -> None:
    (begun / "recipe.toml").write_text(recipe_text(training=TRAINING.replace("2e-3", "1e-3")))
    said = refused(made(begun, "run").go, begun / "run")
    assert "another recipe (learning_rate: 0.002, not 0.001)" in said
    other = recipe_text().replace("num_heads = 2", "num_heads = 4")
    (begun / "recipe.toml").write_text(other)
    assert "another network (arguments" in refused(made(begun, "run").go, begun / "run")


def test_other_images_are_refused_however_many_they_are(begun: Path) -> None:
    paint(begun / "others", seed=1)
    run = made(begun, "run", images="others")
    assert "other training images" in refused(run.go, begun / "run")


def test_a_test_image_fewer_is_no_other_run(begun: Path) -> None:
    shutil.copytree(begun / "images", begun / "fewer")
    (begun / "fewer" / "test" / "bee" / "3.png").unlink()
    assert not made(begun, "run", images="fewer", seconds=0.0).go()
    assert [line["step"] for line in logged(begun / "run") if "loss" in line] == [1, 2]


def test_one_process_at_a_time(begun: Path) -> None:
    with (begun / "run" / IDENTITY).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another process trains in" in refused(made(begun, "run").go, begun / "run")


@pytest.mark.parametrize("content", [b"", b"torn", b"tensor", b"key"])
def test_a_damaged_checkpoint_is_told(content: bytes, begun: Path) -> None:
    path = begun / "run" / CHECKPOINT
    state = torch.load(path, weights_only=True)
    path.write_bytes(content)
    if content == b"tensor":
        torch.save(torch.zeros(3), path)
    elif content == b"key":
        torch.save({key: value for key, value in state.items() if key != "optimizer"}, path)
    assert "is damaged: remove it" in refused(made(begun, "run").go, begun / "run")
    path.unlink()
    assert not made(begun, "run", seconds=0.0).go(), "then the run begins anew"
    assert [line["step"] for line in logged(begun / "run") if "loss" in line] == [1]


@pytest.mark.parametrize("line", ["3", "null", '{"step": null}', '{"step": 2, "lo', "\0\0"])
def test_damaged_lines_of_a_log_are_left_out(line: str, begun: Path) -> None:
    known = logged(begun / "run")
    with (begun / "run" / LOG).open("ab") as log:
        log.write(line.encode() + b"\n\xff\xfe\n")
    assert read_log(begun / "run" / LOG) == known
    assert not made(begun, "run", seconds=0.0).go()
    assert [entry["step"] for entry in logged(begun / "run") if "loss" in entry] == [1, 2]


def test_a_full_disk_leaves_the_files_as_they_were(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        path.open("wb").close()
        raise OSError(28, "No space left on device")

    (begun / "run" / LOG).open("a").write("torn")
    monkeypatch.setattr(Path, "write_bytes", full)
    run = RunDirectory(begun / "run")
    for write in (lambda: run.write(CHECKPOINT, {}), lambda: run.logged(0)):
        assert "No space left" in refused(write, begun / "run")


@pytest.mark.parametrize("place_of", ["file", "file/within"])
def test_an_output_that_cannot_be(place_of: str, begun: Path) -> None:
    (begun / "file").write_text("mine")
    assert "cannot write" in refused(made(begun, place_of).go, begun)


@pytest.mark.slow
def test_a_stop_loses_no_loss_of_the_log(place: Path, begun: Path) -> None:
    assert made(begun, "rarely", log_steps=5, seconds=0.0).go() is False
    assert made(begun, "rarely", log_steps=5).go()
    assert made(begun, "never", log_steps=5).go()
    rarely, never = (
        [(line["step"], line["loss"]) for line in logged(begun / name) if "loss" in line]
        for name in ("rarely", "never")
    )
    assert rarely == never


@pytest.mark.slow
def test_an_epoch_whose_evaluation_failed_is_evaluated_by_the_next_start(begun: Path) -> None:
    shutil.copytree(begun / "images", begun / "corrupt")
    for image in (begun / "corrupt" / "test" / "ant").iterdir():
        image.write_bytes(b"\x89PNG")
    with pytest.raises(Exception, match=r"\.png"):
        made(begun, "run", images="corrupt", save_seconds=1e9).go()
    assert made(begun, "run").go()
    epochs = [line["epoch"] for line in logged(begun / "run") if "search" in line]
    assert epochs == [1, 2, 3, 4, 5, 6]


def test_a_run_that_diverges_ends_with_its_last_good_checkpoint(begun: Path) -> None:
    (begun / "recipe.toml").write_text(
        recipe_text(training=TRAINING.replace("2e-3", "1e30") + "warmup_epochs = 0\n")
    )
    with pytest.raises(SettingsError, match=r"the loss is .* lower learning_rate"):
        made(begun, "diverged").go()
    for line in (begun / "diverged" / LOG).read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))
    state = torch.load(begun / "diverged" / CHECKPOINT, weights_only=True)
    assert state["step"] < 36
