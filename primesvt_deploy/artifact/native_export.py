"""Export a quantized SViT to a `model.svit`, the file of the native engine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from primesvt_deploy.artifact.native_file import EarlyStage, arena_bytes, native_bytes
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.lowering.native.program import NativeProgram
from primesvt_deploy.lowering.native.small_memory import in_little_memory
from primesvt_deploy.lowering.native.stores import View
from primesvt_deploy.lowering.passes import TracedNetwork, lower_to_program
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.settings import Precision

__all__ = ["EarlyModel", "NativeArtifact", "export_native"]


@dataclass(frozen=True)
class EarlyModel:
    """A model that runs before the main one, which then may not have to.

    Args:
        model: the same network for fewer timesteps; see `quantization.timesteps`.
        margin: largest logit less the second, from which on its logits are final.
        traced: its network with any batch, or of 1, if it is traced already.
    """

    model: SViT
    margin: float
    traced: TracedNetwork | None = None


@dataclass(frozen=True, kw_only=True)
class NativeArtifact:
    """An exported `model.svit`.

    Args:
        path: the file.
        bytes: its size.
        arena_bytes: of memory that a run works in.
        precision: of its weights.
        integer_layers: weighted layers that add integer weights where spikes are.
        float_layers: weighted layers that run on float32, and why.
        observed: how the outputs are stored that an observer gets, by layer.
    """

    path: Path
    bytes: int
    arena_bytes: int
    precision: Precision
    integer_layers: tuple[str, ...]
    float_layers: Mapping[str, str]
    observed: Mapping[str, View]


def export_native(
    model: SViT,
    path: str | os.PathLike[str],
    *,
    precision: Precision,
    observe_float_layers: bool = False,
    little_memory: bool = False,
    early: Sequence[EarlyModel] = (),
    traced: TracedNetwork | None = None,
) -> NativeArtifact:
    """Write a quantized model as `model.svit`.

    Args:
        model: from `quantization.quantize`.
        path: the file, replaced whole if it exists.
        precision: of the weights; int8 or int4.
        observe_float_layers: keep the outputs of float layers, to verify what is behind them.
        little_memory: work in as little memory as can be, for a microcontroller; the same numbers.
        early: models that run before it, those of fewer timesteps first.
        traced: the model's network with any batch, or of 1, if it is traced already.

    Raises:
        ExportError: the model cannot be traced, or has what the engine cannot run; the layer is
            named.
    """

    def lowered(model: SViT, traced: TracedNetwork | None) -> NativeProgram:
        program = lower_to_program(
            model.module.float(),
            model.config,
            precision=precision,
            observe_float_layers=observe_float_layers,
            traced=traced,
        )
        return in_little_memory(program) if little_memory else program

    program = lowered(model, traced)
    stages = [EarlyStage(lowered(each.model, each.traced), each.margin) for each in early]
    mean, std = _normalisation(model)
    content = native_bytes(program, mean=mean, std=std, early=stages)
    target = Path(path)
    write_whole(target, content)
    return NativeArtifact(
        path=target,
        bytes=len(content),
        arena_bytes=arena_bytes(content),
        precision=precision,
        integer_layers=program.integer_layers,
        float_layers=program.float_layers,
        observed=program.observed,
    )


def _normalisation(model: SViT) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of each channel; nothing for event frames, or pixels alone."""
    steps = model.preprocessing
    if not isinstance(steps, Preprocessing) or steps.pixels:
        return (), ()
    return steps.mean, steps.std
