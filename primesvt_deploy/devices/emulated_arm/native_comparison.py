"""Compare the native runtime on emulated CPUs with the native runtime on this machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from primesvt_deploy.devices.cross_compiler import make_variables
from primesvt_deploy.devices.emulated_arm.images import Samples
from primesvt_deploy.devices.emulated_arm.outcome import NativeOutcome
from primesvt_deploy.devices.emulated_arm.programs import call
from primesvt_deploy.devices.emulated_arm.qemu import NativeGuest
from primesvt_deploy.edge.runtime.native import NATIVE_FILE, NativeModel
from primesvt_deploy.edge.runtime.native_library import OWN_SOURCES
from primesvt_deploy.errors import EmulationError, VerificationError

__all__ = ["COMPILER", "NativeArmComparison", "compile_guest"]

COMPILER = "aarch64-linux-gnu-gcc"
"""The cross compiler; its package is called `gcc-aarch64-linux-gnu`."""

_SOURCE = Path(__file__).with_name("native_guest.c")


@dataclass(frozen=True, kw_only=True)
class NativeArmComparison:
    """Logits of a bundle in the native runtime here, with which emulated CPUs are compared.

    Args:
        model: its `model.svit`.
        program: the guest program, `native_guest.c`, for an ARM processor.
        inputs: kind and file of the samples, as the program takes them; the first one comes twice.
        source: which samples they are, in words.
        logits: `[n, K]`, on this machine.
    """

    model: Path
    program: Path
    inputs: tuple[str, Path]
    source: str
    logits: npt.NDArray[np.float32]

    @classmethod
    def prepare(cls, bundle: Path, samples: Samples, folder: Path) -> NativeArmComparison:
        """Compile the guest program, and run a bundle on this machine.

        Args:
            bundle: its directory.
            samples: the samples to compare on.
            folder: an existing folder, kept until all CPUs are done.

        Raises:
            EmulationError: there is no cross compiler here, or it fails.
            BundleError: the native runtime cannot be compiled for this machine.
        """
        program = compile_guest(folder)
        path = bundle / NATIVE_FILE
        # The first one is run once more before: it fills caches, and is not counted.
        twice = np.concatenate([samples.images[:1], samples.images])
        kind = "pixels" if twice.dtype == np.uint8 else "values"
        inputs = folder / f"samples.{kind}"
        np.ascontiguousarray(np.moveaxis(twice, -3, -1)).tofile(inputs)
        return cls(
            model=path,
            program=program,
            inputs=(kind, inputs),
            source=samples.source,
            logits=NativeModel(path, checked=True).logits(samples.images),
        )

    def run(self, guest: NativeGuest, output: Path) -> NativeOutcome:
        """Run the model on one emulated CPU, compare its logits and count its instructions.

        Args:
            guest: the CPU's.
            output: file to which the guest writes its logits.

        Raises:
            VerificationError: the CPU lacks an instruction, or the program crashes there.
            EmulationError: it takes too long, or the emulator does not work.
        """
        command = list(map(str, (self.program, self.model, *self.inputs, output)))
        total, not_counted = 0, ""
        try:
            total = guest.count(command)
        except (EmulationError, VerificationError) as error:  # of this qemu: try the other one
            not_counted = str(error)
            guest.run(command)
        there = np.fromfile(output, "<f4").reshape(-1, self.logits.shape[1])[1:]
        images = len(self.logits)
        if len(there) != images:
            raise EmulationError(
                f"{guest.cpu}: the native program gave logits of {len(there)} of {images} images: "
                "is the disk full?"
            )
        same = (there.view(np.uint32) == self.logits.view(np.uint32)).all(axis=1)
        return NativeOutcome(
            images=images,
            source=self.source,
            identical=int(same.sum()),
            max_difference=float(np.abs(there - self.logits).max()),
            instructions=None if not_counted else round(total / images),
            not_counted=not_counted,
        )


def compile_guest(folder: Path) -> Path:
    """Compile the native runtime and `native_guest.c` for an ARM processor; the program.

    It is linked statically, so that it needs no file of an ARM system.

    Args:
        folder: an existing folder, to which it is written.

    Raises:
        EmulationError: there is no cross compiler here, or it fails.
    """
    for program, package in ((COMPILER, "gcc-aarch64-linux-gnu"), ("make", "make")):
        if not shutil.which(program):
            raise EmulationError(
                f"found no {program} here, expected it to compile the native runtime for ARM: "
                f"apt install {package}"
            )
    library, target = folder / "libsvit.a", folder / "native_guest"
    variables = [f"{name}={value}" for name, value in make_variables([COMPILER]).items()]
    call(["make", "--silent", "-C", str(OWN_SOURCES), f"BUILD={folder}", *variables, str(library)])
    options = ["-std=c99", "-O2", "-static", "-I", str(OWN_SOURCES)]
    call([COMPILER, *options, "-o", str(target), str(_SOURCE), str(library), "-lm", "-pthread"])
    return target
