"""Reference models are trained step for step alike, however often a run is cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_reference
from families.zoo import ZOO
from reference.directory import LOG, WEIGHTS
from reference.execution import Execution, Processes
from reference.recipe import Phase, Recipe, Training
from reference.run import Run
from reference.samples import Order, Samples, mixed
from small_models import make_model
from training_runs import STEPS, TRAINING, logged, made, paint, recipe_text, train_in

from primesvt_deploy.data import DataSet, ImageList, open_data
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.families.network import SpikingNetwork

SCRIPT = Path(__file__).parents[2] / "tools" / "train_reference.py"


def command(place: Path, run: str, *further: str) -> list[str]:
    return [
        str(SCRIPT), str(place / "recipe.toml"), "--data", str(place / "images"),
        "--output", str(place / run), "--threads", "1", "--log-steps", "1", "--save-seconds", "0",
        *further,
    ]  # fmt: skip


def curve(run: Path) -> list[tuple[Any, ...]]:
    keys = ("step", "loss", "learning_rate", "timesteps", "search")
    lines = [line for line in logged(run) if "started" not in line]
    return [tuple(line.get(key) for key in keys) for line in lines]


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = (torch.load(run / WEIGHTS, weights_only=True) for run in (one, other))
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.mark.slow
def test_it_learns(place: Path, tmp_path: Path) -> None:
    plain = "phases = [[1, 8], [2, 4]]\nbatch_size = 8\nlearning_rate = 1e-2\naveraging = 0.8\n"
    (tmp_path / "recipe.toml").write_text(recipe_text(training=f'{plain}augmentation = "none"'))
    (tmp_path / "images").symlink_to(place / "images")
    assert made(tmp_path, "plain", save_seconds=1e9).go()
    lines = logged(tmp_path / "plain")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2 * STEPS
    assert np.median(losses[-12:]) < np.median(losses[:6]) - 0.15
    epochs = [line for line in lines if "search" in line]
    assert [line["timesteps"] for line in epochs] == [1] * 8 + [2] * 4
    assert epochs[-1]["search"]["top1_percent"] > 60.0, "three colours are told apart"
    assert epochs[-1]["search"]["n"] == 60


def started(place: Path, name: str, *further: str) -> subprocess.Popen[str]:
    """A run in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *command(place, name, *further)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_lines(run: Path, count: int, until: Callable[[], object]) -> None:
    """Until so many lines are in the log of a run, or it has ended."""
    deadline = time.monotonic() + 120.0
    while not until() and time.monotonic() < deadline:
        if (run / LOG).is_file() and (run / LOG).read_text().count("\n") >= count:
            break
        time.sleep(0.002)


