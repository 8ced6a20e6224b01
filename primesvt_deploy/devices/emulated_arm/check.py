"""Check on emulated ARM CPUs that a bundle's artifact computes what it computes here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from primesvt_deploy.devices.emulated_arm.comparison import Comparison
from primesvt_deploy.devices.emulated_arm.cpus import known_cpus
from primesvt_deploy.devices.emulated_arm.images import choose_samples
from primesvt_deploy.devices.emulated_arm.outcome import ArmOutcome
from primesvt_deploy.devices.emulated_arm.qemu import Guest
from primesvt_deploy.devices.emulated_arm.sandbox import Sandbox, default_directory

__all__ = ["verify_on_arm"]

_IMAGES = 64
_TIMEOUT_S = 3600.0  # 64 images of a large model take half an hour


def verify_on_arm(
    bundle: str | os.PathLike[str],
    cpus: str | Sequence[str],
    *,
    sandbox: Path | None = None,
    data: str | os.PathLike[str] | None = None,
    factory: str | None = None,
    images: int = _IMAGES,
    threads: int = 0,
    profile: str | None = None,
    timeout_s: float = _TIMEOUT_S,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[ArmOutcome, ...]:
    """Run a bundle, whose files are not checked here, on emulated CPUs and compare.

    Args:
        bundle: its directory.
        cpus: names, see `known_cpus`.
        sandbox: folder of the sandbox, set up where it is not there; None: in the user's cache.
        data: a data source; None: the bundled data set it was built with.
        factory: `module:function` that makes the model, if it is of a user's own class.
        images: at most so many, held-out ones where there are torch and data (see
            `choose_samples`).
        threads: of the runs here and there; 0: as many as this process may use.
        profile: session profile; None: the bundle's default.
        timeout_s: for one run of the emulator, seconds.
        tell: receives what is done, a line at a time.

    Raises:
        BundleError: the bundle is incomplete, or this machine's onnxruntime refuses it.
        DataError: `data` cannot be used.
        EmulationError: an unknown CPU, no sandbox to be had, or the emulator does not work.
        VerificationError: the artifact does not run on a CPU, or computes something else there.
    """
    names = known_cpus(cpus)
    samples = choose_samples(bundle, count=images, data=data, factory=factory)
    machine = Sandbox(sandbox or default_directory())
    if not machine.is_ready:
        tell(f"setting up an emulated ARM machine in {machine.directory} (once, some 240 MB)")
        machine.set_up()
    threads = threads or len(os.sched_getaffinity(0))
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="primesvt-arm-") as directory:
        folder = Path(directory)
        comparison = Comparison.prepare(
            Path(bundle).resolve(), samples, folder, threads=threads, profile=profile
        )
        for cpu in names:
            tell(f"emulating {cpu} (minutes)")
            place = folder / cpu
            place.mkdir()
            guest = Guest(machine, cpu, place, timeout_s=timeout_s)
            outcome = comparison.run(guest, cpu, place / "logits.npy").require()
            outcomes.append(comparison.counted(outcome, guest))
    return tuple(outcomes)
