"""Errors shown to the user: one base class, one class a stage, one line a message.

A message says what was found, what was expected and what to do. `exit_code` is what the command
line ends with: 1 a constraint was not met, 2 usage or input.
"""

from __future__ import annotations

from primesvt_deploy.edge.bench.errors import MeasurementError, OutputError
from primesvt_deploy.edge.runtime.errors import (
    BundleError,
    DeployError,
    ImageError,
)

__all__ = [
    "BUILD_PACKAGES",
    "BundleError",
    "ClusterError",
    "DataError",
    "DeployError",
    "EmulationError",
    "ExportError",
    "ImageError",
    "MeasurementError",
    "ModelError",
    "NotInstalledError",
    "OutputError",
    "PruningError",
    "RemoteError",
    "SettingsError",
    "VerificationError",
    "first_line",
    "not_installed",
    "type_and_message",
]

BUILD_PACKAGES = frozenset(
    {
        "altair",
        "jinja2",
        "markupsafe",
        "matplotlib",
        "msgspec",
        "onnx",
        "onnx_ir",
        "onnxscript",
        "safetensors",
        "spikingjelly",
        "torch",
        "torch_pruning",
        "vl_convert",
    }
)
"""Modules that the build extra installs and the edge install leaves out."""


class SettingsError(DeployError):
    """A setting is missing, out of range, or contradicts another."""


class ModelError(DeployError):
    """A checkpoint or model configuration that cannot be used."""


class DataError(DeployError):
    """A data set that cannot be used with the model."""


class PruningError(DeployError):
    """A plan or group that does not fit the model, or a cut that changed its outputs."""


class ExportError(DeployError):
    """The model could not be lowered to ONNX."""


class VerificationError(DeployError):
    """The artifact does not compute what the model computes."""

    exit_code = 1


class RemoteError(DeployError):
    """A host that cannot be reached, or on which nothing can be measured."""


class ClusterError(DeployError):
    """Workers that cannot be started, reached or kept alive."""


class EmulationError(DeployError):
    """The emulated ARM machine cannot be set up, or a program did not run on it."""


class NotInstalledError(DeployError, ImportError):
    """Something is asked of an edge install that only the build install has."""


def not_installed(error: ModuleNotFoundError, what: str) -> NotInstalledError | None:
    """Error that says how to get the build extra, of which a package is missing; None: another is.

    Args:
        error: the import that failed.
        what: needs the package; the beginning of the message.
    """
    package = (error.name or "").partition(".")[0]
    if package not in BUILD_PACKAGES:
        return None
    return NotInstalledError(
        f"{what} needs {package}, which the edge install leaves out: "
        "pip install 'primesvt-deploy[build]'"
    )


def first_line(error: BaseException, most: int = 160) -> str:
    """First line of an error's message, cut to `most` characters; its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:most]


def type_and_message(error: BaseException) -> str:
    """Type of an error and the first line of its message."""
    message = first_line(error) if str(error).strip() else "no reason given"
    return f"{type(error).__name__}: {message}"
