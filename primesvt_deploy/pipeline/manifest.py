"""Compose the manifest: a bundle's description of itself."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from primesvt_deploy.analysis.cost import measure_cost
from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.compute.device import CPU, device_name
from primesvt_deploy.lowering.trace import OUTPUT, input_name
from primesvt_deploy.measure.artifact_latency import before_and_after
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.measure.latency import cpu_name
from primesvt_deploy.measure.verdict import verdict_of
from primesvt_deploy.model.description import describe
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.evaluation import Evaluation
from primesvt_deploy.pipeline.recorded_accuracy import chance_warning
from primesvt_deploy.pipeline.staged import Verified
from primesvt_deploy.pipeline.variant import Variant
from primesvt_deploy.settings import HEAD, BuildSettings, Runtime
from primesvt_deploy.version import __version__

__all__ = ["Findings", "compose_manifest", "versions"]

_LIBRARIES = ("numpy", "onnx", "onnxruntime", "spikingjelly", "torch", "torch-pruning")


@dataclass(frozen=True)
class Findings:
    """Everything that a build found out.

    Args:
        dense: the dense float32 artifact.
        variants: one for each precision that was tried.
        chosen: the one that is shipped.
        verified: what is shipped, against its model.
        evaluation: of the dense and the shipped artifact.
    """

    dense: Artifact
    variants: Sequence[Variant]
    chosen: Variant
    verified: Verified
    evaluation: Evaluation


def compose_manifest(
    context: BuildContext, findings: Findings, *, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """The manifest without `schema`, `files` and its own digest.

    Args:
        context: of the build.
        findings: of its stages.
        seconds: of each stage.
    """
    model, settings, chosen = context.model, context.settings, findings.chosen
    accuracy, latency = _accuracy(context, findings), before_and_after(findings.evaluation.latency)
    size = _sizes(model, chosen, findings.dense)
    return {
        "tool": {"name": "primesvt-deploy", "version": __version__},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": context.command,
        "model": describe(chosen.described),
        "checkpoint": asdict(model.source) if model.source is not None else None,
        "input": _input(chosen.quantized, chosen.exported),
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["batch", len(model.labels)]},
        "neurons": [layer.to_dict() for layer in chosen.exported.layers],
        "notes": [*_doubts(context, findings.evaluation), *model.all_notes],
        "left_unpruned": dict(context.search.prunable.left),
        "runtimes": list(_runtimes(settings.runtime)),
        "native": _native(findings),
        "anytime": _anytime(findings),
        "precision": _precision(findings.variants, chosen, settings),
        "constraints": _judged(_constraints(chosen, settings), accuracy, size),
        "size": size,
        "accuracy": accuracy,
        "latency": {"cpu": cpu_name(), "batch": settings.batch or 1, **latency},
        "verification": _verification(findings.verified),
        "policy": {
            "name": settings.search.policy,
            **settings.search.to_dict(),
            **_classifier(chosen, settings),
        },
        "finetune": _finetune(chosen, settings),
        "compute": _compute(context),
        "seconds": dict(seconds),
        "versions": versions(),
    }


def _accuracy(context: BuildContext, findings: Findings) -> dict[str, Any]:
    """Held-out accuracy of the dense and the shipped model, and what was lost on either split."""
    data, hits = context.images.data, findings.evaluation.hits
    return {
        "data": data.name,
        "data_digest": data.digest,
        "split": "held-out",
        "dense": Accuracy.of(hits["dense"]).to_dict(),
        "shipped": Accuracy.of(hits["shipped"]).to_dict(),
        "drop": PairedDrop.of(hits["dense"], hits["shipped"]).to_dict(),
        "search": _search(findings.chosen),
    }


def _judged(
    constraints: dict[str, Any], accuracy: Mapping[str, Any], size: Mapping[str, Any]
) -> dict[str, Any]:
    """Constraints with the verdict on them, which the held-out images have a word in."""
    verdict = verdict_of({"constraints": constraints, "accuracy": accuracy, "size": size})
    return {**constraints, "verdict": verdict.state.value, "verdict_text": verdict.text}


def _doubts(context: BuildContext, evaluation: Evaluation) -> list[str]:
    """Warnings that the dense model hardly does better than guessing, one at most."""
    held_out = Accuracy.of(evaluation.hits["dense"])
    found = chance_warning(context.model, held_out, "held-out")
    return [found] if found is not None else context.search.doubts


def _runtimes(runtime: Runtime) -> Iterator[str]:
    """Runtimes of a bundle, the default first."""
    if runtime.has_onnx:
        yield Runtime.ONNX.value
    if runtime.has_native:
        yield Runtime.NATIVE.value


def _native(findings: Findings) -> dict[str, Any] | None:
    """Facts of the native engine's file; None: there is none."""
    native, verification = findings.chosen.native, findings.verified.native
    if native is None or verification is None:
        return None
    return {
        "file": "model.svit",
        "file_bytes": native.bytes,
        "arena_bytes": native.arena_bytes,
        "integer_layers": len(native.integer_layers),
        "real_layers": dict(native.float_layers),
        "verification": verification.to_dict(),
    }


