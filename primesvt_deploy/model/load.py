"""From a name, a model directory, a bundle or a checkpoint file to an `SViT`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from primesvt_deploy.edge.runtime.bundle import read_manifest
from primesvt_deploy.edge.runtime.steps import steps_from_dict
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import FAMILIES, Family, family_named, recognise
from primesvt_deploy.families.adopted import AdoptedConfig, AdoptedNetwork
from primesvt_deploy.families.base import ModelOptions, TrackedOptions
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.model.adopt import OWN, adopted_again, check_neurons
from primesvt_deploy.model.checkpoint import Checkpoint, read_checkpoint
from primesvt_deploy.model.preprocessing import InputOptions, checked_labels, input_steps
from primesvt_deploy.model.reference import model_directories, models_root
from primesvt_deploy.model.state_dict import filled
from primesvt_deploy.model.svit import SViT

__all__ = ["DEFAULT_MODEL", "describe", "load", "model_names"]

DEFAULT_MODEL = "spikformer-2-192-cifar10-12epochs"

_ARGUMENTS = {
    "timesteps": ("T", "time_steps", "time_step", "timesteps"),
    "num_heads": ("num_heads",),
    "image_size": ("input_size", "img_size", "image_size"),
    "patch_size": ("patch_size",),
    "pooling": ("pooling_stat",),
}
"""What training scripts call the options, in the order in which they are believed."""
_COVERS = {"patch_size": "pooling", "pooling": "patch_size", "stage_heads": "num_heads"}


def model_names() -> tuple[str, ...]:
    """Names of the reference models that come with the package."""
    return tuple(path.name for path in model_directories())


def load(
    name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    family: str | None = None,
    factory: str | None = None,
    ema: bool = False,
    labels: Sequence[str] | None = None,
    **options: Any,
) -> SViT:
    """Load a trained SViT.

    Args:
        name_or_path: a reference model's name, a directory with `model.toml`, a bundle, or a
            checkpoint file (safetensors or torch; nothing in it is executed).
        family: the family's name, where the keys do not tell.
        factory: `module:function` that makes the model, for a bundle of a user's own class
            (see `own.adopt` for its checkpoints); it is imported and called.
        ema: read a torch checkpoint's exponential moving average.
        labels: class names in the order of the logits; default: `0`, `1`, ...
        options: the fields of `ModelOptions` (what weights do not tell: `timesteps`,
            `num_heads`, `image_size`, ...) and of `InputOptions` (`mean`, `std`, `resize`,
            `interpolation`), for a checkpoint file alone; None where not said.

    Raises:
        ModelError: whatever is wrong with the file or the arguments, in one line.
    """
    told = {name: value for name, value in options.items() if value is not None}
    path = _resolve(name_or_path)
    if path.is_dir():
        extra = {"family": family, "ema": ema or None, "labels": labels}
        given = [*(k for k, v in extra.items() if v is not None), *told]
        if given:
            flag = given[0].removeprefix("num_").replace("_", "-")
            raise ModelError(f"{path.name} says itself what it is: drop --{flag}")
        bundle = (path / "manifest.json").is_file()
        return _load_bundle(path, factory) if bundle else _load_directory(path, factory)
    if factory is not None:
        raise ModelError(f"{path} is a file of weights: adopt() takes it with its factory")
    known = {field.name for field in fields(ModelOptions)}
    inputs = {field.name for field in fields(InputOptions)}
    unknown = sorted(told.keys() - known - inputs)
    if unknown:
        raise TypeError(f"load() has no option {unknown[0]!r}: expected {sorted(known | inputs)}")
    return _load_file(
        path,
        family,
        {k: v for k, v in told.items() if k in known},
        InputOptions(**{k: v for k, v in told.items() if k in inputs}),
        labels,
        ema=ema,
    )


def _load_file(
    path: Path,
    family: str | None,
    told: Mapping[str, Any],
    inputs: InputOptions,
    labels: Sequence[str] | None,
    *,
    ema: bool,
) -> SViT:
    checkpoint = read_checkpoint(path, ema=ema)
    kind = _choose_family(path, checkpoint, family)
    options = TrackedOptions(**{**_stored(checkpoint.arguments, told), **told})
    try:
        config, state = kind.convert(checkpoint.state, options)
        options.require_use(told, kind.name)
    except ModelError as error:
        raise ModelError(f"{path}, read as {kind.name}: {error}") from error
    return SViT(
        name=path.name.split(".")[0],
        family=kind,
        config=config,
        module=filled(kind, config, state, path),
        preprocessing=input_steps(kind.inputs, config, inputs),
        labels=checked_labels(labels, config.num_classes, path),
    )


def _stored(arguments: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """What the training script was called with, as options; what the user told stands for more.

    A patch size told says how the stem pools, heads told for each stage say the heads.
    """
    covered = {*told, *(_COVERS[name] for name in told if name in _COVERS)}
    found: dict[str, Any] = {}
    for option, names in _ARGUMENTS.items():
        value = next((arguments[n] for n in names if arguments.get(n) is not None), None)
        fits = isinstance(value, str) if option == "pooling" else type(value) is int
        if fits and option not in covered:
            found[option] = value
    return found


def _resolve(name_or_path: str | os.PathLike[str]) -> Path:
    path = Path(name_or_path)
    if path.exists():
        return path
    bundled = models_root() / path
    if isinstance(name_or_path, str) and len(path.parts) == 1 and bundled.is_dir():
        return bundled
    raise ModelError(
        f"no model {str(name_or_path)!r}: expected a reference model ({', '.join(model_names())}),"
        " or the path of a checkpoint, model directory or bundle"
    )


def _load_directory(path: Path, factory: str | None) -> SViT:
    try:
        description = tomllib.loads((path / "model.toml").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path} has neither model.toml nor manifest.json: pass a model directory or a bundle"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"{path / 'model.toml'} is not valid TOML ({error}): mend it") from error
    return _described(description, path, path / str(description.get("weights", "")), factory)


def _load_bundle(path: Path, factory: str | None) -> SViT:
    manifest = read_manifest(path)
    model = _described(manifest["model"], path, path / "weights.safetensors", factory)
    if isinstance(model.module, AdoptedNetwork):
        check_neurons(model.module, manifest.get("neurons", ()), str(factory))
    return model


def _described(
    description: Mapping[str, Any], path: Path, weights: Path, factory: str | None
) -> SViT:
    """A model from its description: keys name, family, arguments, preprocessing, labels."""
    try:
        kind = OWN if description["family"] == OWN.name else family_named(description["family"])
        arguments, labels = description["arguments"], description["labels"]
        preprocessing = steps_from_dict(description["preprocessing"])
        name = str(description["name"])
    except KeyError as error:
        raise ModelError(
            f"{path}: the model's description has no {error.args[0]!r}: add it"
        ) from error
    if not isinstance(arguments, Mapping):
        raise ModelError(f"{path}: arguments is {arguments!r}, expected a table of names, values")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ModelError(f"{path}: labels is {labels!r}, expected a list of class names")
    config = kind.config_from_dict(arguments)
    shape = (preprocessing.height, preprocessing.width)
    if shape != config.input_shape[1:]:
        raise ModelError(
            f"{path}: preprocessing gives images of {list(shape)} pixels, the model takes "
            f"{list(config.input_shape[1:])}: make height, width and image_size agree"
        )
    if not weights.is_file():
        raise ModelError(f"{path}: no file of weights at {weights}: correct 'weights', or copy it")
    state: Mapping[str, torch.Tensor] = read_checkpoint(weights).state
    if kind.recognises(state.keys()):
        _, state = kind.convert(state, _options_of(config))
    if isinstance(config, AdoptedConfig):
        module: SpikingNetwork = _adopted(config, factory, state, path)
    elif factory is not None:
        raise ModelError(f"{path.name} is a {kind.name}: drop --factory")
    else:
        module = filled(kind, config, state, weights)
    return SViT(
        name=name,
        family=kind,
        config=config,
        module=module,
        preprocessing=preprocessing,
        labels=checked_labels(labels, config.num_classes, path),
        data=description.get("data"),
    )


def _adopted(
    config: AdoptedConfig, factory: str | None, state: Mapping[str, torch.Tensor], path: Path
) -> SpikingNetwork:
    if factory is None:
        said = f", made by {config.factory}" if config.factory else ""
        raise ModelError(
            f"{path} is of a class of the user's own{said}: pass --factory MODULE:FUNCTION (it is "
            "imported and called)"
        )
    return adopted_again(config, factory, state, path)


def _options_of(config: NetworkConfig) -> ModelOptions:
    values = vars(config)
    return ModelOptions(**{k: values[k] for k in ModelOptions.__dataclass_fields__ if k in values})


def _choose_family(path: Path, checkpoint: Checkpoint, name: str | None) -> Family:
    keys = checkpoint.state.keys()
    found = recognise(keys)
    first = ", ".join(sorted(keys)[:3])
    name = name or checkpoint.metadata.get("family")
    if name is None:
        if found is None:
            known = ", ".join(family.name for family in FAMILIES)
            near = next((f for f in FAMILIES if _without_head(f, keys)), None)
            like = f"; they look like {near.name}{_without_head(near, keys)}" if near else ""
            raise ModelError(
                f"{path}: its keys ({first}, ...) are those of no known family ({known}){like}"
            )
        return found
    wanted = family_named(name)
    if not wanted.recognises(keys):
        like = f"look like {found.name}" if found else "are those of no known family"
        raise ModelError(
            f"{path} is not a {name}: its {len(keys)} keys ({first}, ...) {like}"
            f"{_without_head(wanted, keys)}"
        )
    return wanted


def _without_head(family: Family, keys: Set[str]) -> str:
    """What to say of a file that would be the family's but for its classifier."""
    for head in ("head.weight", "classifier.weight"):
        if head not in keys and family.recognises({*keys, head}):
            return f", and {head} is missing: expected a classifier's whole checkpoint"
    return ""


def describe(model: SViT) -> dict[str, Any]:
    """The description from which `load` rebuilds the model, given its weights."""
    description: dict[str, Any] = {
        "name": model.name,
        "family": model.family.name,
        "arguments": model.config.to_dict(),
        "preprocessing": {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in model.preprocessing.to_dict().items()
        },
        "labels": list(model.labels),
    }
    return description | ({"data": model.data} if model.data else {})
