"""Configurations to measure: each bundle in each runtime, at each batch size and thread count."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.bench.errors import BundleError, MeasurementError
from primesvt_deploy.edge.bench.settings import ALL_PROFILES, BenchSettings
from primesvt_deploy.edge.runtime.bundle import Bundle, open_bundle
from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.edge.runtime.native import NATIVE_FILE
from primesvt_deploy.edge.runtime.profiles import (
    LATENCY,
    LOW_MEMORY,
    SessionProfile,
    make_profile,
    read_session,
)
from primesvt_deploy.edge.runtime.runtimes import NATIVE, ONNX, runtimes_of

__all__ = ["Configuration", "Subject", "configurations_of", "grouped", "labels_of", "open_subject"]

_MODEL_FILES = {".onnx": ONNX, ".ort": ONNX, ".svit": NATIVE}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A bundle whose files are intact, or a single model file, to be measured.

    Args:
        label: its name in the result.
        path: directory of the bundle, or the model file.
        runtimes: the runtimes that it can be measured in.
        bundle: the bundle; None for a model file.
    """

    label: str
    path: Path
    runtimes: tuple[str, ...]
    bundle: Bundle | None

    @property
    def manifest(self) -> Mapping[str, Any] | None:
        """Manifest of the bundle; None for a model file."""
        return None if self.bundle is None else self.bundle.manifest

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of weights, scales and biases by the manifest; None for a model file."""
        sizes = (self.manifest or {}).get("size") or {}
        found: int | None = sizes.get("shipped", {}).get("weight_bytes")
        return found

    def chosen_runtimes(self, names: Sequence[str]) -> tuple[str, ...]:
        """The runtimes with these names; without names, all that it can be measured in.

        Raises:
            BundleError: it has no model file for one of them.
        """
        missing = [name for name in names if name not in self.runtimes]
        if missing:
            again = "" if self.manifest is None else ", or build the bundle again with both"
            raise BundleError(
                f"{self.path} is built for the runtime {' and '.join(self.runtimes)}, expected "
                f"{missing[0]}: pass another --runtime{again}"
            )
        return tuple(names) or self.runtimes

    def profiles(self, names: Sequence[str]) -> list[SessionProfile]:
        """The session profiles with these names; without names, the default one.

        Raises:
            BundleError: there is none of a name.
        """
        if self.bundle is None:
            every = (LATENCY, LOW_MEMORY) if ALL_PROFILES in names else names
            chosen = every or (LATENCY,)
            return [make_profile(name, self.path.name) for name in chosen]
        session = read_session(self.bundle)
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
        profile: session options of ONNX Runtime; None: it runs in the native runtime.
        batch: samples a run.
        threads: intra-op threads of ONNX Runtime, or threads of the native runtime.
    """

    subject: Subject
    profile: SessionProfile | None
    batch: int
    threads: int

    @property
    def runtime(self) -> str:
        """Name of the runtime."""
        return NATIVE if self.profile is None else ONNX

    @property
    def file(self) -> Path:
        """The model file."""
        bundle = self.subject.bundle
        if bundle is None:
            return self.subject.path
        return bundle.file(NATIVE_FILE if self.profile is None else self.profile.file)

    @property
    def name(self) -> str:
        """Name in results and messages, such as `bundle, latency, batch 1, 2 threads`.

        In place of a session profile, which the native runtime does not have, stands `native`.
        """
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        way = NATIVE if self.profile is None else self.profile.name
        return f"{self.subject.label}, {way}, batch {self.batch}, {threads}"


def open_subject(path: Path, label: str) -> Subject:
    """Open a bundle, whose files are checked, or a model file.

    Raises:
        BundleError: it is neither, or a file of it is missing or altered.
    """
    if os.path.isfile(path) and path.suffix in _MODEL_FILES:
        runtime = _MODEL_FILES[path.suffix]
        return Subject(label=label, path=path, runtimes=(runtime,), bundle=None)
    if not os.path.exists(path):
        raise BundleError(f"there is nothing at {path}: expected a bundle or a model file")
    if os.path.isfile(path):
        raise BundleError(f"{path} is neither a bundle directory nor a .onnx, .ort or .svit file")
    bundle = open_bundle(path)
    found = runtimes_of(bundle.manifest)
    known = tuple(runtime for runtime in (ONNX, NATIVE) if runtime in found)
    if not known:
        raise BundleError(
            f"{path} is built for the runtime {' and '.join(found) or 'of no name'}, expected "
            f"{ONNX} or {NATIVE}: use a newer primesvt-deploy, or build the bundle again"
        )
    return Subject(label=label, path=path, runtimes=known, bundle=bundle)


def labels_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """Shortest ends of paths that differ from each other, with what is not printable escaped.

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
            return tuple(map(on_one_line, found))
        depth += 1


def configurations_of(
    subjects: Sequence[Subject], settings: BenchSettings, *, cores: int
) -> list[Configuration]:
    """Combine subjects, runtimes, profiles, batch sizes and thread counts to configurations.

    Args:
        subjects: bundles and model files to measure.
        settings: runtimes, profiles, batch sizes and thread counts.
        cores: number of physical cores, for the default thread counts.

    Returns:
        All combinations; threads vary slowest, profiles fastest, and the native runtime comes after
        a subject's profiles.

    Raises:
        BundleError: a runtime or profile that a bundle has not.
        MeasurementError: profiles, and nothing that runs in ONNX Runtime.
    """
    ways = [(subject, way) for subject in subjects for way in _ways(subject, settings)]
    if settings.profiles and all(profile is None for _, profile in ways):
        raise MeasurementError(
            f"found the session profile {settings.profiles[0]!r} and the native runtime alone, "
            "which has none: leave --profile out"
        )
    threads = settings.threads or tuple(dict.fromkeys((1, cores)))
    return [
        Configuration(subject=subject, profile=profile, batch=batch, threads=count)
        for count in threads
        for batch in settings.batches
        for subject, profile in ways
    ]


def _ways(subject: Subject, settings: BenchSettings) -> list[SessionProfile | None]:
    """The session profiles to measure a subject with; None stands for the native runtime."""
    runtimes = subject.chosen_runtimes(settings.runtimes)
    profiles = subject.profiles(settings.profiles) if ONNX in runtimes else []
    return [*profiles, *([None] if NATIVE in runtimes else [])]


def grouped(configurations: Sequence[Configuration]) -> list[list[Configuration]]:
    """Group configurations of one batch size and thread count, which are measured in turns."""
    groups: dict[tuple[int, int], list[Configuration]] = {}
    for configuration in configurations:
        groups.setdefault((configuration.threads, configuration.batch), []).append(configuration)
    return list(groups.values())
