"""Have the model that is shipped stop early, where its settings allow that and it saves time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.pipeline.anytime import choose_stages
from primesvt_deploy.pipeline.budget import counted_bytes, file_bytes
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.variant import Variant

__all__ = ["stop_early"]


def stop_early(context: BuildContext, chosen: Variant, directory: Path) -> Variant:
    """The variant with the stages in its native file that are worth it, and no others.

    Args:
        context: of the build.
        chosen: the variant that is shipped; its native file has every stage.
        directory: where the file is written.
    """
    settings, native = context.settings, chosen.native
    if settings.anytime is None or native is None:
        return chosen
    ladder = choose_stages(context, native.path, settings.anytime)
    by_timesteps = {stage.model.timesteps: stage for stage in chosen.stages}
    early = [(by_timesteps[each.timesteps], each.margin) for each in ladder.stages[:-1]]
    native = export_native(
        chosen.quantized,
        directory / "anytime.svit",
        precision=native.precision,
        little_memory=settings.mcu,
        early=[stage.early(margin) for stage, margin in early],
    )
    counted = counted_bytes(settings, chosen.quantized, chosen.exported, native)
    return replace(
        chosen,
        native=native,
        stages=tuple(stage for stage, _ in early),
        ladder=ladder,
        measured=replace(chosen.measured, bytes=counted),
        file_bytes=file_bytes(settings, chosen.exported, native),
    )
