"""Read a checkpoint file's tensors and training arguments without running any code from it."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from primesvt_deploy.errors import ModelError, first_line
from primesvt_deploy.model.accuracy_record import recorded_accuracy
from primesvt_deploy.model.container import Weights, find_weights
from primesvt_deploy.model.stored_objects import STORED_OBJECTS

__all__ = ["Checkpoint", "read_checkpoint"]

_ARGUMENTS = (
    "args", "hyper_parameters", "hparams", "config", "cfg", "opt", "model_args", "model_config",
)  # fmt: skip
"""Entries in which training scripts, and Lightning, store their arguments."""
_OF_THE_MODEL = ("model", "net", "network", "model_args", "model_config")
"""Sections of arguments that are the model's."""
_OF_TRAINING = re.compile(r"(?i)loss|criterion|distill|(?:^|_)kd(?:_|$)|teacher|optim|sched")
"""Found in the names of sections that are not: their T is a temperature."""
_CONFIGURATIONS = ("easydict", "omegaconf", "yacs", "addict", "mmengine", "mmcv", "ml_collections")
"""Packages whose classes hold a configuration."""
_GLOBAL = re.compile(r"(?:GLOBAL|Unsupported class) (\S+)")


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file.

    Args:
        state: the state_dict, under the keys that it is stored under.
        arguments: arguments of the training script, where the file has them.
        metadata: metadata of a safetensors file.
        ignored: names of entries among the tensors that are none, such as an epoch.
        others: values of `--key` that choose other models' weights.
        accuracy: top-1, percent, that the training script stored; None: none.
    """

    state: Mapping[str, torch.Tensor]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    accuracy: float | None = None


def read_checkpoint(path: Path, *, ema: bool = False, key: str | None = None) -> Checkpoint:
    """Read the checkpoint at `path`.

    Reads safetensors, and torch files with `weights_only=True`: a bare state_dict, or one in
    containers, see `find_weights`.

    Args:
        path: the file.
        ema: read an average of the weights.
        key: see `find_weights`; in safetensors a prefix.

    Raises:
        ModelError: the file is missing, truncated or not a state_dict, it is a pickle that needs
            code to load, or it is not clear which of several state_dicts to read.
    """
    if not os.path.isfile(path):
        raise ModelError(f"no checkpoint file at {path}: check --checkpoint")
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
        if not state:
            raise ModelError(f"{path} holds no tensors: expected a trained model's state_dict")
        if ema or key is not None:
            state = _weights(state, path, ema=ema, key=key).state
        return Checkpoint(state, metadata=metadata)
    content = _read_torch(path)
    weights = _weights(content, path, ema=ema, key=key)
    _check_plain(weights.state, path)
    arguments = _arguments(content, weights.path)
    return Checkpoint(
        weights.state,
        arguments=arguments,
        ignored=tuple(name for name in weights.ignored if name not in _ARGUMENTS),
        others=weights.others,
        accuracy=recorded_accuracy(content, weights.path, arguments),
    )


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file ({first_line(error)}): copy it again"
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(list(STORED_OBJECTS)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, of TorchScript
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise nearly everything
        if "GLOBAL" in str(error) or "TorchScript" in str(error):
            raise ModelError(f"{path} {_needs_code(str(error))}") from error
        if isinstance(error, pickle.UnpicklingError):
            raise ModelError(
                f"{path} is damaged or no torch checkpoint, so nothing of it was loaded: copy it "
                "again, or save its state_dict with safetensors.torch.save_file"
            ) from error
        raise ModelError(f"{path} is truncated or no torch checkpoint: copy it again") from error


def _needs_code(said: str) -> str:
    """Ending of a message about a pickle of which torch's unpickler refused a class."""
    found = _GLOBAL.search(said)
    name = found.group(1)[:100] if found and found.group(1).isprintable() else ""
    held = f" (it holds a {name})" if name else ""
    advice = "save its state_dict alone, best with safetensors.torch.save_file"
    if name.partition(".")[0] in _CONFIGURATIONS:
        advice = f"there, turn the {name.rpartition('.')[2]} into a dict, or {advice}"
    return f"would need code to load{held}, so nothing of it was loaded: {advice}"


def _weights(content: Any, path: Path, *, ema: bool, key: str | None) -> Weights:
    try:
        return find_weights(content, ema=ema, key=key)
    except ModelError as error:
        said = str(error)
        raise ModelError(f"{path} {said}" if said.startswith("holds") else f"{path}: {said}") from (
            error
        )


def _check_plain(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse tensors that are no arrays of numbers, or far larger than what is stored of them."""
    for key, tensor in state.items():
        kind = (
            "nested" if tensor.is_nested
            else "sparse" if tensor.layout is not torch.strided
            else "quantized" if tensor.is_quantized
            else "meta" if tensor.is_meta
            else ""
        )  # fmt: skip
        if kind:
            raise ModelError(f"{path}: {key} is a {kind} tensor, expected a dense one")
        if tensor.numel() > max(1, tensor.untyped_storage().nbytes()):
            raise ModelError(
                f"{path}: {key} is {list(tensor.shape)}, but the file holds "
                f"{tensor.untyped_storage().nbytes()} bytes of it: save a copy (tensor.clone())"
            )


def _flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with those of sections inside them, such as `{'model': {'T': 4}}`."""
    of_others: dict[str, Any] = {}
    of_the_model: dict[str, Any] = {}
    for name, value in arguments.items():
        inner = vars(value) if isinstance(value, argparse.Namespace) else value
        if not isinstance(inner, Mapping) or _OF_TRAINING.search(str(name)):
            continue
        flat = of_the_model if name in _OF_THE_MODEL else of_others
        flat.update({str(key): each for key, each in inner.items()})
        called = inner.get("name", inner.get("type"))
        if name in _OF_THE_MODEL and isinstance(called, str):
            flat["model_name"] = called
    return {**of_others, **arguments, **of_the_model}


def _arguments(content: Any, path: Sequence[str]) -> Mapping[str, Any]:
    """Arguments of the training script; of the containers around the weights the innermost's win.

    Args:
        content: what the file holds.
        path: names of the containers around the weights.
    """
    arguments: Mapping[str, Any] = {}
    for name in (*path, None):
        if not isinstance(content, Mapping):
            break
        for entry in reversed(_ARGUMENTS):
            found = content.get(entry)
            found = vars(found) if isinstance(found, argparse.Namespace) else found
            if isinstance(found, Mapping):
                arguments = {**arguments, **_flat(found)}
        # timm stores the model's name beside its arguments, too.
        if isinstance(content.get("arch"), str):
            arguments = {**arguments, "arch": content["arch"]}
        content = None if name is None else content.get(name)
    return arguments
