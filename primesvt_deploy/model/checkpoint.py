"""Read a checkpoint file's tensors and training arguments without running any code from it."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from primesvt_deploy.errors import ModelError, first_line

__all__ = ["Checkpoint", "read_checkpoint"]

_CONTAINERS = ("state_dict", "model", "module")
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file.

    Args:
        state: the state_dict, without prefixes of wrappers.
        arguments: arguments of the training script, where the file has them.
        metadata: metadata of a safetensors file.
    """

    state: dict[str, torch.Tensor]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path, *, ema: bool = False) -> Checkpoint:
    """Read the checkpoint at `path`.

    Reads safetensors, and torch files with `weights_only=True`: a bare state_dict, or the
    containers of timm and MAE (`state_dict`, `model` or `module`, next to `args`). Prefixes that
    all keys share because the model was wrapped (`module.`, `_orig_mod.`) are dropped.

    Args:
        path: the file.
        ema: read the exponential moving average of the weights.

    Raises:
        ModelError: the file is missing, truncated or not a state_dict, it is a pickle that needs
            code to load, or it holds no averaged weights although `ema` is set.
    """
    if not path.is_file():
        raise ModelError(f"no checkpoint file at {path}: check --checkpoint")
    if path.suffix == ".safetensors":
        if ema:
            raise ModelError(f"{path} is safetensors, one state_dict: drop --ema")
        state, metadata = _read_safetensors(path)
        return Checkpoint(_unprefixed(_nonempty(state, path)), metadata=metadata)
    content = _read_torch(path)
    averaged = [key for key in _AVERAGED if _is_state(content, key)]
    if ema and not averaged:
        raise ModelError(f"{path} holds no averaged weights ({', '.join(_AVERAGED)}): drop --ema")
    weights = _unwrapped(content[averaged[0]] if ema else content)
    return Checkpoint(
        _unprefixed(_nonempty(_checked(weights, path), path)),
        arguments=_arguments(content),
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
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, of TorchScript
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise nearly everything
        if "GLOBAL" in str(error) or "TorchScript" in str(error):
            raise ModelError(
                f"{path} would need code to load, so nothing of it was loaded: save its "
                "state_dict alone, best with safetensors.torch.save_file"
            ) from error
        if isinstance(error, pickle.UnpicklingError):
            raise ModelError(
                f"{path} is damaged or no torch checkpoint, so nothing of it was loaded: copy it "
                "again, or save its state_dict with safetensors.torch.save_file"
            ) from error
        raise ModelError(f"{path} is truncated or no torch checkpoint: copy it again") from error


def _is_state(content: Any, key: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(key), Mapping)


def _unwrapped(content: Any) -> Any:
    """The state_dict inside any number of containers that training scripts put it in."""
    for key in _CONTAINERS:
        if _is_state(content, key):
            return _unwrapped(content[key])
    return content


def _arguments(content: Any) -> Mapping[str, Any]:
    found = content.get("args") if isinstance(content, Mapping) else None
    if isinstance(found, argparse.Namespace):
        return vars(found)
    return found if isinstance(found, Mapping) else {}


def _checked(content: Any, path: Path) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{path} holds a {type(content).__name__}, expected a state_dict: names and tensors"
        )
    for key, value in content.items():
        if not isinstance(key, str):
            raise ModelError(
                f"{path}: {key!r} is no name of a tensor: save the model's state_dict alone"
            )
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"{path}: {key!r} is a {type(value).__name__}, expected a tensor: "
                "save the model's state_dict alone"
            )
    return dict(content)


def _nonempty(state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    if not state:
        raise ModelError(f"{path} holds no tensors: expected a trained model's state_dict")
    return state


def _unprefixed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            return _unprefixed({key.removeprefix(prefix): t for key, t in state.items()})
    return state
