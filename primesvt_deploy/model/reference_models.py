"""Reference models and their data: their names, and where they lie.

They are a distribution of their own, `primesvt-deploy-models`, so that a device need not carry
them; in a source checkout they lie in `models/`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from primesvt_deploy.errors import ModelError

__all__ = ["DEFAULT_MODEL", "bundled_data", "model_names", "models_root"]

DEFAULT_MODEL = "spikformer-2-192-cifar10-12epochs"
_CHECKOUT = Path(__file__).resolve().parents[2] / "models"
_MODELS_PACKAGE = "primesvt_deploy_models"


def models_root() -> Path:
    """The directory of reference models.

    Raises:
        ModelError: they are not installed.
    """
    if (_CHECKOUT / "pyproject.toml").is_file():  # else another distribution's `models`
        return _CHECKOUT
    found = find_spec(_MODELS_PACKAGE)
    if found is None or found.origin is None:
        raise ModelError(
            "the reference models are not installed: in a checkout of primesvt-deploy run "
            "pip install ./models, or pass --checkpoint FILE and --data"
        )
    return Path(found.origin).parent


def model_names() -> tuple[str, ...]:
    """Names of the reference models, sorted.

    Raises:
        ModelError: they are not installed.
    """
    return tuple(sorted(path.parent.name for path in models_root().glob("*/model.toml")))


def bundled_data(name: str) -> Path:
    """The file (.npz) of the bundled data set called `name`.

    Raises:
        ModelError: the reference models, which have it, are not installed.
    """
    return models_root() / "data" / f"{name}.npz"
