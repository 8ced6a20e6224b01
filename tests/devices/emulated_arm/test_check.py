"""A bundle on emulated CPUs: a real run, and every way in which one ends."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from small_models import SHALLOW, make_model, write_arrays

from primesvt_deploy import BuildSettings, SearchSettings, build, open_data
from primesvt_deploy.cli import main
from primesvt_deploy.devices.emulated_arm.arm_comparison import ArmComparison
from primesvt_deploy.devices.emulated_arm.check import ArmSettings, verify_on_arm
from primesvt_deploy.devices.emulated_arm.guest import REFUSED
from primesvt_deploy.devices.emulated_arm.images import choose_samples
from primesvt_deploy.devices.emulated_arm.outcome import ArmOutcome
from primesvt_deploy.devices.emulated_arm.qemu import Guest
from primesvt_deploy.devices.emulated_arm.sandbox import Sandbox
from primesvt_deploy.errors import DataError, EmulationError, VerificationError
from primesvt_deploy.settings import Precision

pytestmark = pytest.mark.slow

Faked = Callable[[str], Sandbox]
FINE = ArmOutcome(
    cpu="cortex-a72", onnxruntime="1.2.3", images=64, source="images", agreeing=64,
    max_difference=1e-6, integer_images=8, spike_tensors=76, identical_tensors=76,
    instructions=204_651_868,
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an int8 bundle and the data it was built on."""
    directory = tmp_path_factory.mktemp("arm")
    model = make_model(SHALLOW)
    data = open_data(model, write_arrays(directory / "d.npz", model))
    search = SearchSettings(search_images=60, robustness_images=50, rates=(0.5,), max_drop=60.0)
    settings = BuildSettings(saving=10.0, search=search, precision=Precision.INT8, verify_images=8)
    build(model, directory / "bundle", settings, data=data)
    return directory


def command(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, output and errors of `primesvt-deploy`."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["primesvt-deploy", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def test_a_bundle_of_integers_on_both_cpus(place: Path, sandbox: Sandbox) -> None:
    code, out, err = command(
        "verify", place / "bundle", "--quick", "--json", "--data", place / "d.npz",
        "--arm", "cortex-a72,cortex-a76", "--arm-sandbox", sandbox.directory,
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)["arm"]
    assert [one["cpu"] for one in told] == ["cortex-a72", "cortex-a76"]
    for one in told:
        assert one["loads"] and one["onnxruntime"] == sandbox.onnxruntime
        assert one["images"] == one["agreeing"] == 64
        assert one["source"].startswith("held-out images of")
        assert one["max_difference"] < 1e-3
        assert one["identical_tensors"] == one["spike_tensors"] > 30
        assert one["integer_images"] == 8
    lines = [line.partition("] ")[2].partition(":")[0] for line in err.splitlines()]
    assert lines == [
        "emulating cortex-a72 takes minutes",
        "emulating cortex-a72",
        "emulating cortex-a76 takes minutes",
        "emulating cortex-a76",
    ]
    if not sandbox.parts.uncounted:  # no compiler, say
        slow, fast = (one["instructions"] for one in told)
        assert 1e5 < fast < slow < 1e8  # the newer one multiplies four bytes an instruction


def refused(place: Path, sandbox: Sandbox, *, timeout_s: float = 60.0) -> str:
    """The one line that comes of verifying in a sandbox where something is wrong."""
    with pytest.raises((VerificationError, EmulationError)) as caught:
        settings = ArmSettings(cpus=("cortex-a72",), sandbox=sandbox.directory, timeout_s=timeout_s)
        verify_on_arm(place / "bundle", settings)
    assert "\n" not in str(caught.value)
    return f"{caught.value.exit_code} {caught.value}"


def test_an_illegal_instruction_is_told_in_a_line(place: Path, faked: Faked) -> None:
    script = "echo 'qemu: uncaught target signal 4 (Illegal instruction) - core dumped' >&2"
    made = faked(f"{script}\nkill -ILL $$")
    assert refused(place, made).startswith(
        "1 cortex-a72: onnxruntime 1.2.3 dies of an illegal instruction there"
    )
    code, out, err = command(
        "verify", place / "bundle", "--quick", "--arm", "cortex-a72",
        "--arm-sandbox", made.directory,
    )  # fmt: skip
    assert code == 1 and not out
    assert err.splitlines()[-1].startswith("error: cortex-a72: onnxruntime 1.2.3 dies of an ill")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("kill -SEGV $$", "1 cortex-a72: onnxruntime 1.2.3 dies of a segmentation fault"),
        ("exit 132", "1 cortex-a72: onnxruntime 1.2.3 dies of an illegal instruction"),
        (f"echo 'it is too old' >&2; exit {REFUSED}", "1 cortex-a72: it is too old"),
        ("echo a >&2; echo 'Error: b' >&2; exit 1", "2 cortex-a72: the emulated program ended"),
        ("exec sleep 60", "2 cortex-a72: the emulator did not end within"),
    ],
)
def test_what_a_program_died_of(place: Path, faked: Faked, script: str, told: str) -> None:
    timeout = 0.5 if "sleep" in script else 60.0
    assert refused(place, faked(script), timeout_s=timeout).startswith(told)


