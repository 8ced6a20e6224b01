"""`export`: a SViT as one ONNX file, in a precision."""

from __future__ import annotations

import os

import torch

from primesvt_deploy.artifact.onnx_export import Artifact, export_onnx
from primesvt_deploy.compute.device import compute_device
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

__all__ = ["export"]


def export(
    model: SViT,
    path: str | os.PathLike[str],
    *,
    batch: int | None = None,
    precision: Precision | str = Precision.FP32,
    samples: torch.Tensor | None = None,
    standard: bool = False,
    device: str = "auto",
) -> Artifact:
    """Write `model` as one ONNX file; see `artifact.onnx_export.export_onnx`.

    Args:
        model: what to export.
        path: the file.
        batch: a fixed batch size, or None for any.
        precision: `fp32`, `int8` or `int4`.
        samples: preprocessed samples to calibrate on; see `quantization.quantize`.
        standard: standard ONNX operators only.
        device: that it is calibrated on: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where there is
            one.
    """
    chosen = Precision(precision)
    there, quantized = compute_device(device), model
    if chosen is not Precision.FP32:
        quantized = quantize(model, chosen.bits, samples, device=there)
    return export_onnx(quantized, path, batch=batch, precision=chosen, standard=standard)
