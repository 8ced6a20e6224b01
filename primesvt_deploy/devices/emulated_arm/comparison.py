"""One artifact, on this machine and on emulated CPUs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from primesvt_deploy.devices.emulated_arm.guest import hashes, logits
from primesvt_deploy.devices.emulated_arm.images import Samples
from primesvt_deploy.devices.emulated_arm.integer_part import IntegerPart, split_integer_part
from primesvt_deploy.devices.emulated_arm.outcome import ArmOutcome
from primesvt_deploy.devices.emulated_arm.qemu import Guest
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import EmulationError, VerificationError

__all__ = ["Comparison"]

_BATCH = 8
_INTEGER_IMAGES = 8
_COUNTED = 2  # images, behind a first one that is not: it finds nothing ready


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is run on every CPU, and what it gives here.

    Args:
        bundle: its directory.
        samples: to compare on.
        threads: of the emulated run.
        profile: session profile; None: the bundle's default.
        fixed_batch: as of `OnnxModel`.
        folder: with the samples as files, until all is over.
        logits: of the samples, here.
        part: the integer part; None: there is none to compare.
        hashes: of its spike tensors, here.
        not_compared: why there is none; else empty.
    """

    bundle: Path
    samples: Samples
    threads: int
    profile: str | None
    fixed_batch: int | None
    folder: Path
    logits: npt.NDArray[np.float32]
    part: IntegerPart | None
    hashes: dict[str, str]
    not_compared: str

    @classmethod
    def prepare(
        cls, bundle: Path, samples: Samples, folder: Path, *, threads: int, profile: str | None
    ) -> Comparison:
        """Run a bundle here; raises BundleError where onnxruntime refuses it."""
        model = OnnxModel.of_bundle(bundle, threads=threads, profile=profile)
        part, not_compared = _compared_part(
            bundle / "model.onnx", samples.images[: model.fixed_batch or _INTEGER_IMAGES], folder
        )
        np.save(folder / "images.npy", samples.images)
        chosen = np.arange(1 + _COUNTED) % len(samples.images)
        np.save(folder / "counted.npy", samples.images[chosen])
        return cls(
            bundle=bundle,
            samples=samples,
            threads=threads,
            profile=profile,
            fixed_batch=model.fixed_batch,
            folder=folder,
            logits=logits(model, samples.images, batch=_BATCH),
            part=part,
            hashes=hashes(part.model, part.inputs) if part else {},
            not_compared=not_compared,
        )

    def run(self, guest: Guest, cpu: str, output: Path) -> ArmOutcome:
        """Logits and hashes of one CPU beside those of this machine."""
        arguments = self._arguments("images.npy", threads=self.threads)
        arguments += ["--batch", str(_BATCH), "--logits", str(output)]
        if self.part:
            arguments += ["--part", str(self.part.model), "--inputs", str(self.part.inputs)]
        said = guest.run(arguments)
        there = np.load(output)
        same = [name for name, known in self.hashes.items() if said["hashes"].get(name) == known]
        return ArmOutcome(
            cpu=cpu,
            onnxruntime=said["onnxruntime"],
            images=len(there),
            source=self.samples.source,
            agreeing=int((there.argmax(axis=1) == self.logits.argmax(axis=1)).sum()),
            max_difference=float(np.abs(there - self.logits).max()),
            integer_images=self.part.images if self.part else 0,
            spike_tensors=len(self.hashes),
            identical_tensors=len(same),
            not_compared=self.not_compared,
        )

    def counted(self, outcome: ArmOutcome, guest: Guest) -> ArmOutcome:
        """The outcome with the instructions that an image takes, start-up not among them."""
        try:
            total = guest.count(self._arguments("counted.npy", threads=1))
        except (EmulationError, VerificationError) as error:  # of this qemu: the other one did it
            return replace(outcome, not_counted=str(error))
        return replace(outcome, instructions=round(total / _COUNTED / (self.fixed_batch or 1)))

    def _arguments(self, images: str, *, threads: int) -> list[str]:
        options = ["--bundle", str(self.bundle), "--images", str(self.folder / images)]
        options += ["--threads", str(threads)]
        return [*options, "--profile", self.profile] if self.profile else options


def _compared_part(
    artifact: Path, images: npt.NDArray[np.float32], folder: Path
) -> tuple[IntegerPart | None, str]:
    """The integer part of an artifact, or why there is none to compare; see `IntegerPart`."""
    try:
        part = split_integer_part(artifact, images, folder)
    except ModuleNotFoundError as missing:
        return None, f"integer part: not compared, there is no {missing.name} here"
    return part, "" if part else "no integer part"
