"""Files of weights whose model is described: beside them, or as a reference model's own file is.

Such a file says nothing of timesteps, heads or classes itself, and needs no flag all the same.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primesvt_deploy.edge.runtime.bundle import file_digest, open_bundle
from primesvt_deploy.edge.runtime.files import open_regular, read_regular
from primesvt_deploy.errors import DeployError, ModelError
from primesvt_deploy.model.reference_models import model_names, models_root

if TYPE_CHECKING:
    from primesvt_deploy.model.svit import SViT

__all__ = ["MODEL_FILE", "check_agreement", "described_in", "read_description"]

MODEL_FILE = "model.toml"
"""The file that describes a model, in the directory of its weights."""
_BUNDLE_WEIGHTS = "weights.safetensors"
_MOST_BYTES = 2**20
"""Most bytes of a `model.toml`."""


def read_description(directory: Path) -> dict[str, Any]:
    """Parsed `model.toml` of a directory.

    Raises:
        OSError, ValueError, RecursionError: it is missing, too large, or no TOML.
    """
    content = read_regular(directory / MODEL_FILE, most=_MOST_BYTES)
    return tomllib.loads(content.decode("utf-8"))


def described_in(path: Path) -> Path | None:
    """The directory that describes the model of a file of weights; None: nothing does.

    That is the model directory or the bundle whose own weights it is, or the directory of a
    reference model whose file has the same bytes.
    """
    parent = path.parent
    if _weights_of(parent) == path or (path.name == _BUNDLE_WEIGHTS and _is_bundle(parent)):
        return parent
    try:
        references = [models_root() / name for name in model_names()]
    except ModelError:
        return None
    weights = ((directory, _weights_of(directory)) for directory in references)
    return next((directory for directory, file in weights if file and _same(path, file)), None)


def check_agreement(model: SViT, path: Path, given: Mapping[str, Any]) -> None:
    """Refuse an option that contradicts a model's description.

    Args:
        model: as it is described.
        path: the file of its weights that the user named, for the message.
        given: options of `load` that say what a checkpoint is, without those that are None.

    Raises:
        ModelError: one says something else than the description.
    """
    described = {**vars(model.preprocessing), **vars(model.config), "family": model.family.name}
    for name, value in given.items():
        found = described.get(name)
        if found is not None and _plain(value) != _plain(found):
            flag = name.removeprefix("num_").replace("_", "-")
            raise ModelError(
                f"{path} comes with its own description, in which --{flag} is {found}, not "
                f"{value}: drop --{flag}"
            )


def _plain(value: Any) -> Any:
    """A value that equals another of the same numbers, whatever sequence holds them."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _weights_of(directory: Path) -> Path | None:
    """The file of weights that a directory's description names; None where it has none."""
    try:
        description = read_description(directory)
    except (OSError, ValueError, RecursionError):
        return None
    name = description.get("weights")
    ours = isinstance(name, str) and bool(name) and "family" in description
    return directory / str(name) if ours else None


def _is_bundle(directory: Path) -> bool:
    try:
        open_bundle(directory)
    except DeployError:
        return False
    return True


def _same(path: Path, reference: Path) -> bool:
    """Whether two files have the same bytes; the sizes first, as most files differ in them."""
    try:
        with open_regular(path) as file:
            alike = os.fstat(file.fileno()).st_size == reference.stat().st_size
        return alike and file_digest(path) == file_digest(reference)
    except (OSError, ValueError):
        return False
