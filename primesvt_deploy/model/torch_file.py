"""Read a torch file as data: checked first, then loaded by torch's restricted unpickler."""

from __future__ import annotations

import mmap
import pickle
import re
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch

from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.pickle_calls import NeedsCode, Refused
from primesvt_deploy.model.pickle_check import Follower
from primesvt_deploy.model.stored_objects import STORED_OBJECTS
from primesvt_deploy.model.zip_check import (
    ZipAltered,
    ZipDamaged,
    check_members,
    check_places_of_torch,
    members_of,
)

__all__ = ["read_torch"]

_ZIP = b"PK\x03\x04"
_OF_TORCHSCRIPT = "constants.pkl"
_MAGIC = 0x1950A86A20F9469CFC6C
"""Number that an older torch file begins with."""
_PICKLES = 5
"""In a file without zip: magic number, version, machine, content, keys of storages."""
_CONFIGURATIONS = ("easydict", "omegaconf", "yacs", "addict", "mmengine", "mmcv", "ml_collections")
"""Packages whose classes hold a configuration."""
_GLOBAL = re.compile(r"GLOBAL (\S+)")
_SAFE = "save its state_dict with safetensors.torch.save_file"


def read_torch(file: BinaryIO, path: Path, size: int, *, trusted: bool = False) -> Any:
    """Content of a torch file, of which no code is run.

    Args:
        file: the open file, at its beginning.
        path: of the file, for messages.
        size: its bytes.
        trusted: its SHA-256 is the one that the user gave: its checksums need not be compared.

    Raises:
        ModelError: the file is damaged, would make more than it holds, or needs code to load.
    """
    try:
        _check(file, size, trusted=trusted)
        file.seek(0)
        is_zip = file.read(len(_ZIP)) == _ZIP
        file.seek(0)
        with torch.serialization.safe_globals(list(STORED_OBJECTS)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, of TorchScript
            source = file if is_zip else _NoArchive(file)
            return torch.load(source, map_location="cpu", weights_only=True)  # type: ignore[arg-type]
    except ZipDamaged as error:
        raise ModelError(f"{path} is damaged ({error}): {_advice(error)}") from error
    except NeedsCode as error:
        raise ModelError(f"{path} {_needs_code(str(error))}") from error
    except Refused as error:
        if str(error):
            raise ModelError(f"{path} {error}: copy it again, or {_SAFE}") from error
        raise ModelError(_damaged(path)) from error
    except Exception as error:  # damaged pickles raise nearly everything
        if "GLOBAL" in str(error):
            found = _GLOBAL.search(str(error))
            raise ModelError(f"{path} {_needs_code(found[1] if found else '')}") from error
        if isinstance(error, pickle.UnpicklingError):
            raise ModelError(_damaged(path)) from error
        raise ModelError(f"{path} is truncated or no torch checkpoint: copy it again") from error
    finally:
        # Where torch fails, it keeps sparse tensors, and refuses the next file because of them.
        getattr(torch._utils, "_sparse_tensors_to_validate", []).clear()


class _NoArchive:
    """A file that torch does not try to read as a tar archive, as it does with one of the system.

    A header of such an archive may take Python's `tarfile` minutes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.readline = file.read, file.readline
        self.readinto = file.readinto  # type: ignore[attr-defined]
        self.seek, self.tell = file.seek, file.tell


def _check(file: BinaryIO, size: int, *, trusted: bool) -> None:
    """Check all that torch would rely on; what it cannot tell is damaged is refused by it."""
    if file.read(len(_ZIP)) == _ZIP:
        members = members_of(file, size)
        if _OF_TORCHSCRIPT in members.infos:
            raise NeedsCode("")
        if not trusted:
            check_members(members)
        check_places_of_torch(file, members)
        Follower(members.read("data.pkl"), members.storages, size).follow()
        return
    if not size:
        raise EOFError
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        follower = Follower(content, None, size)
        if follower.follow() != _MAGIC:
            raise Refused
        for _ in range(1, _PICKLES):
            follower.follow()


def _advice(error: ZipDamaged) -> str:
    if isinstance(error, ZipAltered):
        return (
            "copy it again, or pass --sha256 with its SHA-256 if torch wrote it without checksums "
            "(set_crc32_options(False))"
        )
    return f"copy it again, or {_SAFE}"


def _damaged(path: Path) -> str:
    return (
        f"{path} is damaged or no torch checkpoint, so nothing of it was loaded: copy it again, "
        f"or {_SAFE}"
    )


def _needs_code(name: str) -> str:
    """Ending of a message about a pickle with a class that is not read."""
    name = name[:100] if name.isprintable() else ""
    held = f" (it holds a {name})" if name else ""
    advice = "save its state_dict alone, best with safetensors.torch.save_file"
    if name.partition(".")[0] in _CONFIGURATIONS:
        advice = f"there, turn the {name.rpartition('.')[2]} into a dict, or {advice}"
    return f"would need code to load{held}, so nothing of it was loaded: {advice}"
