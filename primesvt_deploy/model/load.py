"""Load a trained SViT: a reference model by name, a model directory, a bundle or a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.runtime.bundle import open_bundle
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.adopted import AdoptedNetwork
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.model.adoption_check import check_neurons
from primesvt_deploy.model.described_weights import check_agreement, described_in
from primesvt_deploy.model.description import from_description
from primesvt_deploy.model.from_checkpoint import Reading, from_checkpoint
from primesvt_deploy.model.labels import checked_labels
from primesvt_deploy.model.locate import find_model, read_model_toml, refuse_superfluous
from primesvt_deploy.model.preprocessing import InputOptions
from primesvt_deploy.model.reference_models import DEFAULT_MODEL
from primesvt_deploy.model.source import open_checkpoint, source_of
from primesvt_deploy.model.svit import SViT

__all__ = ["load"]


def load(
    name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    family: str | None = None,
    factory: str | None = None,
    ema: bool = False,
    key: str | None = None,
    ignore_args: bool = False,
    sha256: str | None = None,
    labels: Sequence[str] | None = None,
    **options: Any,
) -> SViT:
    """Load a trained SViT.

    Args:
        name_or_path: a reference model's name, a directory with `model.toml`, a bundle, or a
            checkpoint file (safetensors or torch; nothing in it is executed). A model directory's
            or bundle's own file of weights, or a copy of a reference model's, needs no options.
        family: the family's name, where the keys of a checkpoint do not show it.
        factory: `module:function` that makes the model, for a bundle of a user's own class
            (see `adopt` for its checkpoints); it is imported and called.
        ema: read a torch checkpoint's exponential moving average.
        key: name of the weights in a torch checkpoint that holds several models', with dots
            between levels, such as `student.state_dict`.
        ignore_args: read a checkpoint although its stored arguments say another forward pass than
            the family's, and search with it whatever accuracy it records.
        sha256: of a checkpoint file, 64 hexadecimal digits; one with another is not read.
        labels: class names in the order of the logits; default: `0`, `1`, ...
        options: fields of `ModelOptions` (which weights alone do not determine: `timesteps`,
            `num_heads`, `image_size`, ...) and of `InputOptions` (`mean`, `std`, `resize`,
            `interpolation`), for a checkpoint file alone; None where not given.

    Raises:
        ModelError: anything wrong with the file or the arguments, in one line.
        TypeError: an option of another name.
    """
    given = {name: value for name, value in options.items() if value is not None}
    path = find_model(name_or_path)
    if os.path.isdir(path):  # false for a path that no file can have, where Path.is_dir raises
        extra = {
            "family": family,
            "ema": ema or None,
            "key": key,
            "ignore_args": ignore_args or None,
            "sha256": sha256,
            "labels": labels,
        }
        refuse_superfluous(path, [*(k for k, v in extra.items() if v is not None), *given])
        bundle = (path / "manifest.json").is_file()
        return _load_bundle(path, factory) if bundle else _load_directory(path, factory)
    if factory is not None:
        raise ModelError(f"{path} is a file of weights: adopt() takes it with its factory")
    of_model = {field.name for field in fields(ModelOptions)}
    of_input = {field.name for field in fields(InputOptions)}
    unknown = sorted(given.keys() - of_model - of_input)
    if unknown:
        expected = sorted(of_model | of_input)
        raise TypeError(f"load() has no option {unknown[0]!r}: expected {expected}")
    directory = described_in(path) if not ema and key is None else None
    if directory is not None:
        named = {} if family is None else {"family": family}
        return _load_described(path, directory, {**given, **named}, labels, sha256)
    return from_checkpoint(
        path,
        family,
        {k: v for k, v in given.items() if k in of_model},
        InputOptions(**{k: v for k, v in given.items() if k in of_input}),
        labels,
        reading=Reading(ema=ema, key=key, ignore_args=ignore_args, sha256=sha256),
    )


def _load_described(
    path: Path,
    directory: Path,
    given: Mapping[str, Any],
    labels: Sequence[str] | None,
    sha256: str | None,
) -> SViT:
    """The model of a directory whose weights are those of the file at `path`."""
    with open_checkpoint(path) as file:
        source = source_of(file, path, sha256)
    model = replace(load(directory), source=source)
    check_agreement(model, path, given)
    if labels is None:
        return model
    return replace(model, labels=checked_labels(labels, model.config.num_classes, path))


def _load_directory(path: Path, factory: str | None) -> SViT:
    description = read_model_toml(path)
    weights = path / str(description.get("weights", ""))
    return from_description(description, path, weights, factory)


def _load_bundle(path: Path, factory: str | None) -> SViT:
    bundle = open_bundle(path)
    description = bundle.manifest["model"]
    model = from_description(description, path, bundle.file("weights.safetensors"), factory)
    if isinstance(model.module, AdoptedNetwork):
        check_neurons(model.module, bundle.manifest.get("neurons", ()), str(factory))
    return model
