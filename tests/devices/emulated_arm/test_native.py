"""The native runtime on emulated CPUs: the same bits as here, and its instructions counted."""

from __future__ import annotations

import json
import re
import shutil
import stat
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from devices.emulated_arm.test_check import FINE, command
from native_bundles import pretended_bundle, small_bundle
from recorded_progress import Recorded
from sealed_bundles import seal

from primesvt_deploy.devices.emulated_arm import check, native_comparison
from primesvt_deploy.devices.emulated_arm.check import ArmSettings, verify_on_arm
from primesvt_deploy.devices.emulated_arm.images import choose_samples
from primesvt_deploy.devices.emulated_arm.native_comparison import (
    COMPILER,
    NativeArmComparison,
    compile_guest,
)
from primesvt_deploy.devices.emulated_arm.outcome import CpuOutcome, NativeOutcome
from primesvt_deploy.devices.emulated_arm.qemu import NativeGuest
from primesvt_deploy.devices.emulated_arm.sandbox import Sandbox
from primesvt_deploy.errors import EmulationError, VerificationError
from primesvt_deploy.progress import Progress

Faked = Callable[[str], Sandbox]
SAME = NativeOutcome(
    images=6, source="images", identical=6, max_difference=0.0, instructions=34_108_644
)
needs_cross = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which("make")), reason=f"there is no {COMPILER} or make"
)


def test_outcomes_of_both_runtimes_say_their_ratio() -> None:
    both = CpuOutcome(cpu="cortex-a72", onnx=FINE, native=SAME)
    assert str(both) == (
        f"{FINE}; native runtime: logits of 6 of 6 images bit-identical; 34.1 million instructions "
        "an image, 6.00 times fewer than ONNX Runtime's"
    )
    told = json.loads(json.dumps(both.require_agreement().to_dict()))
    assert told["instructions"] == 204_651_868 and told["cpu"] == "cortex-a72"
    assert told["native"]["instructions"] == 34_108_644 and told["native"]["identical"] == 6
    assert told["instruction_ratio"] == 6.0


def test_an_outcome_of_one_runtime_says_what_there_is() -> None:
    without = CpuOutcome(cpu="cortex-a72", onnx=FINE, native_not_run="found no compiler")
    assert str(without) == f"{FINE}; native runtime: not run: found no compiler"
    assert without.to_dict()["native"] is None and without.instruction_ratio is None
    alone = CpuOutcome(cpu="cortex-a76", native=replace(SAME, instructions=None, not_counted="why"))
    assert str(alone).endswith("bit-identical; instructions not counted: why")
    assert alone.to_dict()["cpu"] == "cortex-a76" and alone.instruction_ratio is None


def test_no_bit_of_a_logit_may_differ() -> None:
    other = replace(SAME, identical=5, max_difference=1e-7)
    with pytest.raises(VerificationError, match="cortex-a72: logits of 1 of 6 images differ from"):
        CpuOutcome(cpu="cortex-a72", onnx=FINE, native=other).require_agreement()
    with pytest.raises(VerificationError, match="top-1 differs"):
        CpuOutcome(cpu="c", onnx=replace(FINE, agreeing=0), native=SAME).require_agreement()


@pytest.mark.parametrize(
    ("missing", "package"), [(COMPILER, "gcc-aarch64-linux-gnu"), ("make", "make")]
)
def test_a_missing_compiler_is_one_line(
    missing: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {COMPILER, "make"} - {missing}:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmulationError) as caught:
        compile_guest(tmp_path)
    assert str(caught.value) == (
        f"found no {missing} here, expected it to compile the native runtime for ARM: apt install "
        f"{package}"
    )


def test_a_bundle_for_the_native_runtime_alone_needs_the_compiler(
    tmp_path: Path, faked: Faked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_comparison, "COMPILER", "no-such-gcc")
    monkeypatch.setattr(Sandbox, "set_up_emulator", lambda *_, **__: None)
    bundle = pretended_bundle(tmp_path / "bundle", ("native",))
    settings = ArmSettings(cpus=("cortex-a72",), sandbox=faked("true").directory)
    with pytest.raises(EmulationError, match="found no no-such-gcc here"):
        verify_on_arm(bundle, settings)


