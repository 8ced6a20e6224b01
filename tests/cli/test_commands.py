"""The command line as a user meets it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from families.vectors import FIXTURES
from own_nets import attending
from small_models import (
    SHALLOW,
    TERMINAL,
    Ended,
    make_prunable,
    primesvt,
    write_arrays,
    write_model_directory,
)

from primesvt_deploy import adopt
from primesvt_deploy.cli.build import explain_unmet
from primesvt_deploy.model.checkpoint import read_checkpoint


def process(*arguments: str | Path, cwd: Path) -> Ended:
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "primesvt_deploy.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **TERMINAL},
        timeout=120,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, data, and a bundle that was built from them."""
    directory = tmp_path_factory.mktemp("cli")
    model = make_prunable(SHALLOW)
    write_model_directory(directory / "tiny", model)
    write_arrays(directory / "d.npz", model)
    built = primesvt(
        "build", "--model", "tiny", "--data", "d.npz", "--saving", "10", "--max-drop", "5",
        "--threads", "1", "--robustness-images", "60", cwd=directory,
    )  # fmt: skip
    (directory / "stdout").write_text(built.stdout)
    (directory / "stderr").write_text(built.stderr)
    assert built.returncode == 0, built.stderr
    return directory


def test_help_is_instant() -> None:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "primesvt_deploy.cli", "--help"], capture_output=True, check=True
        )
        times.append(time.perf_counter() - started)
    assert min(times) < 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "--saving", "70", "--mcu"],
        ["build", "--saving", "70", "--anytime", "0.5"],
        ["build", "--saving", "70", "--runtime", "native", "--precision", "fp32"],
        ["build", "--saving", "70", "--max-drop", "-1"],
        ["build", "--frontier", "nowhere", "--policy", "greedy"],
        ["frontier", "--savings", "a", "--output", "f"],
        ["frontier", "--savings", "10", "--max-drop", "-1", "--output", "f"],
    ],
    ids=" ".join,
)
def test_options_that_do_not_fit_are_told_before_anything_is_loaded(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom primesvt_deploy.cli import main\n"
        "try: main()\nexcept SystemExit as end: code = end.code\n"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1


def test_help_names_every_command(tmp_path: Path) -> None:
    text = primesvt("--help", cwd=tmp_path).stdout
    for command in (
        "build", "frontier", "analyze", "models", "verify", "run", "inspect", "bench", "compare",
        "doctor", "completion",
    ):  # fmt: skip
        assert f"\n  {command} " in text
        assert primesvt(command, "--help", cwd=tmp_path).returncode == 0


def test_readme_shows_every_command() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    for command in ("build", "frontier", "analyze", "verify", "run", "inspect", "bench", "compare"):
        assert f"primesvt-deploy {command}" in readme.read_text()


@pytest.mark.slow
def test_build_ends_with_a_table_of_before_and_after(place: Path) -> None:
    output = (place / "stdout").read_text()
    for row in ("model file", "parameters", "held-out top-1", "latency"):
        assert row in output
    assert "[" in output and "n=120" in output
    assert "run.py" in output


def test_build_tells_its_stages(place: Path) -> None:
    progress = (place / "stderr").read_text()
    assert all(re.match(r"\[ ?\d+:\d\d\] \w", line) for line in progress.splitlines()), progress
    assert set(re.findall(r"[^ -~]", progress)) == {"\n"}
    for stage in ("prioritized policy", "verification", "held-out accuracy"):
        assert progress.count(f"] {stage}: ") == 1


def test_inspect_shows_the_bundle(place: Path) -> None:
    shown = primesvt("inspect", "bundle", cwd=place)
    assert shown.returncode == 0
    assert "model.onnx" in shown.stdout
    words = " ".join(shown.stdout.split())
    assert (
        "Constraints met (" in words and "on held-out images (95% interval of the loss [" in words
    )
    assert "pruning ended: " in words
    manifest = json.loads(primesvt("inspect", "bundle", "--json", cwd=place).stdout)
    assert manifest == json.loads((place / "bundle" / "manifest.json").read_text())


def test_more_threads_than_cores_are_remarked_on(place: Path) -> None:
    more = len(os.sched_getaffinity(0)) + 1
    found = primesvt("verify", "bundle", "--quick", "--threads", str(more), cwd=place)
    assert found.returncode == 0, found.stderr
    (line,) = found.stderr.splitlines()
    said = rf"note: --threads {more}: found {more - 1} CPU cores? that this process may .*"
    assert re.fullmatch(said, line)
    assert not primesvt("verify", "bundle", "--quick", "--threads", "1", cwd=place).stderr


def test_verify_compares_with_the_torch_model(place: Path) -> None:
    found = primesvt("verify", "bundle", "--data", "d.npz", "--images", "60", "--json", cwd=place)
    assert found.returncode == 0, found.stderr
    outcome = json.loads(found.stdout)
    assert outcome["verification"]["passed"]
    assert outcome["verification"]["n"] == 60
    assert outcome["stored_outputs"]["agreeing"] == outcome["stored_outputs"]["n"]


def test_verify_without_data_of_its_own_asks_for_some(place: Path) -> None:
    found = primesvt("verify", "bundle", cwd=place)
    assert found.returncode == 2
    assert "--data" in found.stderr
    assert primesvt("verify", "bundle", "--quick", cwd=place).returncode == 0


@pytest.mark.slow
def test_analyze_gives_sizes_curves_and_firing_rates(place: Path) -> None:
    arguments = (
        "analyze", "--quiet", "--model", "tiny", "--data", "d.npz", "--rates", "0.5,0.75",
        "--robustness-images", "60", "--threads", "1",
    )  # fmt: skip
    table = primesvt(*arguments, cwd=place)
    assert table.returncode == 0 and table.stderr == ""
    assert "residual" in table.stdout and "Firing rates" in table.stdout
    assert "Energy, an estimate (4.6 pJ a MAC, 0.9 pJ an" in table.stdout
    found = json.loads(primesvt(*arguments, "--json", cwd=place).stdout)
    sizes = [layer["size"] for layer in found["layers"]]
    assert sizes == sorted(sizes, reverse=True)
    assert [point["rate"] for point in found["layers"][0]["curve"]] == [0.5, 0.75]
    assert {"layer", "rate", "silent"} <= set(found["firing_rates"][0])
    assert found["energy"]["estimate"] and found["energy"]["n"] == found["firing_rates"][0]["n"]
    assert found["energy"]["microjoules"] < found["energy"]["all_macs_microjoules"]


@pytest.mark.parametrize(
    ("most", "advised"), [(None, "Raise the budget, or try"), (1.0, "Relax --max-drop")]
)
def test_nobody_is_told_to_relax_a_constraint_that_is_off(most: float | None, advised: str) -> None:
    wanted = {
        "used_bytes": 3_000_000,
        "budget_bytes": 2_000_000,
        "max_drop_points": most,
        "stopped_by": "all layers are used up",
    }
    told = explain_unmet(
        {"constraints": wanted, "accuracy": {"search": {"drop_points": 7.0}}}, Path("bundle")
    )
    assert advised in told
    assert ("--max-drop" in told) == (most is not None)
    assert "\n" not in told


@pytest.mark.slow
def test_a_budget_that_is_met_already_is_told_first(place: Path) -> None:
    built = primesvt(
        "build", "--model", "tiny", "--data", "d.npz", "--budget-mb", "20", "--held-out-images",
        "60", "--threads", "1", "--output", "whole", cwd=place,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    told, _, stages = built.stderr.partition("export of the dense model")
    assert "] Nothing has to be pruned: as fp32 the weights have 0." in told and stages
    (following,) = [line for line in told.splitlines() if line.startswith("Next, to prune it: ")]
    command = shlex.split(following.partition(": ")[2])
    assert command[:2] == ["primesvt-deploy", "build"]
    assert {"--force", "--saving", "50", "--policy", "greedy", "--held-out-images", "60"} <= set(
        command
    )
    assert "--budget-mb" not in command
    # It can be typed: all but the data, which are not there, are accepted.
    wrong = ["none" if word == "d.npz" else word for word in command[1:]]
    assert "no data at none" in primesvt(*wrong, cwd=place).stderr
    assert built.stdout.splitlines()[-1] == following, "what was said long ago is repeated"
    accuracy = json.loads((place / "whole" / "manifest.json").read_text())["accuracy"]
    assert accuracy["dense"]["n"] == accuracy["shipped"]["n"] == accuracy["drop"]["n"] == 60


@pytest.mark.slow
def test_a_budget_out_of_reach_ends_with_1_and_one_paragraph(place: Path) -> None:
    found = primesvt(
        "build", "--model", "tiny", "--data", "d.npz", "--budget-mb", "0.001", "--rates", "0.5",
        "--max-drop", "1", "--output", "small", "--threads", "1", "--robustness-images", "60",
        cwd=place,
    )  # fmt: skip
    assert found.returncode == 1
    (paragraph,) = [line for line in found.stderr.splitlines() if "not met" in line]
    for part in ("best plan found has", "What stopped it", "Relax --max-drop"):
        assert part in paragraph
    noted = primesvt("run", "small", place / "nothing.jpg", cwd=place)
    assert "does not meet" in noted.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("build",), "--budget-mb"),
        (("build", "--budget-mb", "-1"), "more than 0"),
        (("build", "--saving", "100"), "not including, 100"),
        (("build", "--budget-mb", "4", "--model", "nowhere"), "no model 'nowhere'"),
        (("build", "--budget-mb", "4", "--checkpoint", "none.pth"), "none.pth"),
        (("build", "--budget-mb", "4", "--model", "tiny"), "--data"),
        (("build", "--budget-mb", "4", "--model", "tiny", "--data", "none"), "no data at none"),
        (("build", "--budget-mb", "4", "--rates", "a,b"), "--rates"),
        (("build", "--budget-mb", "4", "--rates", "0.5,1.5"), "between 0 and 1"),
        (("build", "--budget-mb", "4", "--max-drop", "101"), "--max-drop"),
        (("build", "--budget-mb", "4", "--threads", "-2"), "threads"),
        (("build", "--budget-mb", "4", "--search-images", "3"), "--search-images"),
        (("build", "--budget-mb", "4", "--model", "a", "--checkpoint", "b"), "one of them"),
        (("build", "--budget-mb", "4", "--model", "tiny", "--data", "d.npz"), "--force"),
        (("run", "tiny", "x.jpg"), "no bundle"),
        (("run", "bundle", "none.jpg"), "none.jpg"),
        (("inspect", "none"), "no bundle"),
        (("verify", "d.npz"), "is a file"),
        (("analyze", "--model", "tiny"), "--data"),
        (("analyze", "--model", "tiny", "--sha256", "a" * 64), "--sha256 is of a checkpoint"),
        (("analyze", "--model", ""), "--model is empty"),
        (("analyze", "--checkpoint", "none"), "no checkpoint file at none"),
        (("analyze", "--checkpoint", "d.npz", "--sha256", "a"), "64 hexadecimal digits"),
        (
            (
                "analyze",
                "--checkpoint",
                "tiny/weights.safetensors",
                "--data",
                "d.npz",
                "--sha256",
                "a" * 64,
            ),
            "has the SHA-256",
        ),
        (("analyze", "--checkpoint", "n" * 300), "and 255 between two slashes: shorten it"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_gets_one_line_and_exit_code_2(
    place: Path, arguments: tuple[str, ...], part: str
) -> None:
    before = sorted(path.name for path in place.iterdir())
    found = primesvt(*arguments, cwd=place)
    assert found.returncode == 2, found.stderr
    assert found.stdout == ""
    assert len(found.stderr.strip().splitlines()) == 1, found.stderr
    assert part in found.stderr
    assert sorted(path.name for path in place.iterdir()) == before


@pytest.mark.slow
def test_a_process_of_its_own_says_the_same(place: Path) -> None:
    for command in (("inspect", "bundle"), ("verify", "d.npz"), ("build", "--saving", "100")):
        alone, here = process(*command, cwd=place), primesvt(*command, cwd=place)
        assert (alone.returncode, alone.stdout) == (here.returncode, here.stdout)
        assert alone.stderr == here.stderr


def test_models_lists_reference_models_and_families(tmp_path: Path) -> None:
    text = primesvt("models", cwd=tmp_path).stdout
    listed = json.loads(primesvt("models", "--json", cwd=tmp_path).stdout)
    assert "spikformer-2-192-cifar10-12epochs  (the default)" in text
    names = [family["name"] for family in listed["families"]]
    assert {"spikformer", "sdt-v1", "sdt-v2", "sdt-v3", "qkformer", "own"} <= set(names)
    for family in listed["families"]:
        assert family["title"] in text
        assert family["flags"] in text


def test_a_container_tells_what_its_args_hold(tmp_path: Path) -> None:
    """Only the image size is left to say of timm's checkpoint of a Spike-driven Transformer."""
    file = FIXTURES / "container_timm_module_prefix.pth.tar"
    asked = primesvt("analyze", "--checkpoint", file, cwd=tmp_path)
    assert asked.returncode == 2
    assert "read as sdt-v1: the image size cannot be read from the weights, and a checkpoint" in (
        asked.stderr
    )
    assert "comes with no data: pass --image-size and --data, an ImageFolder" in asked.stderr
    told = primesvt("analyze", "--checkpoint", file, "--image-size", "32", cwd=tmp_path)
    assert "comes with no data: pass --data" in told.stderr, "the model itself is loaded"


def test_the_weights_of_a_file_may_be_chosen_by_key(tmp_path: Path) -> None:
    state = read_checkpoint(FIXTURES / "container_timm_module_prefix.pth.tar").state
    torch.save(
        {"student": {"net": state}, "teacher": {"a.weight": torch.ones(2, 2)}}, tmp_path / "w.pth"
    )
    options = ("analyze", "--checkpoint", "w.pth", "--image-size", "32", "--timesteps", "4")
    found = primesvt(*options, cwd=tmp_path)
    assert "(student.net, teacher): choose one with --key" in found.stderr
    found = primesvt(*options, "--key", "pupil", cwd=tmp_path)
    assert "no weights at 'pupil' (--key): expected one of student.net, teacher" in found.stderr
    found = primesvt(*options, "--key", "teacher", cwd=tmp_path)
    assert "its keys (a.weight, ...) are those of no known family" in found.stderr
    pooled = ("--pooling", "0011", "--key", "student.net")
    found = primesvt(*options, *pooled, cwd=tmp_path)
    assert "comes with no data: pass --data" in found.stderr, "the model itself is loaded"


def test_a_fork_with_the_keys_of_another_family_is_read_by_its_flags(tmp_path: Path) -> None:
    file = FIXTURES / "container_timm_module_prefix.pth.tar"
    options = ("--checkpoint", file, "--image-size", "32", "--family", "statten")
    asked = primesvt("analyze", *options, "--attention-mode", "STAtten", cwd=tmp_path)
    assert asked.returncode == 2
    assert asked.stderr.strip().endswith(
        "data: pass --chunk-size and --data, an ImageFolder directory or .npz"
    )
    flags = ("--attention-mode", "STAtten", "--chunk-size", "2")
    told = primesvt("analyze", *options, *flags, cwd=tmp_path)
    assert "comes with no data: pass --data" in told.stderr, "the model itself is loaded"


def test_a_wrong_family_says_what_the_file_looks_like(tmp_path: Path) -> None:
    file = FIXTURES / "container_timm_module_prefix.pth.tar"
    options = ("--checkpoint", file, "--family", "qkformer")
    found = primesvt("build", *options, "--saving", "10", cwd=tmp_path)
    assert found.returncode == 2
    assert "is not a qkformer: its 112 keys" in found.stderr
    assert found.stderr.strip().endswith("look like sdt-v1")


FACTORY = """
import sys
sys.path.insert(0, {tests!r})
from own_nets import attending
"""


@pytest.mark.slow
def test_a_model_of_ones_own_class_from_its_factory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())  # the command adds its directory
    (tmp_path / "commands_nets.py").write_text(FACTORY.format(tests=str(FIXTURES.parent)))
    path = write_arrays(tmp_path / "d.npz", adopt(attending(), image_size=16))
    with np.load(path) as arrays:
        named = [f"class {letter}" for letter in "abcde"[: int(arrays["labels"].max()) + 1]]
        np.savez(path, **arrays, classes=named)
    options = ("--data", "d.npz", "--max-drop", "100", "--rates", "0.5", "--saving", "5")
    few = ("--robustness-images", "50", "--threads", "1", "--ignore", "fc1")
    own = ("--factory", "commands_nets:attending")
    built = primesvt("build", *own, "--image-size", "16", *options, *few, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert "left unpruned: fc1.0: --ignore fc1" in built.stdout
    note = "note: class names are those of d.npz, in the order of its classes"
    assert built.stderr.startswith(note), "before minutes of work"
    assert note in built.stdout
    model = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["model"]
    assert model["labels"] == named
    del sys.modules["commands_nets"]
    checked = primesvt("verify", "bundle", "--data", "d.npz", *own, cwd=tmp_path)
    del sys.modules["commands_nets"]
    assert checked.returncode == 0, checked.stderr
    assert "against the torch model: top-1 equal on 120 of 120 images" in checked.stdout
    refused = primesvt("verify", "bundle", "--data", "d.npz", cwd=tmp_path)
    assert "made by commands_nets:attending: pass --factory" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--factory", "commands_nets:lost"), "the factory does not say the image size"),
        (("--factory", "n:f", "--image-size", "8", "--heads", "3"), "--heads is for supported"),
        (("--factory", "n:f", "--image-size", "8"), "--factory n:f: there is no module 'n'"),
        (("--checkpoint", "w", "--stage-heads", "3,x"), "--stage-heads is '3,x': expected whole"),
        (("--max-drop", "none"), "--max-drop is 'none': expected a number of points"),
    ],
)
def test_mistakes_about_a_model_get_one_line(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    found = primesvt("build", *arguments, "--saving", "5", cwd=tmp_path)
    assert found.returncode == 2
    assert said in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


def test_analyze_offers_no_policy_as_it_prunes_nothing(place: Path) -> None:
    found = primesvt("analyze", "--model", "tiny", "--policy", "greedy", cwd=place)
    assert found.returncode == 2
    assert "analyze has no option --policy" in found.stderr


@pytest.fixture(scope="module")
def known(place: Path) -> Path:
    """A frontier of the same model."""
    made = primesvt(
        "frontier", "--model", "tiny", "--data", "d.npz", "--policy", "uniform", "--recover",
        "refit,norms", "--savings", "20,40", "--ship-timesteps", "1", "--held-out-images", "50",
        "--threads", "1", cwd=place,
    )  # fmt: skip
    (place / "frontier.out").write_text(made.stdout)
    assert made.returncode == 0, made.stderr
    return place / "frontier"


@pytest.mark.slow
def test_a_frontier_is_a_table_a_plot_and_a_ledger(place: Path, known: Path) -> None:
    names = {path.name for path in known.iterdir()}
    assert names == {"frontier.json", "frontier.png", "frontier.svg", "ledger.jsonl"}
    text = (place / "frontier.out").read_text()
    assert "held-out" in text and "T = 1" in text
    assert "0.0%" in text, "the dense model stands among its timesteps"
    assert "\N{HORIZONTAL ELLIPSIS}" not in text, "80 columns are enough"
    assert "0.00 MB" not in text
    assert "build --frontier frontier" in text
    content = json.loads((known / "frontier.json").read_text())
    assert [p["asked_saving_percent"] for p in content["points"]] == [20.0, 40.0]


@pytest.mark.slow
def test_a_build_answers_from_a_frontier(place: Path, known: Path) -> None:
    found = primesvt(
        "build", "--model", "tiny", "--data", "d.npz", "--frontier", known, "--saving", "15",
        "--max-drop", "off", "--output", "answered", "--json", cwd=place,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    manifest = json.loads(found.stdout)
    assert manifest["size"]["saved_percent"]["file"] >= 15.0
    assert "cached candidate" in manifest["constraints"]["stopped_by"]
    assert "robustness" not in found.stderr
    assert "] recovery and cut: " in found.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--policy", "best"], "best"),
        (["--recover", "magic"], "recovery step 'magic'"),
        (["--learning-rate", "0.1"], "--learning-rate needs --finetune"),
        (["--finetune", "0"], "epochs are 0"),
        (["--finetune", "2"], "to train on"),
        (["--ship-timesteps", "9"], "timesteps are 9"),
        (["--frontier", "nowhere"], "holds no frontier"),
        (["--frontier", "known", "--policy", "greedy"], "--policy cannot be given with --frontier"),
        (["--frontier", "known", "--search-images", "90"], "--search-images cannot be given with"),
    ],
)
def test_a_wrong_option_gets_one_line(place: Path, arguments: list[str], expected: str) -> None:
    found = primesvt(
        "build", "--model", "tiny", "--data", "d.npz", "--saving", "10", "--output", "wrong",
        *arguments, cwd=place,
    )  # fmt: skip
    assert found.returncode == 2
    assert expected in found.stderr
    assert "Traceback" not in found.stderr
    assert not (place / "wrong").exists()
