"""Errors of measuring; `primesvt_deploy.errors` lists those of all packages."""

from __future__ import annotations

from primesvt_deploy.edge.runtime.errors import BundleError, DeployError

__all__ = ["BundleError", "DeployError", "MeasurementError", "OutputError"]


class MeasurementError(DeployError):
    """Something that cannot be measured here, or results that cannot be compared."""


class OutputError(DeployError):
    """A place to write to that cannot be written."""
