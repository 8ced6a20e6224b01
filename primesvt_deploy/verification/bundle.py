"""Verify a finished bundle against the torch model it carries."""

from __future__ import annotations

import os

from primesvt_deploy.compute.device import compute_device, use_exact_arithmetic
from primesvt_deploy.data import open_data
from primesvt_deploy.edge.runtime.bundle import Bundle, open_bundle
from primesvt_deploy.edge.runtime.native import NATIVE_FILE
from primesvt_deploy.edge.runtime.runtimes import NATIVE, runtimes_of
from primesvt_deploy.errors import DataError
from primesvt_deploy.model.checkpoint import read_checkpoint
from primesvt_deploy.model.load import load
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.quantization.serialization import with_quantized_state
from primesvt_deploy.quantization.timesteps import (
    STAGES_FILE,
    RescaledLayer,
    rescaled,
    stages_from_state,
)
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.native import verify_stages
from primesvt_deploy.verification.onnx_stages import verify_onnx_stages
from primesvt_deploy.verification.outcome import Verification

__all__ = ["verify_bundle", "verify_bundle_stages"]


def verify_bundle(
    bundle: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    images: int = 256,
    threads: int = 0,
    factory: str | None = None,
    runtime: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Verification:
    """Compare a bundle's artifact, as it runs all its timesteps, with its model.

    Of a bundle whose runs stop early, every stage is compared, and must pass; see
    `verify_bundle_stages` for the outcome of each. Arguments and errors are the same.
    """
    outcomes = verify_bundle_stages(
        bundle,
        data=data,
        images=images,
        threads=threads,
        factory=factory,
        runtime=runtime,
        device=device,
        progress=progress,
    )
    return outcomes[max(outcomes)]


def verify_bundle_stages(
    bundle: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    images: int = 256,
    threads: int = 0,
    factory: str | None = None,
    runtime: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> dict[int, Verification]:
    """Compare a bundle's artifact with its model on held-out images, stage by stage.

    The model is that of `weights.safetensors`, or, where the artifact has integer weights, the
    quantized one of `quantized.safetensors`.

    Args:
        bundle: the bundle's directory.
        data: a data source; default: the bundled data set it was built with.
        images: how many to compare on.
        threads: of ONNX Runtime.
        factory: `module:function` that makes the model, if it is of a user's own class.
        runtime: `onnx` or `native`; None: ONNX Runtime, if the bundle is built for it.
        device: that the model runs on: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where there is one.
        progress: gets each stage.

    Returns:
        The outcome of each stage by its number of timesteps, the whole model last; one where runs
        do not stop early.

    Raises:
        BundleError: the bundle is incomplete or altered.
        DataError: no data to compare on.
        SettingsError: a device that is not there.
        VerificationError: the artifact is not its model.
    """
    opened = open_bundle(bundle)
    there = compute_device(device)
    use_exact_arithmetic()
    progress.stage("reading the model", 1)
    model = load(bundle, factory=factory)
    whole, stages = model, _stages(opened)
    if "quantized.safetensors" in opened:
        state = read_checkpoint(opened.file("quantized.safetensors")).state
        model = with_quantized_state(model, state)
    if data is None and model.data is None:
        raise DataError(f"{bundle} was built on data of its own: pass --data, or --quick")
    held_out = open_data(model, data).held_out.shuffled(0).first(images)
    progress.step()
    models = [*(rescaled(model, whole.at_timesteps(t), stages[t]) for t in sorted(stages)), model]
    if (runtime or runtimes_of(opened.manifest)[0]) == NATIVE:
        path = opened.file(NATIVE_FILE)
        precision = Precision(opened.manifest["precision"]["name"])
        outcomes = verify_stages(
            models, path, held_out, precision=precision, device=there, progress=progress
        )
    else:
        path = opened.file("model.onnx")
        outcomes = verify_onnx_stages(
            models, path, held_out, threads=threads, device=there, progress=progress
        )
    return dict(zip((model.timesteps for model in models), outcomes, strict=True))


def _stages(bundle: Bundle) -> dict[int, dict[str, RescaledLayer]]:
    """Layers of the stages that run before the whole model; none where runs do not stop early."""
    if STAGES_FILE not in bundle:
        return {}
    return stages_from_state(read_checkpoint(bundle.file(STAGES_FILE)).state)
