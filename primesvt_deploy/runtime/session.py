"""Open an ONNX Runtime session the way an edge device wants it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from .errors import BundleError

__all__ = ["OnnxModel"]

_FRAME_AXES = 5


class OnnxModel:
    """A model file loaded in ONNX Runtime, CPU.

    One input, images `[N, C, H, W]` or event frames `[T, N, C, H, W]`, float32; one output
    `[N, K]` float32. Memory patterns are off, as
    batches vary and they only cost memory; spinning is off, as idle cores save power.

    Args:
        path: the `.onnx` file.
        threads: intra-op threads; 0 lets ONNX Runtime choose the physical cores.

    Attributes:
        fixed_batch: the batch size the file insists on, or None for any.

    Raises:
        BundleError: ONNX Runtime refuses the file.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 0) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            reason = str(error).splitlines()[0][:200]
            raise BundleError(
                f"onnxruntime {ort.__version__} cannot load {Path(path).name}: {reason}"
            ) from error
        self._input = self.session.get_inputs()[0].name
        shape = self.session.get_inputs()[0].shape
        self._of_frames = len(shape) == _FRAME_AXES
        size = shape[1 if self._of_frames else 0]
        self.fixed_batch: int | None = size if isinstance(size, int) else None

    def logits(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits `[N, K]` of preprocessed samples; a fixed batch is filled up.

        Args:
            images: `[N, C, H, W]`, or sequences of frames `[N, T, C, H, W]`.
        """
        size = self.fixed_batch
        if size is None or len(images) == size:
            return self._run(images)
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            filling = np.repeat(part[-1:], size - len(part), axis=0)
            parts.append(self._run(np.concatenate([part, filling]))[: len(part)])
        return np.concatenate(parts)

    def _run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self._of_frames:
            images = np.ascontiguousarray(images.swapaxes(0, 1))
        result: npt.NDArray[np.float32] = self.session.run(None, {self._input: images})[0]
        return result
