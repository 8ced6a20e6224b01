"""From a name, a model directory, a bundle or a checkpoint file to an `SViT`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from primesvt_deploy.checkpoint import read_checkpoint
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import FAMILIES, Family, family_named, recognise
from primesvt_deploy.families.base import FamilyConfig, ModelOptions
from primesvt_deploy.model import SViT
from primesvt_deploy.resources import model_directories, models_root
from primesvt_deploy.runtime.bundle import read_manifest
from primesvt_deploy.runtime.preprocess import Preprocessing

__all__ = ["DEFAULT_MODEL", "describe", "load", "model_names"]

DEFAULT_MODEL = "spikformer-2-192-cifar10"

_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def model_names() -> tuple[str, ...]:
    """Names of the reference models that come with the package."""
    return tuple(path.name for path in model_directories())


def load(
    name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    family: str | None = None,
    timesteps: int | None = None,
    num_heads: int | None = None,
    image_size: int | None = None,
    patch_size: int | None = None,
    tau: float | None = None,
    v_threshold: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    labels: Sequence[str] | None = None,
) -> SViT:
    """Load a trained SViT.

    Args:
        name_or_path: a reference model's name, a directory with `model.toml`, a bundle, or a
            checkpoint file (safetensors or torch; nothing in it is executed).
        family: the family's name, where the keys do not tell.
        timesteps: T; demanded for a checkpoint file.
        num_heads: attention heads; likewise.
        image_size: height and width of the square input, pixels; likewise.
        patch_size: input pixels per token side; likewise.
        tau: as SpikingJelly's constructor takes it, where the model was made with one.
        v_threshold: likewise.
        mean: per channel, of inputs in [0, 1]; default: CIFAR-10's up to 64 px, else ImageNet's.
        std: likewise.
        labels: class names in the order of the logits; default: `0`, `1`, ...

    Raises:
        ModelError: whatever is wrong with the file or the arguments, in one line.
    """
    options = ModelOptions(
        timesteps=timesteps,
        num_heads=num_heads,
        image_size=image_size,
        patch_size=patch_size,
        tau=tau,
        v_threshold=v_threshold,
    )
    path = _resolve(name_or_path)
    if path.is_dir():
        given = [key for key, value in vars(options).items() if value is not None]
        given += [k for k, v in (("mean", mean), ("std", std), ("labels", labels)) if v is not None]
        if family is not None or given:
            first = "family" if family is not None else given[0].removeprefix("num_")
            raise ModelError(
                f"{path.name} says itself what it is: drop --{first.replace('_', '-')}"
            )
        return _load_bundle(path) if (path / "manifest.json").is_file() else _load_directory(path)
    state, metadata = read_checkpoint(path)
    kind = _choose_family(path, set(state), family or metadata.get("family"))
    config, converted = kind.convert(state, options)
    return SViT(
        name=path.name.split(".")[0],
        family=kind,
        config=config,
        module=_filled(kind, config, converted, path),
        preprocessing=_default_preprocessing(config, mean, std),
        labels=_checked_labels(labels, config, path),
    )


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


def _load_directory(path: Path) -> SViT:
    try:
        description = tomllib.loads((path / "model.toml").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path} has neither model.toml nor manifest.json: pass a model directory or a bundle"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"{path / 'model.toml'} is not valid TOML ({error}): mend it") from error
    return _described(description, path, path / str(description.get("weights", "")))


def _load_bundle(path: Path) -> SViT:
    manifest = read_manifest(path)
    return _described(manifest["model"], path, path / "weights.safetensors")


def _described(description: Mapping[str, Any], path: Path, weights: Path) -> SViT:
    """A model from its description: keys name, family, arguments, preprocessing, labels."""
    try:
        kind = family_named(description["family"])
        arguments, labels = description["arguments"], description["labels"]
        preprocessing = Preprocessing.from_dict(description["preprocessing"])
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
    state, _ = read_checkpoint(weights)
    if not _is_native(state) and kind.recognises(set(state)):
        _, state = kind.convert(state, _options_of(config))
    return SViT(
        name=name,
        family=kind,
        config=config,
        module=_filled(kind, config, state, weights),
        preprocessing=preprocessing,
        labels=_checked_labels(labels, config, path),
        data=description.get("data"),
    )


def _is_native(state: Mapping[str, torch.Tensor]) -> bool:
    return any(key.endswith(".conv.weight") for key in state)


def _options_of(config: FamilyConfig) -> ModelOptions:
    values = config.to_dict()
    return ModelOptions(**{k: values[k] for k in ModelOptions.__dataclass_fields__ if k in values})


def _choose_family(path: Path, keys: set[str], name: str | None) -> Family:
    found = recognise(keys)
    first = ", ".join(sorted(keys)[:3])
    if name is None:
        if found is None:
            known = ", ".join(family.name for family in FAMILIES)
            raise ModelError(
                f"{path}: its keys ({first}, ...) are those of no known family ({known})"
            )
        return found
    wanted = family_named(name)
    if not wanted.recognises(keys):
        like = f"look like {found.name}" if found else "are those of no known family"
        raise ModelError(f"{path} is not a {name}: its {len(keys)} keys ({first}, ...) {like}")
    return wanted


def _filled(
    kind: Family, config: FamilyConfig, state: Mapping[str, torch.Tensor], path: Path
) -> nn.Module:
    """A module with these weights, float32, evaluation mode; refuses any mismatch."""
    module = kind.build(config)
    expected = module.state_dict()
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    if missing or unexpected:
        raise ModelError(
            f"{path} does not fit this {kind.name}: {_listed('missing', missing)}; "
            f"{_listed('unexpected', unexpected)}"
        )
    wrong = [k for k in expected if expected[k].shape != state[k].shape]
    if wrong:
        key = wrong[0]
        raise ModelError(
            f"{path}: {key} is {list(state[key].shape)}, expected {list(expected[key].shape)} "
            f"({len(wrong)} shapes differ): check image size, heads and family"
        )
    state = {k: v.to(expected[k].dtype) for k, v in state.items()}
    broken = [k for k, v in state.items() if not v.isfinite().all()]
    if broken:
        raise ModelError(f"{path}: {broken[0]} holds NaN or infinity: use another checkpoint")
    module.load_state_dict(state)
    return module.eval()


def _listed(what: str, keys: Sequence[str]) -> str:
    return f"{len(keys)} keys {what}" + (f" ({', '.join(keys[:10])})" if keys else "")


def _default_preprocessing(
    config: FamilyConfig, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preprocessing:
    channels, height, width = config.input_shape
    defaults = _CIFAR if height <= 64 else _IMAGENET
    if channels != 3:
        raise ModelError(f"the model takes {channels} channels: only RGB images (3) are supported")
    return Preprocessing(
        height=height,
        width=width,
        resize=height,
        interpolation="bicubic",
        mean=tuple(defaults[0] if mean is None else mean),
        std=tuple(defaults[1] if std is None else std),
    )


def _checked_labels(
    labels: Sequence[str] | None, config: FamilyConfig, path: Path
) -> tuple[str, ...]:
    names = tuple(labels) if labels else tuple(str(i) for i in range(config.num_classes))
    if len(names) != config.num_classes:
        raise ModelError(
            f"{path}: {len(names)} labels for a model of {config.num_classes} classes: give one "
            "a class"
        )
    return names


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