def test_an_unknown_cpu_is_a_usage_error(place: Path) -> None:
    code, out, err = command("verify", place / "bundle", "--arm", "cortex-a53")
    assert code == 2 and not out
    assert err.count("\n") == 1 and "cortex-a72 (Pi 4), cortex-a76 (Pi 5)" in err


def test_an_outcome_says_all_of_it() -> None:
    assert str(FINE) == (
        "loads in onnxruntime 1.2.3, top-1 equal on 64 of 64 images, largest logit difference "
        "1e-06; integer part: 76 of 76 spike tensors bit-identical on 8 images; "
        "204.7 million instructions an image"
    )
    other = replace(FINE, not_compared="no integer part", instructions=None, not_counted="why")
    assert str(other).endswith("; no integer part; instructions not counted: why")
    assert FINE.to_dict()["instructions"] == 204_651_868


def test_few_images_may_differ_and_no_spike_tensor() -> None:
    assert replace(FINE, agreeing=61).require_agreement().agreeing == 61
    with pytest.raises(VerificationError, match="cortex-a72: top-1 differs on 4 of 64 images"):
        replace(FINE, agreeing=60).require_agreement()
    with pytest.raises(VerificationError, match="cortex-a72: 1 of 76 spike tensors"):
        replace(FINE, identical_tensors=75).require_agreement()


def test_stored_images_are_compared_where_there_are_no_others(place: Path) -> None:
    with np.load(place / "bundle/check.npz") as kept:
        there = len(kept["images"])
    stored = choose_samples(place / "bundle", count=there + 1)
    assert stored.images.shape == (there, 3, 16, 16)
    assert stored.images.dtype == np.float32
    assert stored.source == "images stored in the bundle (its data is not here: pass --data)"
    assert len(choose_samples(place / "bundle", count=2).images) == 2


def test_data_needs_torch(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "primesvt_deploy.model.load", None)
    with pytest.raises(DataError, match=r"there is no primesvt_deploy\.model\.load here: pip"):
        choose_samples(place / "bundle", count=64, data=place / "d.npz")


def test_without_onnx_the_integer_part_is_not_compared(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    samples = choose_samples(place / "bundle", count=2)
    job = ArmComparison.prepare(place / "bundle", samples, tmp_path, threads=1, profile=None)
    assert job.not_compared == "integer part: not compared, there is no onnx here"
    assert job.part is None


def test_other_numbers_there_are_seen(place: Path, tmp_path: Path, faked: Faked) -> None:
    samples = choose_samples(place / "bundle", count=4)
    job = ArmComparison.prepare(place / "bundle", samples, tmp_path, threads=1, profile=None)
    np.save(tmp_path / "there.npy", -job.logits)
    digests = {**job.digests, next(iter(job.digests)): "0" * 64}
    said = json.dumps({"onnxruntime": "1.2.3", "digests": digests})
    (tmp_path / "cpu").mkdir()
    made = faked(f"echo '{said}'; cp {tmp_path}/there.npy {tmp_path}/found.npy")
    guest = Guest(made, "cortex-a72", tmp_path / "cpu", timeout_s=60.0)
    outcome = job.run(guest, "cortex-a72", tmp_path / "found.npy")
    assert outcome.agreeing == 0
    assert outcome.identical_tensors == outcome.spike_tensors - 1
    assert outcome.max_difference == pytest.approx(2 * np.abs(job.logits).max())
    assert job.count_instructions(outcome, guest).not_counted == "no plugins"
