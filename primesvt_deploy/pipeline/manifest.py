"""What a bundle says of itself: the manifest's body."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.analysis.cost import measure_cost
from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.data import DataSet
from primesvt_deploy.lowering.trace import OUTPUT, input_name
from primesvt_deploy.measure.intervals import Accuracy, PairedDrop
from primesvt_deploy.measure.latency import Latency, cpu_name
from primesvt_deploy.model.load import describe
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.variant import Variant
from primesvt_deploy.settings import HEAD, BuildSettings
from primesvt_deploy.verification.verify import Verification
from primesvt_deploy.version import __version__

__all__ = ["Measured", "compose_manifest", "versions"]

_LIBRARIES = ("numpy", "onnx", "onnxruntime", "spikingjelly", "torch", "torch-pruning")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of the `dense` and the `shipped` artifact.

    Args:
        hits: per held-out image, whether it is classified rightly.
        latency: of one batch.
        runs: timed runs behind each latency.
        verification: of the shipped artifact.
    """

    hits: Mapping[str, npt.NDArray[np.bool_]]
    latency: Mapping[str, Latency]
    runs: int
    verification: Verification | None


def compose_manifest(
    *,
    dense_model: SViT,
    variants: Sequence[Variant],
    chosen: Variant,
    dense: Artifact,
    shipped: Artifact,
    measured: Measured,
    data: DataSet,
    settings: BuildSettings,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The manifest without `schema`, `files` and its own digest; see design: Bundle."""
    pruned = chosen.pruned
    description = describe(pruned.model)
    drop = PairedDrop.of(measured.hits["dense"], measured.hits["shipped"])
    return {
        "tool": {"name": "primesvt-deploy", "version": __version__},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": description,
        "input": _input(pruned.model, shipped),
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["batch", len(dense_model.labels)]},
        "neurons": [layer.to_dict() for layer in shipped.layers],
        "notes": [dense_model.family.note] if dense_model.family.note else [],
        "left_unpruned": dict(pruned.left),
        "precision": _precision(variants, chosen, settings),
        "constraints": _constraints(chosen, settings),
        "size": _sizes(dense_model, chosen, dense, shipped),
        "accuracy": {
            "data": data.name,
            "data_digest": data.digest,
            "split": "held-out",
            "dense": Accuracy.of(measured.hits["dense"]).to_dict(),
            "shipped": Accuracy.of(measured.hits["shipped"]).to_dict(),
            "drop": drop.to_dict(),
            "search": _search(chosen),
        },
        "latency": _latency(measured, settings),
        "verification": measured.verification.to_dict() if measured.verification else None,
        "policy": {
            "name": settings.search.policy,
            **settings.search.to_dict(),
            **_head(chosen, settings),
        },
        "finetune": _finetune(chosen, settings),
        "seconds": dict(seconds),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


def _input(model: SViT, artifact: Artifact) -> dict[str, Any]:
    frames = model.config.frames
    steps = [model.config.timesteps] if frames else []
    return {
        "name": input_name(model.config),
        "dtype": "float32",
        "shape": [*steps, artifact.batch or "batch", *model.config.input_shape],
        "layout": "TNCHW" if frames else "NCHW",
        "color": None if frames else "RGB",
    }


def _precision(
    variants: Sequence[Variant], chosen: Variant, settings: BuildSettings
) -> dict[str, Any]:
    """What the weights are, and what else was tried."""
    return {
        "name": chosen.artifact.precision.value,
        "asked": "auto" if settings.precision is None else settings.precision.value,
        "standard_ops": settings.standard_ops,
        "integer_layers": len(chosen.artifact.integer),
        "real_layers": dict(chosen.artifact.real),
        "candidates": [
            {
                "precision": variant.artifact.precision.value,
                "pruned": bool(variant.pruned.outcome.plan.kept),
                "budget_bytes_used": variant.size,
                "file_bytes": variant.artifact.bytes,
                "drop": variant.drop.to_dict() if variant.drop else None,
                "met": variant.budget_met and variant.accuracy_met,
                "stopped_by": variant.pruned.outcome.stopped_by,
            }
            for variant in variants
        ],
    }


def _constraints(chosen: Variant, settings: BuildSettings) -> dict[str, Any]:
    pruned = chosen.pruned
    return {
        "budget_on": settings.budget_on.value,
        "budget_mb": settings.budget_mb,
        "saving_percent": settings.saving,
        "budget_bytes": pruned.budget_bytes,
        "used_bytes": chosen.size,
        "max_drop_points": settings.search.max_drop,
        "budget_met": chosen.budget_met,
        "accuracy_met": chosen.accuracy_met,
        "met": chosen.budget_met and chosen.accuracy_met,
        "stopped_by": pruned.outcome.stopped_by,
    }


def _sizes(
    dense_model: SViT, chosen: Variant, dense: Artifact, shipped: Artifact
) -> dict[str, Any]:
    cost = measure_cost(dense_model)
    before = {
        "file_bytes": dense.bytes,
        "weight_bytes": cost.shipped_bytes,
        **cost.to_dict(),
    }
    after = {
        "file_bytes": shipped.bytes,
        "weight_bytes": chosen.weight_bytes,
        **measure_cost(chosen.pruned.model).to_dict(),
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


def _head(chosen: Variant, settings: BuildSettings) -> dict[str, bool]:
    """Whether a classifier fitted anew was kept, where that was tried."""
    outcome = chosen.pruned.outcome
    if HEAD not in settings.search.recover or not outcome.plan.kept:
        return {}
    return {"classifier_fitted_anew": any(step.step == HEAD for step in outcome.steps)}


def _search(chosen: Variant) -> dict[str, Any] | None:
    dense = chosen.pruned.dense
    if dense is None or chosen.drop is None:
        return None
    return {"dense": dense.to_dict(), "drop_points": round(chosen.drop.points, 4)}


def _latency(measured: Measured, settings: BuildSettings) -> dict[str, Any]:
    dense, shipped = measured.latency["dense"], measured.latency["shipped"]
    return {
        "cpu": cpu_name(),
        "threads": settings.threads or os.cpu_count(),
        "runs": measured.runs,
        "batch": settings.batch or 1,
        "dense": dense.to_dict(),
        "shipped": shipped.to_dict(),
        "ratio_median": round(dense.median / shipped.median, 3),
    }
