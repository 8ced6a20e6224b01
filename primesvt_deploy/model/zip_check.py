"""Check the zip archive that a torch file is, before anything in it is unpacked.

torch compares no checksums, reads a member under any case of its name, and trusts the list of
members at the end of the file.
"""

from __future__ import annotations

import copy
import struct
import zipfile
from dataclasses import dataclass
from typing import Any, BinaryIO

__all__ = [
    "Members",
    "ZipAltered",
    "ZipDamaged",
    "check_members",
    "check_places_of_torch",
    "members_of",
]

_CHUNK = 2**20
_MOST_UNPACKED = 64 * 2**20
_MOST_RATIO = 16
"""Unpacked bytes to those of the file, above `_MOST_UNPACKED`; weights hardly pack at all."""
_LOCAL = struct.Struct("<4s5H3I2H")
_END = struct.Struct("<4s4H2IH")
_ENCRYPTED, _SIZES_BEHIND, _FOLDER = 1, 8, 16
_FAR = 0xFFFFFFFF
"""Stands for a number that is in an extension for archives over 4 GiB."""


class ZipDamaged(Exception):
    """An archive that cannot be what torch wrote; the message says why, as a part of a line."""


class ZipAltered(ZipDamaged):
    """An archive of which a member has another CRC-32 than the list says."""


@dataclass(frozen=True)
class Members:
    """An archive whose list of members agrees with what stands before each of them.

    Args:
        archive: the open archive.
        folder: that all members are in, with a slash.
        infos: of the members, by their name in that folder.
        places: where their content begins, by that name.
    """

    archive: zipfile.ZipFile
    folder: str
    infos: dict[str, zipfile.ZipInfo]
    places: dict[str, int]

    def read(self, name: str) -> bytes:
        """Content of a member, whatever its CRC-32, see `check_members`.

        Raises:
            ZipDamaged: there is none, or it cannot be read.
        """
        try:
            info = copy.copy(self.infos[name])
            del info.CRC
            with self.archive.open(info) as content:
                return content.read()
        except Exception as error:  # zipfile and zlib raise nearly everything
            raise ZipDamaged(f"its member {name} cannot be read") from error

    @property
    def storages(self) -> dict[str, int]:
        """Bytes of each storage of tensors, by its key."""
        return {
            name.removeprefix("data/"): info.file_size
            for name, info in self.infos.items()
            if name.startswith("data/")
        }


def members_of(file: BinaryIO, size: int) -> Members:
    """Members of the archive that an open file is.

    Args:
        file: the file.
        size: its bytes.

    Raises:
        ZipDamaged: members overlap, are encrypted, have the same name, would be far larger
            unpacked, or are not where the list at the end or torch's reader says.
    """
    try:
        archive = zipfile.ZipFile(file)
        infos = archive.infolist()
    except Exception as error:  # damaged lists raise nearly everything
        raise ZipDamaged("the list of its members is damaged") from error
    _check_end(file, archive, size)
    folder = infos[0].filename.partition("/")[0] + "/" if infos else "/"
    if any(not info.filename.startswith(folder) for info in infos):
        raise ZipDamaged("its members are in several folders")
    named = {info.filename.removeprefix(folder): info for info in infos}
    if len({name.lower() for name in named}) < len(infos):
        raise ZipDamaged("two of its members have the same name")
    unpacked = sum(info.file_size for info in infos)
    if unpacked > max(_MOST_UNPACKED, _MOST_RATIO * size):
        raise ZipDamaged(f"its {size} bytes would unpack to {unpacked}")
    return Members(archive, folder, named, _places(file, named, archive.start_dir))


def _check_end(file: BinaryIO, archive: zipfile.ZipFile, size: int) -> None:
    """Refuse what lies before or behind the archive, where readers differ in what they take."""
    file.seek(max(0, size - _END.size))
    end = file.read(_END.size)
    if len(end) < _END.size:
        raise ZipDamaged("it is cut off")
    signature, disk, first_disk, here, entries, length, start, comment = _END.unpack(end)
    count = len(archive.infolist())
    far = _FAR in (length, start) or entries == 0xFFFF
    if signature != b"PK\x05\x06" or disk or first_disk or comment:
        raise ZipDamaged("something stands behind the list of its members")
    if not far and (start, here, entries) != (archive.start_dir, count, count):
        raise ZipDamaged("the list of its members is not where its end says")
    if start != _FAR and start != archive.start_dir:
        raise ZipDamaged("the list of its members is not where its end says")


def _places(file: BinaryIO, infos: dict[str, zipfile.ZipInfo], end: int) -> dict[str, int]:
    """Places of members' content, by the header that stands before each; they do not overlap."""
    place, places = 0, {}
    for name, info in sorted(infos.items(), key=lambda each: each[1].header_offset):
        if info.flag_bits & _ENCRYPTED:
            raise ZipDamaged(f"its member {info.filename} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ZipDamaged(f"its member {info.filename} is packed in a way that torch never does")
        if info.volume or (info.file_size and (info.is_dir() or info.external_attr & _FOLDER)):
            # Torch reads nothing of these, and takes whatever memory holds for it.
            raise ZipDamaged(f"its member {info.filename} is said to be no file of it")
        if info.header_offset < place:
            raise ZipDamaged(f"its member {info.filename} overlaps another")
        places[name] = _content_of(file, info)
        place = places[name] + info.compress_size
        if place > end:
            raise ZipDamaged(f"its member {info.filename} is cut off")
    return places


def _content_of(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Place of a member's content, behind its own header."""
    file.seek(info.header_offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size:
        raise ZipDamaged(f"its member {info.filename} is cut off")
    signature, _, flags, packed, _, _, crc, stored, full, name, extra = _LOCAL.unpack(header)
    written = file.read(name)
    same = (
        signature == b"PK\x03\x04"
        and flags == info.flag_bits
        and packed == info.compress_type
        and written == info.orig_filename.encode("utf-8" if flags & 0x800 else "cp437")
    )
    sizes = (crc, stored, full)
    if not flags & _SIZES_BEHIND and _FAR not in sizes:
        same = same and sizes == (info.CRC, info.compress_size, info.file_size)
    if not same:
        raise ZipDamaged(f"its member {info.filename} has another header than its list says")
    return int(info.header_offset + _LOCAL.size + name + extra)


def check_places_of_torch(file: BinaryIO, members: Members) -> None:
    """Refuse an archive in which torch's own reader finds other members, or at other places.

    Args:
        file: the open file.
        members: of it.

    Raises:
        ZipDamaged: they differ.
    """
    import torch  # here, as members alone are read without it

    file.seek(0)
    try:
        reader: Any = torch._C.PyTorchFileReader(file)
        found = {name: reader.get_record_offset(name) for name in reader.get_all_records()}
    except Exception as error:
        raise ZipDamaged("torch cannot read the list of its members") from error
    if found != members.places:
        raise ZipDamaged("torch finds other members in it than its list names")


def check_members(members: Members) -> None:
    """Compare the CRC-32 of every member, a part at a time.

    Raises:
        ZipAltered: that of a member is another.
    """
    for name, info in members.infos.items():
        try:
            with members.archive.open(info) as content:
                while content.read(_CHUNK):
                    pass
        except Exception as error:  # zlib's errors, too
            raise ZipAltered(f"the CRC-32 of its member {name} is another") from error
