"""Open an ONNX Runtime session with the options of a session profile."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from .bundle import Bundle
from .errors import BundleError, on_one_line
from .files import open_regular
from .profiles import LATENCY, SessionProfile, make_profile, read_session
from .stages import Stage, read_stages
from .versions import UPGRADE, lacking

__all__ = ["OnnxModel", "check_version", "session_options"]

_FRAME_AXES = 5
_PIXELS = "tensor(uint8)"
_FLOATS = "tensor(float)"
_LOGIT_AXES = 2
_EXTERNAL = b"\x0a\x08location\x12"
"""Key of the entry of an ONNX file that names another file, as protobuf has it."""
_STAGED_OUTPUTS = 2
"""Outputs of a file that stops early: logits, and timesteps."""
_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_UNKNOWN = (
    # Messages of onnxruntime (from 1.16 to 1.32 at least) and what each finds unsupported.
    (r"Fatal error: (\S*):(\w+)\(-?\d+\) is not a registered function/op", r"the operator \1::\2"),
    (r"No Op registered for (\w+) with domain_version of (\d+)", r"the operator \1 of opset \2"),
    (
        r"Could not find an implementation for (\w+)\((\d+)\) node",
        r"the operator \1 (version \2) for the types it has",
    ),
    (
        r"Opset (\d+) is under development.* for domain (\S+) is till opset (\d+)",
        r"opset \1 of \2, only up to \3",
    ),
    (
        r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
        r"ONNX file format (IR) \1, only up to \2",
    ),
    (r"ORT format model version \[(\d+)\] is not supported", r"version \1 of its own format"),
)


class OnnxModel:
    """A model file loaded in ONNX Runtime, CPU.

    One input, images `[N, C, H, W]` or event frames `[T, N, C, H, W]`, float32, or pixels
    `[N, C, H, W]`, uint8; logits `[N, K]` float32, and, of a model that stops early, `timesteps`.

    Args:
        path: the `.onnx` or `.ort` file.
        threads: intra-op threads; 0 lets ONNX Runtime choose the physical cores.
        profile: session options; None: those of `latency`. Memory patterns are off there, as
            batches vary and they only cost memory; spinning is off, as idle cores save power.

    Attributes:
        fixed_batch: the batch size the file insists on, or None for any.
        sample_shape: of one sample: `(C, H, W)`, or `(T, C, H, W)`.
        sample_dtype: uint8 where samples are pixels, float32 where they are preprocessed values.
        classes: K; None: the file does not say it.
        stages: of a model that stops early, those of fewer timesteps first; else none.

    Raises:
        BundleError: there is no such file, or ONNX Runtime refuses it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int = 0,
        profile: SessionProfile | None = None,
    ) -> None:
        if not os.path.isfile(path):
            raise BundleError(f"there is no model file at {os.fspath(path)}: check the path")
        options = session_options(profile or make_profile(LATENCY), threads)
        try:
            self.session = ort.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise _refusal(Path(path).name, str(error)) from error
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if not inputs or not outputs or not inputs[0].shape:
            raise BundleError(
                f"{Path(path).name} takes {len(inputs)} tensors and gives {len(outputs)}, expected "
                "samples and logits"
            )
        declared = inputs[0]
        self._input = declared.name
        self.sample_dtype = np.dtype(np.uint8 if declared.type == _PIXELS else np.float32)
        shape = list(declared.shape)
        self._of_frames = len(shape) == _FRAME_AXES
        size = shape.pop(1 if self._of_frames else 0)
        self.fixed_batch: int | None = size if isinstance(size, int) else None
        self.sample_shape: tuple[int, ...] = tuple(shape)
        classes = outputs[0].shape[-1] if outputs[0].shape else None
        self.classes: int | None = classes if isinstance(classes, int) else None
        self.stages: tuple[Stage, ...] = read_stages(self.metadata)
        if self.stages and len(outputs) != _STAGED_OUTPUTS:
            raise BundleError(
                f"{Path(path).name} is damaged: it has stages and {len(outputs)} outputs, expected "
                f"{_STAGED_OUTPUTS}; copy it again"
            )

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the file, by key; raises BundleError where it is damaged."""
        try:
            return dict(self.session.get_modelmeta().custom_metadata_map)
        except UnicodeDecodeError as error:
            raise BundleError(
                "metadata in the ONNX file is damaged: it is not UTF-8; copy the file again"
            ) from error

    @classmethod
    def of_bundle(
        cls, bundle: Bundle, *, threads: int = 0, profile: str | None = None
    ) -> OnnxModel:
        """Load the model of a bundle.

        Args:
            bundle: the bundle, whose files are checked.
            threads: as above.
            profile: name of a session profile; None or empty: the bundle's default.

        Raises:
            BundleError: no such profile, an onnxruntime that is too old, or as above.
        """
        session = read_session(bundle)
        chosen = session.profile(profile)
        check_version(session.requires)
        path = bundle.file(chosen.file)
        _refuse_external(path)
        opened = cls(path, threads=threads, profile=chosen)
        _check_ends(opened.session, chosen.file)
        return opened

    def logits(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Run the model; a fixed batch size is filled up with copies of the last sample.

        Args:
            images: preprocessed samples, float32 `[N, C, H, W]`, or sequences of frames
                `[N, T, C, H, W]`; where the model takes pixels uint8 `[N, C, H, W]`.

        Returns:
            Logits, float32 `[N, K]`.
        """
        return self._run(images)[0]

    def logits_and_timesteps(
        self, images: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Run a model that stops early, and say how many timesteps each sample took.

        A run goes on while any sample of it needs that; each has the logits of its own stage.

        Args:
            images: see `logits`.

        Returns:
            Logits, float32 `[N, K]`, and T of the stage that they are of, int32 `[N]`.

        Raises:
            BundleError: the model has no stages.
        """
        if not self.stages:
            raise BundleError("this ONNX file does not stop early: it has no stages")
        logits, timesteps = self._run(images)
        return logits, timesteps.astype(np.int32)

    def _run(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """All outputs; a fixed batch size is filled up with copies of the last sample."""
        size = self.fixed_batch
        if size is None or len(images) == size:
            return self._run_once(images)
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            filling = np.repeat(part[-1:], size - len(part), axis=0)
            found = self._run_once(np.concatenate([part, filling]))
            parts.append([output[: len(part)] for output in found])
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def _run_once(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        if self._of_frames:
            images = np.ascontiguousarray(images.swapaxes(0, 1))
        try:
            found: list[npt.NDArray[Any]] = self.session.run(None, {self._input: images})
        except Exception as error:  # as above
            said = str(error).strip().splitlines() or [type(error).__name__]
            reason = on_one_line(said[0][:200])
            raise BundleError(
                f"onnxruntime {ort.__version__} cannot run the model on samples "
                f"{images.dtype} {list(images.shape)}: {reason}"
            ) from error
        return found


def _refuse_external(path: Path) -> None:
    """Refuse a file whose weights lie in other files, as no bundle's do: they may be anywhere."""
    if path.suffix != ".onnx" or not path.stat().st_size:
        return
    with open_regular(path) as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with content:
        found = content.find(_EXTERNAL) >= 0
    if found:
        raise BundleError(f"{path.name} has weights in other files, expected none: build it again")


def _check_ends(session: ort.InferenceSession, name: str) -> None:
    """Refuse a file that does not take samples and give logits."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    takes = [f"{end.type} {list(end.shape)}" for end in inputs]
    gives = [f"{end.type} {list(end.shape)}" for end in outputs]
    if (
        len(inputs) != 1
        or inputs[0].type not in (_PIXELS, _FLOATS)
        or len(inputs[0].shape) not in (_FRAME_AXES - 1, _FRAME_AXES)
        or not outputs
        or outputs[0].type != _FLOATS
        or len(outputs[0].shape) != _LOGIT_AXES
    ):
        raise BundleError(
            f"{name} takes {on_one_line(', '.join(takes))[:200] or 'nothing'} and gives "
            f"{on_one_line(', '.join(gives))[:200] or 'nothing'}: expected samples and logits"
        )


def check_version(requires: Mapping[str, str]) -> None:
    """Refuse an onnxruntime that is too old for a model.

    Args:
        requires: the least version, by `domain::Operator` or `opset`.

    Raises:
        BundleError: it is too old; all that it lacks is named.
    """
    lacks = lacking(ort.__version__, requires)
    if lacks:
        raise BundleError(
            f"onnxruntime {ort.__version__} is too old for {', '.join(lacks)}: {UPGRADE}"
        )


def session_options(profile: SessionProfile, threads: int) -> ort.SessionOptions:
    """Make ONNX Runtime's options for a profile and a number of intra-op threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = _LEVELS[profile.graph_optimization_level]
    options.enable_mem_pattern = profile.enable_mem_pattern
    options.enable_mem_reuse = profile.enable_mem_reuse
    options.enable_cpu_mem_arena = profile.enable_cpu_mem_arena
    for key, value in profile.config.items():
        options.add_session_config_entry(key, value)
    options.log_severity_level = 3
    return options


def _refusal(name: str, said: str) -> BundleError:
    for pattern, unknown in _UNKNOWN:
        found = re.search(pattern, said, re.DOTALL)
        if found:
            return BundleError(
                f"onnxruntime {ort.__version__} does not know {found.expand(unknown)}, which "
                f"{name} uses: {UPGRADE}"
            )
    reason = (said.splitlines() or ["no reason given"])[0][:200]
    return BundleError(f"onnxruntime {ort.__version__} cannot load {name}: {reason}")
