"""Configurations to measure: each bundle under each profile, batch size and thread count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.bench.errors import BundleError, MeasurementError
from primesvt_deploy.edge.bench.settings import ALL_PROFILES, BenchSettings
from primesvt_deploy.edge.runtime.bundle import check_files, read_manifest
from primesvt_deploy.edge.runtime.profiles import (
    LATENCY,
    LOW_MEMORY,
    SessionProfile,
    make_profile,
    read_session,
)
from primesvt_deploy.edge.runtime.runtimes import ONNX, runtimes_of

__all__ = ["Configuration", "Subject", "configurations_of", "grouped", "labels_of", "open_subject"]

_MODEL_FILES = (".onnx", ".ort")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A bundle whose files are intact, or a single model file, to be measured.

    Args:
        label: its name in the result.
        path: directory of the bundle, or the model file.
        manifest: manifest of the bundle; None for a model file.
    """

    label: str
    path: Path
    manifest: dict[str, Any] | None

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of weights, scales and biases by the manifest; None for a model file."""
        sizes = (self.manifest or {}).get("size") or {}
        found: int | None = sizes.get("shipped", {}).get("weight_bytes")
        return found

    def profiles(self, names: Sequence[str]) -> list[SessionProfile]:
        """The session profiles with these names; without names, the default one.

        Raises:
            BundleError: there is none of a name.
        """
        if self.manifest is None:
            every = (LATENCY, LOW_MEMORY) if ALL_PROFILES in names else names
            chosen = every or (LATENCY,)
            return [make_profile(name, self.path.name) for name in chosen]
        session = read_session(self.path)
        if ALL_PROFILES in names:
            return [session.profile(name) for name in session.profiles]
        return [session.profile(name) for name in names] or [session.profile()]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON that identify the artifact."""
        found: dict[str, Any] = {"label": self.label}
        if self.manifest is not None:
            model, precision = self.manifest["model"], self.manifest.get("precision") or {}
            found |= {
                "manifest_sha256": self.manifest["manifest_sha256"],
                "model": model.get("name"),
                "family": model.get("family"),
                "timesteps": model.get("arguments", {}).get("timesteps"),
                "precision": precision.get("name", "fp32"),
            }
        return found


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A bundle or model file as it is loaded and run: one of the `variants` of a result.

    Args:
        subject: the bundle or model file.
        profile: session options it is loaded with.
        batch: samples a run.
        threads: intra-op threads of ONNX Runtime.
    """

    subject: Subject
    profile: SessionProfile
    batch: int
    threads: int

    @property
    def file(self) -> Path:
        """The model file."""
        path = self.subject.path
        return path if self.subject.manifest is None else path / self.profile.file

    @property
    def name(self) -> str:
        """Name in results and messages, such as `bundle, latency, batch 1, 2 threads`."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.subject.label}, {self.profile.name}, batch {self.batch}, {threads}"


def open_subject(path: Path, label: str) -> Subject:
    """Open a bundle, whose files are checked, or a model file.

    Raises:
        BundleError: it is neither, or a file of it is missing or altered.
    """
    if path.is_file() and path.suffix in _MODEL_FILES:
        return Subject(label=label, path=path, manifest=None)
    if not path.exists():
        raise BundleError(f"there is nothing at {path}: expected a bundle or a model file")
    if path.is_file():
        raise BundleError(f"{path} is neither a bundle directory nor a .onnx or .ort file")
    manifest = read_manifest(path)
    check_files(path, manifest)
    if ONNX not in runtimes_of(manifest):
        raise BundleError(
            f"{path} is built for the native runtime alone, expected a model of ONNX Runtime: "
            f"build with --runtime both, or time it by `make -C {path}/native` and `classify --time "
            "100`"
        )
    return Subject(label=label, path=path, manifest=manifest)


def labels_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """Shortest ends of paths that differ from each other.

    Raises:
        MeasurementError: a path is named twice.
    """
    resolved = [path.resolve() for path in paths]
    for path, place in zip(paths, resolved, strict=True):
        if resolved.count(place) > 1:
            raise MeasurementError(f"{path} is named twice: name each bundle once")
    depth = 1
    while True:
        found = tuple("/".join(path.parts[-depth:]).lstrip("/") for path in resolved)
        if len(set(found)) == len(found):
            return found
        depth += 1


def configurations_of(
    subjects: Sequence[Subject], settings: BenchSettings, *, cores: int
) -> list[Configuration]:
    """Combine subjects, profiles, batch sizes and thread counts to configurations.

    Args:
        subjects: bundles and model files to measure.
        settings: profiles, batch sizes and thread counts.
        cores: number of physical cores, for the default thread counts.

    Returns:
        All combinations; threads vary slowest, profiles fastest.

    Raises:
        BundleError: a profile that a bundle has not.
    """
    threads = settings.threads or tuple(dict.fromkeys((1, cores)))
    return [
        Configuration(subject=subject, profile=profile, batch=batch, threads=count)
        for count in threads
        for batch in settings.batches
        for subject in subjects
        for profile in subject.profiles(settings.profiles)
    ]


def grouped(configurations: Sequence[Configuration]) -> list[list[Configuration]]:
    """Group configurations of one batch size and thread count, which are measured in turns."""
    groups: dict[tuple[int, int], list[Configuration]] = {}
    for configuration in configurations:
        groups.setdefault((configuration.threads, configuration.batch), []).append(configuration)
    return list(groups.values())