@pytest.fixture
def signal_handlers() -> Iterator[None]:
    """Puts back those of this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.slow
@pytest.mark.usefixtures("signal_handlers")
def test_killed_and_run_again_it_is_as_if_nothing_had_been(
    place: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, log = started(place, "killed"), place / "killed" / LOG
    wait_for_lines(place / "killed", 6, process.poll)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    cut_off = len([line for line in log.read_text().splitlines() if line.endswith("}")])
    assert 5 <= cut_off < STEPS
    monkeypatch.setattr("sys.argv", command(place, "killed"))
    assert train_reference.main() == 0
    assert curve(place / "killed") == curve(whole)
    assert_same_weights(place / "killed", whole)


@pytest.mark.slow
def test_its_time_over_it_stops_with_a_checkpoint(place: Path, whole: Path) -> None:
    assert not made(place, "stopped", seconds=0.0).go()
    assert len(curve(place / "stopped")) == 1
    assert made(place, "stopped", workers=1).go(), "worker processes change nothing"
    assert curve(place / "stopped") == curve(whole)
    assert_same_weights(place / "stopped", whole)


@pytest.mark.slow
def test_what_was_logged_after_the_checkpoint_is_logged_again(place: Path, whole: Path) -> None:
    assert not made(place, "torn", seconds=0.0).go()
    with (place / "torn" / LOG).open("a") as log:
        log.write('{"step": 2, "loss": 9.0}\n{"step": 3, "lo')
    assert made(place, "torn", save_seconds=1e9).go()
    assert curve(place / "torn") == curve(whole)


@pytest.mark.slow
def test_devices_share_each_step(place: Path, tmp_path: Path) -> None:
    """Each has half of a batch, and one log tells of both."""
    short = TRAINING.replace("[[1, 3], [2, 3]]", "[[1, 1], [2, 1]]")
    (tmp_path / "recipe.toml").write_text(recipe_text(training=short))
    (tmp_path / "images").symlink_to(place / "images")
    found = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            *command(tmp_path, "shared"),
        ],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]
    lines = logged(tmp_path / "shared")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "search" in line] == [6, 12]


def test_devices_have_each_sample_once_and_resumed_steps_are_the_same() -> None:
    whole = list(Order(count=21, batch_size=8, seed=3, first=0, last=6))
    shares = [
        list(Order(count=21, batch_size=8, seed=3, first=0, last=6, rank=r, devices=2))
        for r in (0, 1)
    ]
    for step, one, other in zip(whole, *shares, strict=True):
        assert len(one) == len(other) == 4
        assert sorted(one + other) == sorted(step)
    assert list(Order(count=21, batch_size=8, seed=3, first=4, last=6)) == whole[4:]
    first_epoch = [sample for step in whole[:2] for sample in step]
    assert len(set(first_epoch)) == 16
    assert whole[0] != [(0, number) for _, number in whole[2]], "another order each epoch"


def test_mixed_labels_are_shares(place: Path) -> None:
    training = Training(phases=(Phase(1, 1),), mixup=0.5, cutmix=1.0)
    inputs, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 3
    kinds = set()
    for step in range(20):
        new, shares = mixed(inputs, labels, 3, training, step)
        again, _ = mixed(inputs, labels, 3, training, step)
        assert torch.equal(new, again), "the step alone decides"
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(8))
        kinds.add(bool(torch.isin(new, inputs).all()))
    assert kinds == {True, False}, "CutMix keeps pixels, mixup does not"
    untouched, same = mixed(inputs, labels, 3, replace(training, mixing=0.0), 0)
    assert untouched is inputs and same is labels


def test_augmented_samples_depend_on_seed_epoch_and_image_alone(place: Path) -> None:
    model = Recipe.read(place / "recipe.toml").build_model()
    images = open_data(model, place / "images").train
    steps = model.preprocessing
    assert isinstance(steps, Preprocessing)
    samples = Samples(images, steps, Training(phases=(Phase(1, 1),)))
    first, label = samples[0, 3]
    torch.manual_seed(99)
    assert torch.equal(samples[0, 3][0], first)
    assert label == images.labels[3]
    assert not torch.equal(samples[1, 3][0], first), "another epoch"
    plain = Samples(images, steps, Training(phases=(Phase(1, 1),), augmentation="none"))
    pixels = steps.apply(images.pixels(3))
    assert any(
        np.allclose(plain[epoch, 3][0].numpy()[:, 4:12, 4:12], shifted, atol=1e-5)
        for epoch in range(400)
        for shifted in (pixels[:, 4:12, 4:12], pixels[:, 4:12, ::-1][:, :, 4:12])
    ), "a crop and a flip of what the deployed model would see"


@pytest.mark.parametrize("form", [form for form, (_, config) in ZOO.items() if not config.frames])
def test_every_family_is_trained(form: str, tmp_path: Path) -> None:
    family, config = ZOO[form]
    model = make_model(config, family=family)
    assert isinstance(model.preprocessing, Preprocessing)
    generator = np.random.default_rng(0)
    shape = (config.image_size, config.image_size, 3)
    pixels = [generator.integers(0, 255, shape, dtype=np.uint8) for _ in range(60)]
    numbers = np.arange(60)
    images = ImageList(pixels.__getitem__, numbers, numbers % 5, model.preprocessing)
    before = {k: v.clone() for k, v in model.module.named_parameters()}
    assert np.isfinite(train_in(tmp_path, model, images)).all()
    after = dict(model.module.named_parameters())
    used = [k for k, v in before.items() if v.ndim > 1]
    assert sum(not torch.equal(before[k], after[k]) for k in used) > 0.9 * len(used)
    assert isinstance(model.module, SpikingNetwork)


def test_a_batch_that_cannot_be(place: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be shared by 3"):
        made(place, "odd", devices=3)
    model = make_model()
    empty = ImageList(lambda _: np.zeros(0), np.arange(0), np.arange(0), model.preprocessing)
    data = DataSet(name="none", digest="", train=empty, search=empty, held_out=empty)
    with pytest.raises(SettingsError, match="none has no images to train on"):
        Run(model, data, Training(phases=(Phase(3, 1),)), place / "n", _cpu())


def _cpu() -> Execution:
    return Execution(device=torch.device("cpu"))


def run_main(
    monkeypatch: pytest.MonkeyPatch, place: Path, *further: str, **environment: str
) -> int:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("train_reference._stopped_by_signals", lambda: lambda: False)
    monkeypatch.setattr("sys.argv", command(place, "refused", *further))
    return train_reference.main()


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        (("--device", "cuda"), {}, "torch sees 0 CUDA devices"),
        ((), {"WORLD_SIZE": "2"}, "start several devices by torchrun"),
        ((), {"WORLD_SIZE": "a"}, "start several devices by torchrun"),
        (("--data", "nowhere"), {}, "no data at nowhere"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    options: tuple[str, ...],
    environment: dict[str, str],
    expected: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_main(monkeypatch, place, *options, **environment) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert expected in said
    assert not (place / "refused").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--threads", "-1"), ("--threads", "0"), ("--log-steps", "0"), ("--workers", "-1"),
        ("--minutes", "-1"), ("--minutes", "nan"), ("--save-seconds", "-1"),
    ],
)  # fmt: skip
def test_options_out_of_range(
    options: tuple[str, str],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        run_main(monkeypatch, place, *options)
    assert f"argument {options[0]}" in capsys.readouterr().err


def test_a_rank_alone_is_no_torchrun(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert Processes.from_environment() == Processes()


def test_a_corrupt_image_is_one_line_from_a_loading_process_too(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "recipe.toml").write_text((place / "recipe.toml").read_text())
    paint(tmp_path / "images")
    monkeypatch.setattr("reference.samples._CACHED_BYTES", 0)
    monkeypatch.setattr("reference.run._DIGEST_IMAGES", 1)
    for image in (tmp_path / "images" / "train" / "bee").iterdir():
        image.write_bytes(b"\x89PNG")
    assert run_main(monkeypatch, tmp_path, "--workers", "1") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'images' / 'train' / 'bee'}")
    assert said.count("\n") == 1


def test_no_train_images_is_told(place: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text((place / "recipe.toml").read_text())
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "test").symlink_to(place / "images" / "test")
    with pytest.raises(SettingsError, match="no images to train on: expected train/"):
        made(tmp_path, "none")


def check_stopped(place: Path, name: str, output: str, errors: str, whole: Path) -> None:
    """A run stopped after some steps, said so, and goes on as if nothing had been."""
    assert output.splitlines()[-1] == "stopped: run the same command to go on"
    assert "Traceback" not in errors
    assert logged(place / name)[-1]["step"] < STEPS
    assert made(place, name, save_seconds=1e9).go()
    assert curve(place / name) == curve(whole)
    assert_same_weights(place / name, whole)


@pytest.mark.slow
def test_a_signal_stops_with_a_checkpoint(place: Path, whole: Path) -> None:
    process = started(place, "terminated", "--save-seconds", "1e9")
    wait_for_lines(place / "terminated", 3, process.poll)
    process.terminate()
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 3, errors
    check_stopped(place, "terminated", output, errors, whole)


@pytest.mark.slow
@pytest.mark.usefixtures("signal_handlers")
def test_ctrl_c_stops_with_a_checkpoint(
    place: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()

    def interrupt() -> None:
        wait_for_lines(place / "interrupted", 3, ended.is_set)
        signal.raise_signal(signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    monkeypatch.setattr("sys.argv", command(place, "interrupted", "--save-seconds", "1e9"))
    try:
        assert train_reference.main() == 3
    finally:
        ended.set()
        interrupting.join()
    check_stopped(place, "interrupted", *capsys.readouterr(), whole)


def test_training_sees_images_as_the_deployed_model_does(place: Path) -> None:
    """A wide image: its shorter side is resized, its centre cut out; then shifted and flipped."""
    model = Recipe.read(place / "recipe.toml").build_model()
    steps = model.preprocessing
    assert isinstance(steps, Preprocessing)
    wide = np.random.default_rng(0).integers(0, 255, (20, 60, 3), dtype=np.uint8)
    images = ImageList(lambda _: wide, np.zeros(1, int), np.zeros(1, int), steps)
    plain = Samples(images, steps, Training(phases=(Phase(1, 1),), augmentation="none"))
    pixels = steps.apply(wide)
    assert any(
        np.allclose(plain[epoch, 0][0].numpy()[:, 4:12, 4:12], shifted, atol=1e-5)
        for epoch in range(400)
        for shifted in (pixels[:, 4:12, 4:12], pixels[:, 4:12, ::-1][:, :, 4:12])
    )
