"""Find the model that a name or path means, and read what its description says, without torch."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.runtime.manifest import read_manifest
from primesvt_deploy.edge.runtime.steps import InputSteps, steps_from_dict
from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.described_weights import MODEL_FILE, read_description
from primesvt_deploy.model.reference_models import model_names, models_root

__all__ = ["OWN", "KnownModel", "find_model", "known_model", "read_model_toml",
           "refuse_superfluous"]  # fmt: skip

OWN = "own"
"""Family of a module of the user's own class, in a description."""


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model before it is loaded: its name, and all that a data set must fit.

    Args:
        name: for messages.
        labels: class names in the order of the logits; None: not known yet.
        preprocessing: steps from an image to its input; None: not known yet.
        data: name of the bundled data set that it comes with, if it does.
        timesteps: T that it was trained with; None: not known yet.
    """

    name: str
    labels: tuple[str, ...] | None = None
    preprocessing: InputSteps | None = None
    data: str | None = None
    timesteps: int | None = None


def find_model(name_or_path: str | os.PathLike[str]) -> Path:
    """The directory or file of a model: a path, or a reference model's name.

    Raises:
        ModelError: there is none; the message names the nearest reference model.
    """
    path = Path(name_or_path)
    if os.fspath(name_or_path) and os.path.exists(path):  # Path("") is the current directory
        return path
    missing = f"no model {str(name_or_path)!r}"
    try:
        names = model_names()
    except ModelError as error:
        raise ModelError(f"{missing}: {error}") from error
    if isinstance(name_or_path, str) and name_or_path in names:
        return models_root() / name_or_path
    near = difflib.get_close_matches(str(name_or_path), names, 1)
    raise ModelError(
        f"{missing}{f', the nearest is {near[0]}' if near else ''}: expected a reference model "
        f"({', '.join(names)}), or the path of a checkpoint, model directory or bundle"
    )


def refuse_superfluous(path: Path, given: Sequence[str]) -> None:
    """Refuse options of a checkpoint for a directory, which has a description.

    Args:
        path: the directory.
        given: names of the options that are given, the first of which is told.

    Raises:
        ModelError: there are any.
    """
    if given:
        flag = given[0].removeprefix("num_").replace("_", "-")
        raise ModelError(f"{path.name} comes with its own description: drop --{flag}")


def read_model_toml(path: Path) -> dict[str, Any]:
    """Content of the `model.toml` in a directory.

    Raises:
        ModelError: there is none, or it is not valid.
    """
    try:
        return read_description(path)
    except FileNotFoundError as error:
        raise ModelError(
            f"{path} has neither {MODEL_FILE} nor manifest.json: pass a model directory or a bundle"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ModelError(f"{path / MODEL_FILE} is not valid TOML ({error}): mend it") from error


def known_model(path: Path, factory: str | None) -> KnownModel:
    """Read the description in a model directory or bundle.

    Args:
        path: the directory.
        factory: `module:function` that makes the model, if one is given.

    Raises:
        DeployError: the description is damaged, its weights are missing, or a factory is missing
            or superfluous.
    """
    if (path / "manifest.json").is_file():
        description, weights = read_manifest(path)["model"], path / "weights.safetensors"
    else:
        description = read_model_toml(path)
        weights = path / str(description.get("weights", ""))
    if not os.path.isfile(weights):
        raise ModelError(f"{path}: no file of weights at {weights}: correct 'weights', or copy it")
    _check_factory(path, description, factory)
    labels, steps, data = (description.get(key) for key in ("labels", "preprocessing", "data"))
    arguments = description.get("arguments")
    steps_trained = arguments.get("timesteps") if isinstance(arguments, Mapping) else None
    plain = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    return KnownModel(
        name=str(description.get("name", path.name)),
        labels=tuple(labels) if plain else None,
        preprocessing=steps_from_dict(steps) if isinstance(steps, Mapping) else None,
        data=data if isinstance(data, str) else None,
        timesteps=steps_trained if isinstance(steps_trained, int) else None,
    )


def _check_factory(path: Path, description: Mapping[str, Any], factory: str | None) -> None:
    """Refuse a model of the user's own class without its factory, and another's with one."""
    family, arguments = description.get("family"), description.get("arguments")
    if family != OWN and factory is not None:
        raise ModelError(f"{path.name} is a {family}: drop --factory")
    if family == OWN and factory is None:
        made = arguments.get("factory") if isinstance(arguments, Mapping) else None
        raise ModelError(
            f"{path} is of a class of the user's own{f', made by {made}' if made else ''}: pass "
            "--factory MODULE:FUNCTION (it is imported and called)"
        )
