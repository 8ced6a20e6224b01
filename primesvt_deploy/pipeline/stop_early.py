"""Have the model that is shipped stop early, where its settings allow that and it saves time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.pipeline.anytime import StageModel, choose_stages, join_early, native_stages
from primesvt_deploy.pipeline.budget import counted_bytes, file_bytes
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.variant import Variant

__all__ = ["stop_early"]


def stop_early(context: BuildContext, chosen: Variant, directory: Path) -> Variant:
    """The variant with the stages in its files that are worth it, and no others.

    Args:
        context: of the build.
        chosen: the variant that is shipped; its native file has every stage.
        directory: where the files are written.
    """
    settings, native = context.settings, chosen.native
    if settings.anytime is None:
        return chosen
    ladder = choose_stages(context, _each_alone(chosen), settings.anytime)
    by_timesteps = {stage.model.timesteps: stage for stage in chosen.stages}
    early = [(by_timesteps[each.timesteps], each.margin) for each in ladder.stages[:-1]]
    joined: Artifact | None = None
    if early and settings.runtime.has_onnx:
        steps = chosen.quantized.timesteps
        joined = join_early(early, chosen.exported, steps, directory / "anytime.onnx")
    if native is not None:
        native = export_native(
            chosen.quantized,
            directory / "anytime.svit",
            precision=native.precision,
            little_memory=settings.mcu,
            early=[stage.early(margin) for stage, margin in early],
        )
    largest = joined or chosen.exported
    counted = counted_bytes(settings, chosen.quantized, largest, native)
    return replace(
        chosen,
        joined=joined,
        native=native,
        stages=tuple(stage for stage, _ in early),
        ladder=ladder,
        measured=replace(chosen.measured, bytes=counted),
        file_bytes=file_bytes(settings, largest, native),
    )


def _each_alone(chosen: Variant) -> dict[int, StageModel]:
    """Every stage to be run alone, the whole model last: natively, if it is built for that."""
    if chosen.native is not None:
        return native_stages(chosen.native.path)
    exported = {stage.model.timesteps: stage.exported for stage in chosen.stages}
    exported[chosen.quantized.timesteps] = chosen.exported
    return {t: OnnxModel(each.path, threads=1) for t, each in exported.items() if each is not None}