def guest_of(made: Sandbox, folder: Path, counting: str | None = None) -> NativeGuest:
    """A guest in a sandbox of scripts; `counting` is that of the qemu which counts."""
    if counting is not None:
        loader = made.directory / "counter/ld-linux-x86-64.so.2"
        loader.parent.mkdir()
        loader.write_text(f"#!/bin/sh\n{counting}\n")
        loader.chmod(0o755)
    folder.mkdir()
    return NativeGuest(made, "cortex-a72", folder, timeout_s=60.0)


def compared(folder: Path, logits: np.ndarray) -> NativeArmComparison:
    return NativeArmComparison(
        model=folder / "model.svit",
        program=folder / "native_guest",
        inputs=("values", folder / "samples"),
        source="images",
        logits=logits,
    )


LOGITS = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_logits_are_compared_bit_by_bit_and_the_first_sample_is_not_counted(
    tmp_path: Path, faked: Faked
) -> None:
    there = np.concatenate([LOGITS[:1], LOGITS])
    there[-1, 0] = np.nextafter(there[-1, 0], np.float32(99))
    there.tofile(tmp_path / "there")
    script = (
        f'printf "1000\\n9000\\n" >> "$PRIMESVT_INSTRUCTIONS"; cp {tmp_path}/there {tmp_path}/found'
    )
    guest = guest_of(faked("exit 1"), tmp_path / "cpu", script)
    found = compared(tmp_path, LOGITS).run(guest, tmp_path / "found")
    assert (found.images, found.identical, found.instructions) == (4, 3, 2000)
    assert 0 < found.max_difference < 1e-5


def test_what_cannot_be_counted_is_compared_all_the_same(tmp_path: Path, faked: Faked) -> None:
    np.concatenate([LOGITS[:1], LOGITS]).tofile(tmp_path / "there")
    made = faked(f"cp {tmp_path}/there {tmp_path}/found")
    found = compared(tmp_path, LOGITS).run(guest_of(made, tmp_path / "cpu"), tmp_path / "found")
    assert (found.identical, found.instructions) == (4, None)
    assert found.not_counted == "no plugins"


@pytest.mark.parametrize(
    ("script", "error", "told"),
    [
        ("kill -ILL $$", VerificationError, "cortex-a72: the native runtime dies of an illegal in"),
        ("echo 'no memory' >&2; exit 2", EmulationError, "program ended with 2: no memory"),
        (": > {}/found", EmulationError, "gave logits of 0 of 4 images"),
    ],
)
def test_what_a_program_died_of(
    tmp_path: Path, faked: Faked, script: str, error: type[Exception], told: str
) -> None:
    guest = guest_of(faked(script.format(tmp_path)), tmp_path / "cpu")
    with pytest.raises(error, match=re.escape(told)) as caught:
        compared(tmp_path, LOGITS).run(guest, tmp_path / "found")
    assert "\n" not in str(caught.value)


def test_the_emulator_alone_can_be_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from primesvt_deploy.devices.emulated_arm import sandbox as module

    def fetch_qemu(result: Path, progress: Progress) -> None:
        (result / "qemu-aarch64-static").touch()

    def refuse(folder: Path, progress: Progress) -> None:
        raise EmulationError("there is no C compiler here")

    monkeypatch.setattr(module, "find_qemu", lambda d: next(d.glob("qemu/*"), None))
    monkeypatch.setattr(module, "fetch_qemu", fetch_qemu)
    monkeypatch.setattr(module, "make_counting_qemu", refuse)
    made = Sandbox(tmp_path / "s")
    recorded = Recorded()
    made.set_up_emulator(progress=recorded)
    assert made.emulator() == [str(tmp_path / "s/qemu/qemu-aarch64-static")]
    assert recorded.messages[-1] == "instructions are not counted: there is no C compiler here"
    with pytest.raises(EmulationError, match="no qemu that counts could be fetched"):
        made.emulator(counting=True)
    assert not made.is_ready


