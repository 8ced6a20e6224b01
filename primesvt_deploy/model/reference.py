"""Where the reference models and bundled data lie: in the wheel, or in a source checkout."""

from __future__ import annotations

from pathlib import Path

from primesvt_deploy.errors import ModelError

__all__ = ["bundled_data", "model_directories", "models_root"]

_PACKAGE = Path(__file__).resolve().parents[1]


def models_root() -> Path:
    """The directory of reference models.

    Raises:
        ModelError: the installation lacks it.
    """
    for root in (_PACKAGE / "models", _PACKAGE.parent / "models"):
        if root.is_dir():
            return root
    raise ModelError("this installation has no reference models: pass --checkpoint FILE")


def model_directories() -> tuple[Path, ...]:
    """Directories of the reference models, by name."""
    return tuple(sorted(path.parent for path in models_root().glob("*/model.toml")))


def bundled_data(name: str) -> Path:
    """The file of a bundled data set."""
    return models_root() / "data" / f"{name}.npz"
