"""Read a checkpoint file's tensors and training arguments without running any code from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

from primesvt_deploy.errors import ModelError, first_line
from primesvt_deploy.model.accuracy_record import recorded_accuracy
from primesvt_deploy.model.container import Weights, find_weights
from primesvt_deploy.model.source import Source, checked_sha256, open_checkpoint, source_of
from primesvt_deploy.model.torch_file import read_torch
from primesvt_deploy.model.training_arguments import ARGUMENT_ENTRIES, training_arguments

__all__ = ["Checkpoint", "read_checkpoint"]

_MOST_NAME = 1000
"""Most characters of a tensor's name."""
_REPEATED, _SLACK = 8, 64 * 2**20
"""A state_dict may be so many times what is stored of it, and so many bytes; tied layers are."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file.

    Args:
        state: the state_dict, under the keys that it is stored under.
        source: the file itself.
        arguments: arguments of the training script, where the file has them.
        metadata: metadata of a safetensors file.
        ignored: names of entries among the tensors that are none, such as an epoch.
        others: values of `--key` that choose other models' weights.
        accuracy: top-1, percent, that the training script stored; None: none.
    """

    state: Mapping[str, torch.Tensor]
    source: Source
    arguments: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    accuracy: float | None = None


def read_checkpoint(
    path: Path, *, ema: bool = False, key: str | None = None, sha256: str | None = None
) -> Checkpoint:
    """Read the checkpoint at `path`.

    Reads safetensors, and torch files with `weights_only=True`: a bare state_dict, or one in
    containers, see `find_weights`.

    Args:
        path: the file.
        ema: read an average of the weights.
        key: see `find_weights`; in safetensors a prefix.
        sha256: of the file, 64 hexadecimal digits; a file with another is not read further.

    Raises:
        ModelError: the file is missing, damaged or not a state_dict, it is a pickle that needs
            code to load, or it is not clear which of several state_dicts to read.
    """
    checked_sha256(sha256)
    with open_checkpoint(path) as file:
        source = source_of(file, path, sha256)
        if _is_safetensors(file, path, source.bytes):
            return _of_safetensors(path, source, ema=ema, key=key)
        content = read_torch(file, path, source.bytes, trusted=sha256 is not None)
    weights = _weights(content, path, ema=ema, key=key)
    _check_plain(weights.state, path)
    arguments = training_arguments(content, weights.path)
    return Checkpoint(
        weights.state,
        source,
        arguments=arguments,
        ignored=tuple(name for name in weights.ignored if name not in ARGUMENT_ENTRIES),
        others=weights.others,
        accuracy=recorded_accuracy(content, weights.path, arguments),
    )


def _is_safetensors(file: BinaryIO, path: Path, size: int) -> bool:
    """Whether a file is one of safetensors by its beginning, or, damaged there, by its name."""
    begun = file.read(9)
    file.seek(0)
    if begun[:2] in (b"PK", b"\x80\x02"):
        return False
    length = int.from_bytes(begun[:8], "little")
    header = len(begun) == 9 and begun[8:] == b"{" and length <= size - 8
    return header or path.suffix.lower() == ".safetensors"


def _of_safetensors(path: Path, source: Source, *, ema: bool, key: str | None) -> Checkpoint:
    state, metadata = _read_safetensors(path)
    if not state:
        raise ModelError(f"{path} holds no tensors: expected a trained model's state_dict")
    _check_plain(state, path)
    if ema or key is not None:
        state = _weights(state, path, ema=ema, key=key).state
    return Checkpoint(state, source, metadata=metadata)


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # SafetensorError, and what torch says of shapes and types
        raise ModelError(
            f"{path} is not a whole safetensors file ({first_line(error)}): copy it again"
        ) from error


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
    stored: dict[int, int] = {}
    needed = 0
    for key, tensor in state.items():
        if len(key) > _MOST_NAME:
            raise ModelError(f"{path}: a tensor's name has {len(key)} characters: shorten it")
        if kind := _kind(tensor):
            raise ModelError(f"{path}: {key} is a {kind} tensor, expected a dense one")
        storage = tensor.untyped_storage()
        if tensor.numel() * tensor.element_size() > _REPEATED * storage.nbytes() + _SLACK:
            raise ModelError(
                f"{path}: {key} is {list(tensor.shape)}, but the file holds "
                f"{storage.nbytes()} bytes of it: save a copy (tensor.clone())"
            )
        stored[storage.data_ptr()] = storage.nbytes()
        needed += tensor.numel() * tensor.element_size()
    held = sum(stored.values())
    if needed > _REPEATED * held + _SLACK:
        raise ModelError(
            f"{path}: its tensors have {needed} bytes, but the file holds {held} bytes of them: "
            "save copies (tensor.clone())"
        )


def _kind(tensor: torch.Tensor) -> str:
    """Kind of a tensor that is no array of numbers; "": it is one."""
    return (
        "nested" if tensor.is_nested
        else "sparse" if tensor.layout is not torch.strided
        else "quantized" if tensor.is_quantized
        else "meta" if tensor.is_meta
        else ""
    )  # fmt: skip
