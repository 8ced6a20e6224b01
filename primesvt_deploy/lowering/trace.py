"""Trace a torch module to an ONNX graph in which each neuron is one `ai.primesvt::LIF` node."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch
from torch import nn

from primesvt_deploy.errors import ExportError
from primesvt_deploy.families.adopted import AdoptedNetwork
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.lowering.export_failure import export_failure
from primesvt_deploy.lowering.pixel_conv import pixel_conv
from primesvt_deploy.lowering.stateless import require_stateless

__all__ = ["OPSET", "OUTPUT", "input_name", "trace"]

OUTPUT = "logits"
OPSET = 18
"""ONNX operator set: the oldest that splits into equal parts without fixed sizes; onnxruntime
1.20 and later load it (they do from 1.14 on)."""


def input_name(config: NetworkConfig) -> str:
    """Name of an artifact's input."""
    return "frames" if config.frames else "images"


def trace(module: nn.Module, config: NetworkConfig, batch: int | None) -> ir.Model:
    """Trace a module to `images [N, C, H, W]` or `frames [T, N, C, H, W]` to `logits [N, K]`.

    The input is float32, or uint8 where the module has a `PixelConv`.

    Args:
        module: with stateless neurons (`stateless_copy`, `lower_module`); float32.
        config: says what the input is.
        batch: a fixed N, or None for any, or for 1 where the module's code fixes it.

    Returns:
        The graph; its nodes' metadata names the modules they are of.

    Raises:
        PreconditionError: a neuron keeps state.
        ExportError: torch.onnx cannot trace the module; names the reason and the line of code.
    """
    require_stateless(module)
    example = config.example(batch or 2)
    if pixel_conv(module) is not None:
        example = example.to(torch.uint8)
    axis = 1 if config.frames else 0
    dynamic = None if batch else ({axis: torch.export.Dim("batch")},)
    try:
        with _quiet():
            program = torch.onnx.export(
                module.to(memory_format=torch.contiguous_format),
                (example,),
                dynamo=True,
                dynamic_shapes=dynamic,
                opset_version=OPSET,
                input_names=[input_name(config)],
                output_names=[OUTPUT],
                verbose=False,
            )
    except Exception as error:  # torch.onnx raises many kinds, all of which mean the same
        with _quiet():
            written = module.as_written() if isinstance(module, AdoptedNetwork) else module
            reason = export_failure(error, written, example, dynamic)
        raise ExportError(f"torch.onnx could not trace the model: {reason}") from error
    if program is None:
        raise ExportError("torch.onnx returned no program for the model")
    if batch is None and isinstance(_samples(program.model, axis), int):
        # Code that takes len(x), or loops over samples, fixes their number as it is traced, which
        # torch.onnx does without a word. One is what a device has; the runtime runs one by one.
        return trace(module, config, 1)
    return program.model


def _samples(model: ir.Model, axis: int) -> object:
    shape = model.graph.inputs[0].shape
    return None if shape is None else shape[axis]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints, logs and warns about what is decided here."""
    # Those without a level of their own have that of "torch".
    loggers = [
        logger
        for name, logger in list(logging.root.manager.loggerDict.items())
        if name.partition(".")[0] == "torch" and isinstance(logger, logging.Logger)
        if logger.level != logging.NOTSET or name == "torch"
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sink = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(sink),
            contextlib.redirect_stderr(sink),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
