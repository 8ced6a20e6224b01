"""Open a bundle's model in the runtime that it was built for, or in the one that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .errors import BundleError
from .steps import steps_from_dict

__all__ = ["NATIVE", "ONNX", "RUNTIMES", "Model", "open_model", "runtimes_of"]

ONNX = "onnx"
NATIVE = "native"
RUNTIMES = (ONNX, NATIVE)
"""ONNX Runtime, and the C engine that is compiled on the device; the first is the default."""


class Model(Protocol):
    """A model that is opened in any runtime; see `OnnxModel`."""

    @property
    def classes(self) -> int | None:
        """K; None: its file does not say it."""

    fixed_batch: int | None
    sample_shape: tuple[int, ...]
    sample_dtype: np.dtype[Any]

    def logits(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Logits `[N, K]` of samples `[N, C, H, W]` or `[N, T, C, H, W]`."""


def runtimes_of(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """The runtimes that a bundle has a model file for; one of an older build has ONNX Runtime."""
    return tuple(manifest.get("runtimes", (ONNX,)))


def open_model(
    bundle: Bundle,
    *,
    threads: int = 0,
    profile: str | None = None,
    runtime: str | None = None,
) -> Model:
    """Open the model of a bundle.

    Only the runtime that is used is imported: a device needs no other.

    Args:
        bundle: the bundle, whose files are checked.
        threads: see `OnnxModel` and `NativeModel`.
        profile: name of a session profile of ONNX Runtime; None: the bundle's default.
        runtime: one of `RUNTIMES`; None: ONNX Runtime, if the bundle is built for it.

    Raises:
        BundleError: the bundle is not built for this runtime, or the runtime is not installed, or
            refuses the model.
    """
    chosen = _chosen(bundle, runtime)
    if chosen == NATIVE:
        if profile is not None:
            raise BundleError(
                f"found the session profile {profile!r} and the native runtime, which has none: "
                "leave the profile out"
            )
        from .native import NATIVE_FILE, NativeModel

        native = NativeModel(bundle.file(NATIVE_FILE), threads=threads, checked=True)
        return _fitting(bundle, native)
    try:
        from .session import OnnxModel
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        other = ", or pass --runtime native" if NATIVE in runtimes_of(bundle.manifest) else ""
        raise BundleError(
            f"onnxruntime is not installed: pip install numpy onnxruntime pillow{other}"
        ) from error
    return _fitting(bundle, OnnxModel.of_bundle(bundle, threads=threads, profile=profile))


def _fitting(bundle: Bundle, model: Model) -> Model:
    """The model, which takes the samples and has the classes that the manifest says.

    Raises:
        BundleError: it takes others, or has more or fewer.
    """
    described = bundle.manifest["model"]
    steps, classes = steps_from_dict(described["preprocessing"]), len(described["labels"])
    wanted, found = (f"{of.sample_dtype} {list(of.sample_shape)}" for of in (steps, model))
    if wanted != found:
        raise BundleError(
            f"{bundle.path}: its model takes samples {found}, its manifest gives {wanted}: build "
            "it again"
        )
    if model.classes not in (None, classes):
        raise BundleError(
            f"{bundle.path}: its model has {model.classes} classes and its manifest {classes} "
            "labels: build it again"
        )
    return model


def _chosen(bundle: Bundle, wanted: str | None) -> str:
    available = runtimes_of(bundle.manifest)
    if wanted is not None and wanted not in RUNTIMES:
        raise BundleError(f"there is no runtime {wanted!r}: pass {' or '.join(RUNTIMES)}")
    for runtime in RUNTIMES if wanted is None else (wanted,):
        if runtime in available:
            return runtime
    raise BundleError(
        f"{bundle.path} is built for the runtime {' and '.join(available)}, expected "
        f"{wanted or ' or '.join(RUNTIMES)}: pass another one, or build the bundle again with "
        f"--runtime {wanted or RUNTIMES[0]}"
    )
