"""The description of a model, from which it is rebuilt together with its weights.

It stands in a model directory's `model.toml` and in a bundle's manifest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.edge.runtime.steps import InputSteps, steps_from_dict
from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import Family, family_named
from primesvt_deploy.families.adopted import ADOPTED, AdoptedConfig, AdoptedNetwork
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.families.options import ModelOptions
from primesvt_deploy.model.adopt import RecordedCode, rebuild_adopted
from primesvt_deploy.model.checkpoint import read_checkpoint
from primesvt_deploy.model.entries import entries_of_family
from primesvt_deploy.model.labels import checked_labels
from primesvt_deploy.model.smooth import smooth_logits
from primesvt_deploy.model.state_dict import network_with_weights
from primesvt_deploy.model.svit import SViT

__all__ = ["describe", "from_description"]


def describe(model: SViT) -> dict[str, Any]:
    """Description of a model, as plain values for TOML and JSON.

    Keys are `name`, `family`, `arguments` (of its configuration), `preprocessing`, `labels` and,
    for a bundled data set, `data`; of a module of the user's own also `logits` (`smooth_logits`),
    `code`, the digest of its recorded code, and `sizes`, the numbers in it that pruning changed.
    """
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
    if isinstance(model.module, AdoptedNetwork):
        description["logits"] = smooth_logits(model.module)
    if isinstance(model.module, AdoptedNetwork) and model.module.code:
        description["code"] = model.module.code
    if isinstance(model.module, AdoptedNetwork) and model.module.sizes:
        description["sizes"] = {
            node: {str(leaf): value for leaf, value in values.items()}
            for node, values in model.module.sizes.items()
        }
    return description | ({"data": model.data} if model.data else {})


def from_description(
    description: Mapping[str, Any], path: Path, weights: Path, factory: str | None
) -> SViT:
    """Rebuild a model from its description and its weights.

    Args:
        description: as `describe` gives it.
        path: where the description comes from, for messages.
        weights: file of weights, under our names or upstream's.
        factory: `module:function` that makes the model, if it is of a user's own class.

    Raises:
        ModelError: the description is incomplete or contradicts itself, the weights are missing
            or do not fit it, or a factory is missing or superfluous.
    """
    family = _family(description, path)
    config = family.config_from_dict(_table(description, "arguments", path))
    preprocessing = _preprocessing(description, config, path)
    labels = checked_labels(_class_names(description, path), config.num_classes, path)
    name = str(_entry(description, "name", path))
    if not os.path.isfile(weights):
        raise ModelError(f"{path}: no file of weights at {weights}: correct 'weights', or copy it")
    stored = read_checkpoint(weights)
    state: Mapping[str, torch.Tensor] = stored.state
    if not isinstance(config, AdoptedConfig):
        state, _ = entries_of_family(state, family.recognises)
    if family.recognises(state.keys()):
        _, state = family.convert(state, _options_of(config))
    if isinstance(config, AdoptedConfig):
        own = RecordedCode(
            description.get("code", ""),
            description.get("sizes", {}),
            description.get("logits", ()),
        )
        module: SpikingNetwork = _adopted(config, factory, state, own, path)
    elif factory is not None:
        raise ModelError(f"{path.name} is a {family.name}: drop --factory")
    else:
        module = network_with_weights(family, config, state, weights)
    return SViT(
        name=name,
        family=family,
        config=config,
        module=module,
        preprocessing=preprocessing,
        labels=labels,
        data=description.get("data"),
        source=stored.source,
    )


def _entry(description: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in description:
        raise ModelError(f"{path}: the model's description has no {key!r}: add it")
    return description[key]


def _family(description: Mapping[str, Any], path: Path) -> Family:
    name = _entry(description, "family", path)
    return ADOPTED if name == ADOPTED.name else family_named(name)


def _table(description: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = _entry(description, key, path)
    if not isinstance(value, Mapping):
        raise ModelError(f"{path}: {key} is {value!r}, expected a table of names, values")
    return value


def _class_names(description: Mapping[str, Any], path: Path) -> list[str]:
    labels = _entry(description, "labels", path)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ModelError(f"{path}: labels is {labels!r}, expected a list of class names")
    return labels


def _preprocessing(description: Mapping[str, Any], config: NetworkConfig, path: Path) -> InputSteps:
    steps = steps_from_dict(_entry(description, "preprocessing", path))
    shape = (steps.height, steps.width)
    if shape != config.input_shape[1:]:
        raise ModelError(
            f"{path}: preprocessing gives images of {list(shape)} pixels, the model takes "
            f"{list(config.input_shape[1:])}: make height, width and image_size agree"
        )
    if isinstance(steps, Preprocessing) and steps.channels != config.in_channels:
        raise ModelError(
            f"{path}: preprocessing has a mean of {steps.channels} channels, the model takes "
            f"{config.in_channels}: make mean, std and in_channels agree"
        )
    # An artifact may take pixels (a bundle says so here); its model takes preprocessed values.
    return replace(steps, pixels=False) if isinstance(steps, Preprocessing) else steps


def _adopted(
    config: AdoptedConfig,
    factory: str | None,
    state: Mapping[str, torch.Tensor],
    code: RecordedCode,
    path: Path,
) -> SpikingNetwork:
    if factory is None:
        maker = f", made by {config.factory}" if config.factory else ""
        raise ModelError(
            f"{path} is of a class of the user's own{maker}: pass --factory MODULE:FUNCTION (it is "
            "imported and called)"
        )
    return rebuild_adopted(config, factory, state, code, path)


def _options_of(config: NetworkConfig) -> ModelOptions:
    values = vars(config)
    return ModelOptions(**{k: values[k] for k in ModelOptions.__dataclass_fields__ if k in values})
