"""Load a checkpoint file of upstream's training code: its family, its options, its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import FAMILIES, Family, family_named, recognise
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.model.checkpoint import Checkpoint, read_checkpoint
from primesvt_deploy.model.labels import checked_labels
from primesvt_deploy.model.preprocessing import InputOptions, input_steps
from primesvt_deploy.model.state_dict import network_with_weights
from primesvt_deploy.model.svit import SViT

__all__ = ["from_checkpoint"]

_TRAINING_ARGUMENTS = {
    "timesteps": ("T", "time_steps", "time_step", "timesteps"),
    "num_heads": ("num_heads",),
    "image_size": ("input_size", "img_size", "image_size"),
    "patch_size": ("patch_size",),
    "pooling": ("pooling_stat",),
}
"""Names of the options among the arguments of training scripts, the most trusted first."""
_REPLACES = {"patch_size": "pooling", "pooling": "patch_size", "stage_heads": "num_heads"}
"""Stored options that are not used where the user gives another, by the other's name."""


def from_checkpoint(
    path: Path,
    family: str | None,
    given: Mapping[str, Any],
    inputs: InputOptions,
    labels: Sequence[str] | None,
    *,
    ema: bool,
) -> SViT:
    """Load a checkpoint file.

    Args:
        path: safetensors or torch; nothing in it is executed.
        family: the family's name; None: its keys or metadata show it.
        given: fields of `ModelOptions` that the user gives.
        inputs: preprocessing that the user chooses.
        labels: class names in the order of the logits; None: numbers.
        ema: read the exponential moving average of the weights.

    Raises:
        ModelError: the file cannot be read, is of no known family or does not fit it, an option
            is missing, wrong or means nothing for the family.
    """
    checkpoint = read_checkpoint(path, ema=ema)
    kind = _choose_family(path, checkpoint, family)
    options = ModelOptions(**{**_stored_options(kind, checkpoint.arguments, given), **given})
    try:
        config, state = kind.convert(checkpoint.state, options)
        kind.check_options(given)
    except ModelError as error:
        raise ModelError(f"{path}, read as {kind.name}: {error}") from error
    return SViT(
        name=path.name.split(".")[0],
        family=kind,
        config=config,
        module=network_with_weights(kind, config, state, path),
        preprocessing=input_steps(kind.inputs, config, inputs),
        labels=checked_labels(labels, config.num_classes, path),
    )


def _stored_options(
    family: Family, arguments: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Options among the training script's arguments, except those that the user's replace."""
    replaced = {*given, *(_REPLACES[name] for name in given if name in _REPLACES)}
    found: dict[str, Any] = {}
    for option, names in _TRAINING_ARGUMENTS.items():
        value = next((arguments[n] for n in names if arguments.get(n) is not None), None)
        fits = isinstance(value, str) if option == "pooling" else type(value) is int
        if fits:
            found[option] = value
    found.update(family.stored_options(arguments))
    return {option: value for option, value in found.items() if option not in replaced}


def _choose_family(path: Path, checkpoint: Checkpoint, name: str | None) -> Family:
    keys = checkpoint.state.keys()
    found = recognise(keys, checkpoint.arguments)
    first = ", ".join(sorted(keys)[:3])
    name = name or checkpoint.metadata.get("family")
    if name is None:
        if found is None:
            names = ", ".join(family.name for family in FAMILIES)
            near = next((f for f in FAMILIES if _missing_head(f, keys)), None)
            like = f"; they look like {near.name}{_missing_head(near, keys)}" if near else ""
            raise ModelError(
                f"{path}: its keys ({first}, ...) are those of no known family ({names}){like}"
            )
        return found
    wanted = family_named(name)
    if not wanted.recognises(keys):
        like = f"look like {found.name}" if found else "are those of no known family"
        raise ModelError(
            f"{path} is not a {name}: its {len(keys)} keys ({first}, ...) {like}"
            f"{_missing_head(wanted, keys)}"
        )
    return wanted


def _missing_head(family: Family, keys: Set[str]) -> str:
    """Ending of a message about keys that would be the family's with a classifier; else empty."""
    for head in ("head.weight", "classifier.weight"):
        if head not in keys and family.recognises({*keys, head}):
            return f", and {head} is missing: expected a classifier's whole checkpoint"
    return ""
