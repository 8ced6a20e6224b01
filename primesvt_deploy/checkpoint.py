"""Read the tensors of a checkpoint file without ever running code from it."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from primesvt_deploy.errors import ModelError

__all__ = ["read_checkpoint"]

_CONTAINERS = ("state_dict", "model", "module")


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """State_dict and metadata (empty unless safetensors has some) of a checkpoint.

    Reads safetensors, and torch files with `weights_only=True`: a bare state_dict or one inside
    `state_dict`, `model` or `module`; a `module.` prefix of every key is dropped.

    Raises:
        ModelError: missing, truncated, not a state_dict, or a pickle that needs code to load.
    """
    if not path.is_file():
        raise ModelError(f"no checkpoint file at {path}: check --checkpoint")
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
    else:
        state, metadata = _read_torch(path), {}
    if not state:
        raise ModelError(f"{path} holds no tensors: expected a trained model's state_dict")
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return state, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file ({_first_line(error)}): copy it again"
        ) from error


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, of TorchScript
            content = torch.load(path, map_location="cpu", weights_only=True)
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
        raise ModelError(
            f"{path} is truncated or no torch checkpoint ({_first_line(error)}): copy it again"
        ) from error
    return _unwrap(content, path)


def _unwrap(content: Any, path: Path) -> dict[str, torch.Tensor]:
    for key in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
