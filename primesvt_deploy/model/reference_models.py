"""Reference models and data that come with the package: their names, and where they lie.

They lie in the wheel, or in a source checkout.
"""

from __future__ import annotations

from pathlib import Path

from primesvt_deploy.errors import ModelError

__all__ = ["DEFAULT_MODEL", "bundled_data", "model_names", "models_root"]

DEFAULT_MODEL = "spikformer-2-192-cifar10-12epochs"
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


def model_names() -> tuple[str, ...]:
    """Names of the reference models, sorted.

    Raises:
        ModelError: the installation lacks them.
    """
    return tuple(sorted(path.parent.name for path in models_root().glob("*/model.toml")))


def bundled_data(name: str) -> Path:
    """The file (.npz) of the bundled data set called `name`.

    Raises:
        ModelError: the installation lacks bundled data.
    """
    return models_root() / "data" / f"{name}.npz"
