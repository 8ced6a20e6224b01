"""Check on emulated ARM CPUs that a bundle's artifact computes what it computes here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from primesvt_deploy.devices.emulated_arm.arm_comparison import ArmComparison
from primesvt_deploy.devices.emulated_arm.images import choose_samples
from primesvt_deploy.devices.emulated_arm.outcome import ArmOutcome
from primesvt_deploy.devices.emulated_arm.qemu import Guest
from primesvt_deploy.devices.emulated_arm.sandbox import Sandbox, default_directory

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
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[ArmOutcome, ...]:
    """Run a bundle, whose files are not checked here, on emulated CPUs and compare.

    Args:
        bundle: its directory.
        settings: CPUs, images, threads.
        data: a data source; None: the bundled data set it was built with.
        factory: `module:function` that makes the model, if it is of a user's own class.
        tell: receives a line for each step.

    Returns:
        One outcome for each CPU; each agrees with this machine.

    Raises:
        BundleError: the bundle is incomplete, or this machine's onnxruntime refuses it.
        DataError: `data` cannot be used.
        EmulationError: the sandbox cannot be set up, or the emulator does not work.
        VerificationError: the artifact does not run on a CPU, or computes something else there.
    """
    samples = choose_samples(bundle, count=settings.images, data=data, factory=factory)
    sandbox = Sandbox(settings.sandbox or default_directory())
    if not sandbox.is_ready:
        tell(f"setting up an emulated ARM machine in {sandbox.directory} (once, some 240 MB)")
        sandbox.set_up()
    threads = settings.threads or len(os.sched_getaffinity(0))
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="primesvt-arm-") as scratch:
        folder = Path(scratch)
        comparison = ArmComparison.prepare(
            Path(bundle).resolve(), samples, folder, threads=threads, profile=settings.profile
        )
        for cpu in settings.cpus:
            tell(f"emulating {cpu} (minutes)")
            own = folder / cpu
            own.mkdir()
            guest = Guest(sandbox, cpu, own, timeout_s=settings.timeout_s)
            outcome = comparison.run(guest, cpu, own / "logits.npy").require_agreement()
            outcomes.append(comparison.count_instructions(outcome, guest))
    return tuple(outcomes)
