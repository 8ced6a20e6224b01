"""Compare an artifact on emulated CPUs with the same artifact on this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from primesvt_deploy.devices.emulated_arm.guest import logits, output_digests
from primesvt_deploy.devices.emulated_arm.images import Samples
from primesvt_deploy.devices.emulated_arm.integer_part import IntegerPart, split_integer_part
from primesvt_deploy.devices.emulated_arm.outcome import ArmOutcome
from primesvt_deploy.devices.emulated_arm.qemu import Guest
from primesvt_deploy.edge.runtime.bundle import open_bundle
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.errors import EmulationError, VerificationError

__all__ = ["ArmComparison"]

_BATCH = 8
_INTEGER_IMAGES = 8
_COUNTED = 2  # images, after a first one that is not counted: it fills caches


@dataclass(frozen=True, kw_only=True)
class ArmComparison:
    """Outputs of a bundle on this machine, with which emulated CPUs are compared.

    Args:
        bundle: its directory.
        samples: the samples to compare on.
        threads: threads of the emulated run.
        profile: session profile; None: the bundle's default.
        fixed_batch: batch size of the artifact, or None for any.
        folder: a folder with the samples as files, kept until all CPUs are done.
        logits: `[n, K]`, the artifact's outputs on this machine.
        part: the integer part; None: there is none to compare.
        digests: SHA-256 of its spike tensors on this machine, by name.
        not_compared: why there is no integer part to compare; empty: there is one.
    """

    bundle: Path
    samples: Samples
    threads: int
    profile: str | None
    fixed_batch: int | None
    folder: Path
    logits: npt.NDArray[np.float32]
    part: IntegerPart | None
    digests: dict[str, str]
    not_compared: str

    @classmethod
    def prepare(
        cls, bundle: Path, samples: Samples, folder: Path, *, threads: int, profile: str | None
    ) -> ArmComparison:
        """Run a bundle on this machine.

        Raises:
            BundleError: onnxruntime refuses the artifact here.
        """
        model = OnnxModel.of_bundle(open_bundle(bundle), threads=threads, profile=profile)
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
            digests=output_digests(part.model, part.inputs) if part else {},
            not_compared=not_compared,
        )

    def run(self, guest: Guest, cpu: str, output: Path) -> ArmOutcome:
        """Run the artifact on one emulated CPU and compare its logits and spike tensors.

        Args:
            guest: the CPU's.
            cpu: its name.
            output: file to which the guest writes its logits.
        """
        arguments = self._arguments("images.npy", threads=self.threads)
        arguments += ["--batch", str(_BATCH), "--logits", str(output)]
        if self.part:
            arguments += ["--part", str(self.part.model), "--inputs", str(self.part.inputs)]
        answer = guest.run(arguments)
        there = np.load(output)
        found = answer.get("digests", {})
        same = [name for name, digest in self.digests.items() if found.get(name) == digest]
        return ArmOutcome(
            cpu=cpu,
            onnxruntime=answer["onnxruntime"],
            images=len(there),
            source=self.samples.source,
            agreeing=int((there.argmax(axis=1) == self.logits.argmax(axis=1)).sum()),
            max_difference=float(np.abs(there - self.logits).max()),
            integer_images=self.part.images if self.part else 0,
            spike_tensors=len(self.digests),
            identical_tensors=len(same),
            not_compared=self.not_compared,
        )

    def count_instructions(self, outcome: ArmOutcome, guest: Guest) -> ArmOutcome:
        """The outcome with the instructions that an image takes, without start-up."""
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
    """The integer part of an artifact, or None and why there is none to compare.

    Of one that stops early it is that of the whole model: all stages have its weights.
    """
    try:
        part = split_integer_part(_whole(artifact, folder), images, folder)
    except ModuleNotFoundError as missing:
        return None, f"integer part: not compared, there is no {missing.name} here"
    return part, "" if part else "no integer part"


def _whole(artifact: Path, folder: Path) -> Path:
    """The model of all timesteps in an artifact: the artifact itself, unless it stops early."""
    import onnx

    from primesvt_deploy.artifact.onnx_stages import split_stages

    *early, whole = split_stages(artifact)
    if not early:
        return artifact
    onnx.save(whole, folder / "all_timesteps.onnx")
    return folder / "all_timesteps.onnx"