@needs_cross
@pytest.mark.slow
def test_the_program_needs_nothing_of_an_arm_system(tmp_path: Path) -> None:
    program = compile_guest(tmp_path)
    content = program.read_bytes()
    assert struct.unpack_from("<H", content, 18) == (183,)  # aarch64
    (headers,), (size, count) = (struct.unpack_from(f, content, at) for f, at in
                                 (("<Q", 32), ("<HH", 54)))  # fmt: skip
    kinds = [struct.unpack_from("<I", content, headers + i * size)[0] for i in range(count)]
    assert 3 not in kinds  # PT_INTERP: the path of a loader
    assert program.stat().st_mode & stat.S_IXUSR


@needs_cross
@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtimes", "form", "cpus"),
    [
        (("native",), {}, ("cortex-a72", "cortex-a76")),
        (("onnx", "native"), {"stops_early": True}, ("cortex-a72",)),
        (("onnx", "native"), {"takes_pixels": True}, ("cortex-a76",)),
    ],
)
def test_both_runtimes_on_emulated_cpus(
    runtimes: tuple[str, ...],
    form: dict[str, bool],
    cpus: tuple[str, ...],
    tmp_path: Path,
    sandbox: Sandbox,
) -> None:
    """ONNX Runtime on one of the CPUs each time: `test_check` has it on both."""
    bundle = small_bundle(tmp_path / "bundle", runtimes, **form)
    settings = ArmSettings(cpus=cpus, sandbox=sandbox.directory)
    found = verify_on_arm(bundle, settings)
    assert [outcome.cpu for outcome in found] == list(cpus)
    for outcome in found:
        native = outcome.native
        assert native is not None and native.identical == native.images == 6
        assert native.source.startswith("images stored in the bundle")
        assert (outcome.onnx is None) == (runtimes == ("native",))
        if not sandbox.parts.uncounted:  # no compiler, say
            assert native.instructions is not None and 1e4 < native.instructions < 1e7


@needs_cross
@pytest.mark.slow
def test_a_difference_is_exit_code_1(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = small_bundle(tmp_path / "bundle", ("native",))
    prepare = NativeArmComparison.prepare

    def other(*arguments: object) -> NativeArmComparison:
        made = prepare(*arguments)  # type: ignore[arg-type]
        return replace(made, logits=made.logits + np.float32(0.5))

    monkeypatch.setattr(check.NativeArmComparison, "prepare", other)
    monkeypatch.setattr("primesvt_deploy.edge.runtime.check.MAX_DISAGREEMENT", 1.0)
    code, out, err = command(
        "verify", bundle, "--quick", "--arm", "cortex-a72", "--arm-sandbox", sandbox.directory
    )
    assert code == 1 and not out
    assert err.splitlines()[-1].startswith(
        "error: cortex-a72: logits of 6 of 6 images differ from this machine's in the native"
    )


@pytest.mark.slow
def test_without_the_compiler_onnx_runtime_is_verified_and_it_is_said(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_comparison, "COMPILER", "no-such-gcc")
    monkeypatch.setattr("primesvt_deploy.edge.runtime.check.MAX_DISAGREEMENT", 1.0)
    code, out, err = command(
        "verify", small_bundle(tmp_path / "bundle"), "--quick", "--arm", "cortex-a72",
        "--arm-sandbox", sandbox.directory,
    )  # fmt: skip
    assert code == 0, err
    assert out.splitlines()[-1].endswith(
        "; native runtime: not run: found no no-such-gcc here, expected it to compile the native "
        "runtime for ARM: apt install gcc-aarch64-linux-gnu"
    )


def test_pixels_stay_pixels(tmp_path: Path) -> None:
    bundle = pretended_bundle(tmp_path / "bundle")
    model = json.loads((bundle / "manifest.json").read_text())["model"]
    model["preprocessing"]["pixels"] = True
    seal(bundle, model=model)
    found = choose_samples(bundle, count=64)
    assert found.images.dtype == np.uint8 and found.images.shape == (6, 3, 16, 16)