def _anytime(findings: Findings) -> dict[str, Any] | None:
    """Stages of a model that may stop early; None: that was not requested."""
    ladder, found = findings.chosen.ladder, findings.evaluation.anytime
    if ladder is None:
        return None
    return {
        "stages": [stage.to_dict() for stage in ladder.stages],
        "search": {
            "drop_points": round(ladder.drop.points, 4),
            "n": ladder.drop.n,
            "mean_timesteps": round(ladder.timesteps, 4),
            "mean_ms": round(ladder.milliseconds, 4),
        },
        "held_out": None
        if found is None
        else {
            "accuracy": Accuracy.of(found.hits).to_dict(),
            "drop": PairedDrop.of(found.whole, found.hits).to_dict(),
            "mean_timesteps": round(float(found.timesteps.mean()), 4),
            "mean_ms": round(ladder.milliseconds_of(found.timesteps), 4),
        },
        "verification": {
            runtime.value: [stage.to_dict() for stage in stages]
            for runtime, stages in findings.verified.stages.items()
        },
    }


def _verification(verified: Verified) -> dict[str, Any]:
    """Verification of the ONNX artifact, or, without one, of the native one."""
    outcome = verified.artifact or verified.native
    assert outcome is not None
    return outcome.to_dict()


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


def _input(model: SViT, artifact: Artifact) -> dict[str, Any]:
    frames = model.config.frames
    steps = [model.config.timesteps] if frames else []
    return {
        "name": input_name(model.config),
        "dtype": model.sample_dtype.name,
        "shape": [*steps, artifact.batch or "batch", *model.config.input_shape],
        "layout": "TNCHW" if frames else "NCHW",
        "color": None if frames else "grey" if model.config.in_channels == 1 else "RGB",
    }


def _precision(
    variants: Sequence[Variant], chosen: Variant, settings: BuildSettings
) -> dict[str, Any]:
    """Precision of the weights, and the variants that were tried."""
    return {
        "name": chosen.exported.precision.value,
        "asked": "auto" if settings.precision is None else settings.precision.value,
        "standard_ops": settings.standard_ops,
        "integer_layers": len(chosen.exported.integer_layers),
        "real_layers": dict(chosen.exported.float_layers),
        "candidates": [
            {
                "precision": variant.exported.precision.value,
                "pruned": bool(variant.predicted.plan.kept),
                "budget_bytes_used": variant.measured.bytes,
                "file_bytes": variant.file_bytes,
                "drop": variant.measured.drop.to_dict() if variant.measured.drop else None,
                "met": variant.budget_met and variant.accuracy_met,
                "stopped_by": variant.stopped_by,
            }
            for variant in variants
        ],
    }


def _constraints(chosen: Variant, settings: BuildSettings) -> dict[str, Any]:
    return {
        "budget_on": settings.budget_on.value,
        "budget_mb": settings.budget_mb,
        "saving_percent": settings.saving,
        "budget_bytes": chosen.budget_bytes,
        "used_bytes": chosen.measured.bytes,
        "max_drop_points": settings.search.max_drop,
        "budget_met": chosen.budget_met,
        "accuracy_met": chosen.accuracy_met,
        "met": chosen.budget_met and chosen.accuracy_met,
        "stopped_by": chosen.stopped_by,
    }


def _sizes(dense_model: SViT, chosen: Variant, dense: Artifact) -> dict[str, Any]:
    cost = measure_cost(dense_model)
    before = {
        "file_bytes": dense.bytes,
        "weight_bytes": cost.shipped_bytes,
        **cost.to_dict(),
    }
    after = {
        "file_bytes": chosen.file_bytes,
        "weight_bytes": chosen.measured.weight_bytes,
        **measure_cost(chosen.model).to_dict(),
    }
    saved = {
        name: round(100.0 * (1.0 - after[key] / before[key]), 2)
        for name, key in (
            ("file", "file_bytes"),
            ("weights", "weight_bytes"),
            ("parameters", "parameters"),
            ("macs", "macs"),
        )
    }
    return {"dense": before, "shipped": after, "saved_percent": saved}


def _finetune(chosen: Variant, settings: BuildSettings) -> dict[str, Any] | None:
    if chosen.finetuned is None or settings.finetune is None:
        return None
    found = chosen.finetuned
    return {
        **settings.finetune.to_dict(),
        "losses": [round(loss, 5) for loss in found.losses],
        "images_seen": found.images,
        "seconds": found.seconds,
    }


def _compute(context: BuildContext) -> dict[str, Any]:
    """Device, precision and workers of the evaluation, and whether Ray ran it."""
    search, session = context.settings.search, context.search.session
    return {
        "device": str(context.device) if session is None else session.placement.device,
        "device_name": cpu_name() if context.device == CPU else device_name(context.device),
        "evaluation_precision": search.evaluation_precision,
        "engine": "in-process" if session is None else "ray",
        "workers": None if session is None else session.placement.workers,
    }


def _classifier(chosen: Variant, settings: BuildSettings) -> dict[str, bool]:
    """Whether the refitted classifier was kept, where that was tried."""
    if HEAD not in settings.search.recover or not chosen.predicted.plan.kept:
        return {}
    return {"classifier_fitted_anew": chosen.applied.refitted is not None}


def _search(chosen: Variant) -> dict[str, Any] | None:
    dense, drop = chosen.dense, chosen.measured.drop
    if dense is None or drop is None:
        return None
    return {"dense": dense.to_dict(), "drop_points": round(drop.points, 4)}
