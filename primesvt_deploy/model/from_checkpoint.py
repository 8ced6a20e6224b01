"""Load a checkpoint file of upstream's training code: its family, its options, its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import FAMILIES, Family, families_with, family_named
from primesvt_deploy.families.nearest import difference_from, nearest
from primesvt_deploy.families.options import ModelOptions, with_options
from primesvt_deploy.families.stored_arguments import Contradiction
from primesvt_deploy.model.checkpoint import Checkpoint, read_checkpoint
from primesvt_deploy.model.entries import entries_of_family, others_note, widened_note
from primesvt_deploy.model.labels import checked_labels
from primesvt_deploy.model.preprocessing import InputOptions, default_note, input_steps
from primesvt_deploy.model.state_dict import network_with_weights
from primesvt_deploy.model.supernet import refuse_supernet_keys
from primesvt_deploy.model.svit import SViT

__all__ = ["Reading", "from_checkpoint"]

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


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Choice of the weights of a file, and of what beside them counts.

    Args:
        ema: the exponential moving average of the weights.
        key: name of the weights in the file, where it holds several models'; None: find them.
        ignore_args: read them although stored arguments say another forward pass, and whatever
            accuracy the file records.
        sha256: of the file, as the user gives it; None: any.
    """

    ema: bool = False
    key: str | None = None
    ignore_args: bool = False
    sha256: str | None = None


def from_checkpoint(
    path: Path,
    family: str | None,
    given: Mapping[str, Any],
    inputs: InputOptions,
    labels: Sequence[str] | None,
    *,
    reading: Reading,
) -> SViT:
    """Load a checkpoint file.

    Args:
        path: safetensors or torch; nothing in it is executed.
        family: the family's name; None: its keys or metadata show it.
        given: fields of `ModelOptions` that the user gives.
        inputs: preprocessing that the user chooses.
        labels: class names in the order of the logits; None: numbers.
        reading: which weights of the file are read, and what beside them counts.

    Raises:
        ModelError: the file cannot be read, is of no known family or does not fit it, an option
            is missing, wrong or means nothing for the family.
    """
    stored = read_checkpoint(path, ema=reading.ema, key=reading.key, sha256=reading.sha256)
    refuse_supernet_keys(stored.state.keys(), path)
    try:
        state, note = entries_of_family(
            stored.state, lambda keys: bool(families_with(keys)), stored.ignored
        )
    except ModelError as error:
        raise ModelError(f"{path} {error}") from error
    checkpoint = replace(stored, state=state)
    kind = _choose_family(path, checkpoint, family, given)
    try:
        options = ModelOptions(**{**_stored_options(kind, checkpoint.arguments, given), **given})
        config, ours = with_options(partial(kind.convert, checkpoint.state), options)
        kind.check_options(given)
    except ModelError as error:
        raise ModelError(f"{path}, read as {kind.name}: {error}") from error
    same = _same_keys_note(kind, state.keys(), stored.arguments, named=family is not None)
    if not reading.ignore_args:
        _refuse_contradiction(path, kind, kind.contradiction(stored.arguments, config, given))
    return SViT(
        name=path.name.split(".")[0] or path.name,
        family=kind,
        config=config,
        module=network_with_weights(kind, config, ours, path),
        preprocessing=input_steps(kind.inputs, config, inputs),
        labels=checked_labels(labels, config.num_classes, path),
        recorded_accuracy=None if reading.ignore_args else stored.accuracy,
        source=stored.source,
        notes=tuple(
            filter(
                None,
                (
                    same,
                    note,
                    others_note(stored.others),
                    widened_note(state),
                    default_note(config, inputs),
                ),
            )
        ),
    )


def _refuse_contradiction(path: Path, family: Family, found: Contradiction | None) -> None:
    if found is None:
        return
    # Others mean something else by a tau of less.
    fits = found.option != "tau" or (isinstance(found.value, int | float) and found.value > 1.0)
    flag = f"--{found.option.replace('_', '-')}" if found.option and fits else ""
    value = "" if found.option == "frames" else f" {found.value}"
    settles = f"{flag}{value} if its code uses that, " if flag else ""
    raise ModelError(
        f"{path}, read as {family.name}: its stored argument {found.name} is {found.value!r}, "
        f"expected {found.expected}: is it of another network with the same keys? Pass {settles}"
        f"--factory with its own class, or --family {family.name} --ignore-args to read it so all "
        "the same"
    )


