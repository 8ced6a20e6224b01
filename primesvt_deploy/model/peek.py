"""Names of the tensors in a checkpoint file, read without torch and without the tensors.

Enough to say in a second what is missing. Whether the file is sound is decided when it is read
(`checkpoint.py`): what is unusual here is left to that.
"""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from primesvt_deploy.edge.runtime.checked_json import parse_json
from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.pickle_calls import DICTS, Made, NeedsCode, Refused
from primesvt_deploy.model.pickle_check import Follower
from primesvt_deploy.model.source import open_checkpoint
from primesvt_deploy.model.training_arguments import ARGUMENT_ENTRIES
from primesvt_deploy.model.zip_check import ZipDamaged, members_of

__all__ = ["Peeked", "peek"]

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_PICKLES_BEFORE = 3
"""In an older torch file: magic number, version, machine; then the content."""
_MOST_HEADER = 100 * 2**20
"""Most bytes of a header of safetensors, as its library reads."""
_USUAL = ("state_dict", "model", "module")
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_OTHERS = {
    b"\x89HDF": "an HDF5 file",
    b"\x93NUM": "a numpy array",
    b"%PDF": "a PDF file",
    b"\x1f\x8b": "gzip data",
    b"BZh": "bzip2 data",
    b"\xfd7zX": "xz data",
    b"\x28\xb5\x2f\xfd": "zstd data",
    b"<": "a web page",
    b"version https://git-lfs": "a pointer of Git LFS, not the file",
}


@dataclass(frozen=True)
class Peeked:
    """Names in a checkpoint file.

    Args:
        keys: of the one state_dict in it, without a wrapper's prefix; empty: it is not clear
            which, or not to be read without torch.
        arguments: whether training arguments may stand beside it.
        family: that its metadata name.
    """

    keys: tuple[str, ...] = ()
    arguments: bool = True
    family: str | None = None


def peek(path: Path) -> Peeked:
    """The names in a checkpoint file.

    Raises:
        ModelError: there is no such file, it cannot be read, or it is of another kind.
    """
    with open_checkpoint(path) as file:
        begun = file.read(64)
        size = file.seek(0, 2)
        file.seek(0)
        if not begun:
            raise ModelError(f"{path} is empty: copy it again")
        if begun.startswith(_ZIP):
            return _of_zip(file, path, size)
        if begun.startswith(_PICKLE):
            return _of_pickle(file, size)
        length = int.from_bytes(begun[:8], "little")
        if begun[8:9] == b"{" and length <= min(size - 8, _MOST_HEADER):
            return _of_safetensors(file, length)
    if path.suffix.lower() == ".safetensors":
        return Peeked()  # damaged: said as it is read
    found = next((kind for start, kind in _OTHERS.items() if begun.startswith(start)), None)
    raise ModelError(
        f"{path} is no checkpoint of safetensors or torch"
        + (f" but {found}" if found else f": it begins with {begun[:8]!r}")
        + ": pass the file of a trained model's weights"
    )


def _of_safetensors(file: BinaryIO, length: int) -> Peeked:
    file.seek(8)
    try:
        header = parse_json(file.read(length))
    except ValueError:
        return Peeked()
    if not isinstance(header, dict):
        return Peeked()
    metadata = header.pop("__metadata__", None)
    family = metadata.get("family") if isinstance(metadata, dict) else None
    return Peeked(
        _unwrapped(header), arguments=False, family=family if type(family) is str else None
    )


def _of_zip(file: BinaryIO, path: Path, size: int) -> Peeked:
    if _is_npz(file):
        raise ModelError(
            f"{path} holds arrays of numpy (.npz), expected a checkpoint of safetensors or "
            "torch: is it the data set? Pass that as --data"
        )
    try:
        members = members_of(file, size)
    except ZipDamaged:
        return Peeked()
    if "data.pkl" not in members.infos:
        return Peeked()
    try:
        content = Follower(members.read("data.pkl"), members.storages, size).follow()
    except (Refused, NeedsCode, ZipDamaged):
        return Peeked()
    return _of_content(content)


def _is_npz(file: BinaryIO) -> bool:
    file.seek(0)
    try:
        return all(name.endswith(".npy") for name in zipfile.ZipFile(file).namelist())
    except Exception:  # damaged lists raise nearly everything
        return False


def _of_pickle(file: BinaryIO, size: int) -> Peeked:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        follower = Follower(content, None, size)
        try:
            for _ in range(_PICKLES_BEFORE):
                follower.follow()
            return _of_content(follower.follow())
        except (Refused, NeedsCode):
            return Peeked()


def _of_content(content: Any) -> Peeked:
    """Names in a torch file that is one state_dict, or holds one of a usual name; else none."""
    arguments = False
    for _ in range(len(_USUAL)):
        entries = _entries(content)
        if entries and all(_is_tensor(value) for value in entries.values()):
            return Peeked(_unwrapped(entries), arguments=arguments)
        inside = [name for name in _USUAL if _entries(entries.get(name))]
        if len(inside) != 1:
            break
        arguments = arguments or any(name in entries for name in (*ARGUMENT_ENTRIES, "arch"))
        content = entries[inside[0]]
    return Peeked()


def _entries(content: Any) -> dict[str, Any]:
    """Entries of a dict whose names are all texts; of anything else none."""
    if not isinstance(content, Made) or content.kind not in DICTS:
        return {}
    if not all(type(key) is str for key in content.keys):
        return {}
    return dict(zip(content.keys, content.values, strict=True))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Made) and value.kind == "tensor"


def _unwrapped(names: Iterable[str]) -> tuple[str, ...]:
    """Names without the prefixes of wrappers that all of them have."""
    found = tuple(names)
    for prefix in _WRAPPERS:
        if found and all(name.startswith(prefix) for name in found):
            return _unwrapped(name.removeprefix(prefix) for name in found)
    return found
