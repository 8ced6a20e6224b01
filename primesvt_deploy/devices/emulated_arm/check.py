"""Check on emulated ARM CPUs that a bundle's models compute what they compute here."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from primesvt_deploy.devices.emulated_arm.arm_comparison import ArmComparison
from primesvt_deploy.devices.emulated_arm.images import Samples, choose_samples
from primesvt_deploy.devices.emulated_arm.native_comparison import NativeArmComparison
from primesvt_deploy.devices.emulated_arm.outcome import ArmOutcome, CpuOutcome, NativeOutcome
from primesvt_deploy.devices.emulated_arm.qemu import Guest, NativeGuest
from primesvt_deploy.devices.emulated_arm.sandbox import Sandbox, default_directory
from primesvt_deploy.edge.runtime.bundle import open_bundle
from primesvt_deploy.edge.runtime.runtimes import NATIVE, ONNX, runtimes_of
from primesvt_deploy.errors import EmulationError
from primesvt_deploy.progress import SILENT, Progress

__all__ = ["ArmSettings", "verify_on_arm"]


@dataclass(frozen=True, kw_only=True)
class ArmSettings:
    """Settings of a run on emulated CPUs.

    Args:
        cpus: names of CPUs, see `cpus.parse_cpus`.
        sandbox: folder of the sandbox, set up where it does not exist; None: in the user's cache.
        images: images to compare on, at most; held-out ones where torch and data are installed
            (see `choose_samples`).
        threads: threads of the runs here and there; 0: all that this process may use.
        profile: session profile; None: the bundle's default.
        timeout_s: seconds that one run of the emulator may take; 64 images of a large model take
            half an hour.
    """

    cpus: tuple[str, ...]
    sandbox: Path | None = None
    images: int = 64
    threads: int = 0
    profile: str | None = None
    timeout_s: float = 3600.0


def verify_on_arm(
    bundle: str | os.PathLike[str],
    settings: ArmSettings,
    *,
    data: str | os.PathLike[str] | None = None,
    factory: str | None = None,
    progress: Progress = SILENT,
) -> tuple[CpuOutcome, ...]:
    """Run a bundle on emulated CPUs and compare.

    All runtimes that it is built for are run. Where there is no cross compiler, the native one is
    left out if there is another.

    Args:
        bundle: its directory.
        settings: CPUs, images, threads.
        data: a data source; None: the bundled data set it was built with.
        factory: `module:function` that makes the model, if it is of a user's own class.
        progress: gets each stage.

    Returns:
        One outcome for each CPU; each agrees with this machine.

    Raises:
        BundleError: the bundle is incomplete, or this machine's onnxruntime refuses it.
        DataError: `data` cannot be used.
        EmulationError: the sandbox cannot be set up, or the emulator does not work.
        VerificationError: a model does not run on a CPU, or computes something else there.
    """
    runtimes = runtimes_of(open_bundle(bundle).manifest)
    samples = choose_samples(bundle, count=settings.images, data=data, factory=factory)
    sandbox = Sandbox(settings.sandbox or default_directory())
    if ONNX not in runtimes:
        sandbox.set_up_emulator(progress=progress)
    elif not sandbox.is_ready:
        progress.message(
            f"setting up an emulated ARM machine in {sandbox.directory} (once, some 240 MB)"
        )
        sandbox.set_up(progress=progress)
    with tempfile.TemporaryDirectory(prefix="primesvt-arm-") as scratch:
        job = _Job.prepare(Path(bundle).resolve(), runtimes, samples, Path(scratch), settings)
        outcomes = []
        for cpu in settings.cpus:
            progress.message(f"emulating {cpu} takes minutes")
            progress.stage(f"emulating {cpu}", 1)
            outcomes.append(job.run(sandbox, cpu))
            progress.step()
    return tuple(outcomes)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A bundle's runtimes on this machine, with which emulated CPUs are compared.

    Args:
        folder: for files, kept until all CPUs are done.
        timeout_s: seconds that one run of the emulator may take.
        onnx: that of ONNX Runtime; None: the bundle is not built for it.
        native: that of the native runtime; None: the bundle is not built for it, or it cannot run.
        native_not_run: why it cannot run; empty: it can, or is not in the bundle.
    """

    folder: Path
    timeout_s: float
    onnx: ArmComparison | None
    native: NativeArmComparison | None
    native_not_run: str

    @classmethod
    def prepare(
        cls,
        bundle: Path,
        runtimes: tuple[str, ...],
        samples: Samples,
        folder: Path,
        settings: ArmSettings,
    ) -> _Job:
        """Run a bundle on this machine, and compile the native runtime for ARM."""
        native: NativeArmComparison | None = None
        native_not_run = ""
        if NATIVE in runtimes:
            try:
                native = NativeArmComparison.prepare(bundle, samples, folder)
            except EmulationError as error:
                if ONNX not in runtimes:
                    raise
                native_not_run = str(error)
        onnx: ArmComparison | None = None
        if ONNX in runtimes:
            threads = settings.threads or len(os.sched_getaffinity(0))
            onnx = ArmComparison.prepare(
                bundle, samples, folder, threads=threads, profile=settings.profile
            )
        return cls(
            folder=folder,
            timeout_s=settings.timeout_s,
            onnx=onnx,
            native=native,
            native_not_run=native_not_run,
        )

    def run(self, sandbox: Sandbox, cpu: str) -> CpuOutcome:
        """Run it on one emulated CPU, compare and count; the outcome agrees with this machine."""
        own = self.folder / cpu
        own.mkdir()
        native: NativeOutcome | None = None
        if self.native is not None:
            native_guest = NativeGuest(sandbox, cpu, own, timeout_s=self.timeout_s)
            native = self.native.run(native_guest, own / "logits.f32")
        onnx: ArmOutcome | None = None
        if self.onnx is not None:
            guest = Guest(sandbox, cpu, own, timeout_s=self.timeout_s)
            onnx = self.onnx.run(guest, cpu, own / "logits.npy").require_agreement()
            onnx = self.onnx.count_instructions(onnx, guest)
        outcome = CpuOutcome(cpu=cpu, onnx=onnx, native=native, native_not_run=self.native_not_run)
        return outcome.require_agreement()
