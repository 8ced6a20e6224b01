"""Write a bundle: the artifact, the model and plan it was made of, and the code that runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import save

import primesvt_deploy.edge.run
import primesvt_deploy.edge.runtime
from primesvt_deploy.edge.runtime.bundle import file_digest
from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.edge.runtime.manifest import MANIFEST, SCHEMA, manifest_digest
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.serialization import quantized_state
from primesvt_deploy.quantization.timesteps import STAGES_FILE, RescaledLayer, stages_state

__all__ = ["CHECK_BYTES", "BundleParts", "write_bundle"]

CHECK_BYTES = 131_072
"""Pixels kept in `check.npz` for `verify` on a device without torch, at most (one at least)."""


@dataclass(frozen=True, kw_only=True)
class BundleParts:
    """Content of a bundle's files, but for the model files, which are staged already.

    Args:
        model: the shipped SViT in float32, for `weights.safetensors`.
        quantized: the quantized model that the artifact computes, for `quantized.safetensors`;
            None where the artifact is float32.
        stages: rescaled layers of the stages that run before it, for `stages.safetensors`, by
            number of timesteps and name; none where runs do not stop early.
        manifest: the manifest without `schema`, `files` and its digest.
        session: content of `session.json`; None: the bundle has no ONNX file.
        plan: content of `plan.json`.
        ledger: path of the ledger, which need not exist.
        report: content of `report.html`.
        report_content: content of `report.json`, from which others can be drawn.
        check_images: samples in the model's input size, not normalised, for `check.npz`.
        check_logits: `[n, K]`, the artifact's outputs for them on this machine.
    """

    model: SViT
    quantized: SViT | None
    stages: Mapping[int, Mapping[str, RescaledLayer]]
    manifest: Mapping[str, Any]
    session: Mapping[str, Any] | None
    plan: Mapping[str, Any]
    ledger: Path
    report: str
    report_content: bytes
    check_images: npt.NDArray[Any]
    check_logits: npt.NDArray[np.float32]


def write_bundle(directory: Path, parts: BundleParts) -> dict[str, Any]:
    """Write all parts into a directory, the manifest last.

    Args:
        directory: a staged directory, with the model files and nothing else.
        parts: content of the other files.

    Returns:
        The finished manifest.
    """
    # Copies: layers that a user's model has under two names share their tensors.
    state = {k: v.detach().contiguous().clone() for k, v in parts.model.module.state_dict().items()}
    # Not save_file, which leaves a file that only its owner reads.
    (directory / "weights.safetensors").write_bytes(save(state))
    if parts.quantized is not None:
        (directory / "quantized.safetensors").write_bytes(save(quantized_state(parts.quantized)))
    if parts.stages:
        (directory / STAGES_FILE).write_bytes(save(stages_state(parts.stages)))
    if parts.session is not None:
        (directory / "session.json").write_text(json.dumps(parts.session, indent=1) + "\n")
    (directory / "plan.json").write_text(json.dumps(parts.plan, indent=1) + "\n")
    if parts.ledger.is_file():
        shutil.copyfile(parts.ledger, directory / "ledger.jsonl")
    else:
        (directory / "ledger.jsonl").touch()
    (directory / "report.html").write_text(parts.report, encoding="utf-8")
    (directory / "report.json").write_bytes(parts.report_content)
    shutil.copyfile(primesvt_deploy.edge.run.__file__, directory / "run.py")
    np.savez_compressed(
        directory / "check.npz", images=parts.check_images, logits=parts.check_logits
    )
    _copy_runtime(directory / "runtime")
    described = _on_one_line({"schema": SCHEMA, **parts.manifest})
    manifest: dict[str, Any] = {**described, "files": _listed(directory)}
    manifest["manifest_sha256"] = manifest_digest(manifest)
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def _on_one_line(content: Any) -> Any:
    """Plain values of which no text breaks a line: names and notes may come from a user's files."""
    if isinstance(content, str):
        return on_one_line(content)
    if isinstance(content, Mapping):
        return {on_one_line(str(key)): _on_one_line(value) for key, value in content.items()}
    return [_on_one_line(v) for v in content] if isinstance(content, list | tuple) else content


def _copy_runtime(target: Path) -> None:
    source = Path(primesvt_deploy.edge.runtime.__file__).parent
    target.mkdir()
    for path in sorted(source.glob("*.py")):
        shutil.copyfile(path, target / path.name)


def _listed(directory: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): {
            "sha256": file_digest(path),
            "bytes": path.stat().st_size,
        }
        for path in files
    }