def _side(value: Any) -> Any:
    """A stored value; of a shape such as timm's `input_size`, `[3, 224, 224]`, its side."""
    if isinstance(value, list | tuple):
        square = len(value) == 3 and type(value[2]) is int and value[1] == value[2]
        return value[2] if square else None
    return value


def _stored_options(
    family: Family, arguments: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Options among the training script's arguments, except those that the user's replace."""
    replaced = {*given, *(_REPLACES[name] for name in given if name in _REPLACES)}
    found: dict[str, Any] = {}
    for option, names in _TRAINING_ARGUMENTS.items():
        kind = str if option == "pooling" else int
        stored = {n: _side(arguments[n]) for n in names if arguments.get(n) is not None}
        fitting = {name: value for name, value in stored.items() if type(value) is kind}
        if len(set(fitting.values())) > 1 and option not in replaced:
            said = " and ".join(f"{name} ({value})" for name, value in fitting.items())
            flag = option.replace("_", "-")
            raise ModelError(f"its stored arguments {said} say different things: pass --{flag}")
        if fitting:
            found[option] = next(iter(fitting.values()))
    found.update(family.stored_options(arguments))
    return {option: value for option, value in found.items() if option not in replaced}


def _same_keys_note(
    family: Family, keys: Set[str], arguments: Mapping[str, Any], *, named: bool
) -> str:
    """Note on families with the same keys, where neither the user nor the file tells; or ""."""
    if named or arguments or family.claimed_only:
        return ""
    others = [f.name for f in FAMILIES if f.claimed_only and f.recognises(keys)]
    if not others:
        return ""
    return (
        f"its keys are those of {' and '.join(others)} as well, and nothing in its file tells them "
        f"apart: pass --family if it was not trained as {family.name}"
    )


def _choose_family(
    path: Path, checkpoint: Checkpoint, name: str | None, given: Mapping[str, Any]
) -> Family:
    keys = checkpoint.state.keys()
    # Options of one family alone choose it as its stored arguments do.
    found = families_with(keys, {**checkpoint.arguments, **given})
    first = ", ".join(sorted(keys)[:3])
    name = name or checkpoint.metadata.get("family")
    if name is None:
        return _sole_family(path, keys, found)
    wanted = family_named(name)
    if not wanted.recognises(keys):
        if found:
            names = " or ".join(family.name for family in found)
            raise ModelError(
                f"{path} is not a {name}: its {len(keys)} keys ({first}, ...) look like "
                f"{names}{_missing_head(wanted, keys)}"
            )
        differs = _missing_head(wanted, keys) or f"; of {name}, {difference_from(name, keys)}"
        raise ModelError(
            f"{path} is not a {name}: its {len(keys)} keys ({first}, ...) are those of no known "
            f"family{differs}"
        )
    return wanted


def _sole_family(path: Path, keys: Set[str], found: Sequence[Family]) -> Family:
    """The family of these keys, or a ModelError where they are of none or of several."""
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(family.name for family in found)
        raise ModelError(
            f"{path}: models of {names} have the same keys and compute something else: "
            "pass --family with the one it was trained as"
        )
    first = ", ".join(sorted(keys)[:3])
    raise ModelError(
        f"{path}: its keys ({first}, ...) are those of no known family{_likeness(keys)}; "
        "for a class of your own pass --factory MODULE:FUNCTION"
    )


def _likeness(keys: Set[str]) -> str:
    """Middle of a message about keys of no family: which is the nearest, and what differs."""
    near = next((family for family in FAMILIES if _missing_head(family, keys)), None)
    if near is not None:
        return f"; they look like {near.name}{_missing_head(near, keys)}"
    closest = nearest(keys)
    return f"; {closest}" if closest else f" ({', '.join(family.name for family in FAMILIES)})"


def _missing_head(family: Family, keys: Set[str]) -> str:
    """Ending of a message about keys that would be the family's with a classifier; else empty."""
    for head in ("head.weight", "classifier.weight"):
        if head not in keys and family.recognises({*keys, head}):
            return f", and {head} is missing: expected a classifier's whole checkpoint"
    return ""
