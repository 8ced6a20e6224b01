"""Checkpoint files that were damaged on the way, or are made to harm whoever reads them."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save

__all__ = [
    "HARMLESS_PICKLES",
    "HOSTILE_PICKLES",
    "KINDS",
    "State",
    "altered",
    "altered_pickle",
    "bombs",
    "hostile",
    "legacy",
    "odd_contents",
    "small_state",
    "suffix",
    "written",
    "zipped",
]

State = dict[str, torch.Tensor]
KINDS = ("zip", "legacy", "safetensors")
_MAGIC = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001})


def small_state() -> State:
    """A state_dict of a few small tensors."""
    generator = torch.Generator().manual_seed(0)
    return {
        "stem.weight": torch.randn(7, 3, generator=generator),
        "stem.bias": torch.randn(7, generator=generator),
        "bn.running_var": torch.rand(7, generator=generator),
        "steps": torch.tensor(3),
    }


def written(kind: str, content: object | None = None) -> bytes:
    """A whole checkpoint file of this kind: `zip`, `legacy` or `safetensors`."""
    content = small_state() if content is None else content
    if kind == "safetensors":
        assert isinstance(content, dict)
        return save(content)
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    return file.getvalue()


def suffix(kind: str) -> str:
    """Ending of the name of such a file."""
    return ".safetensors" if kind == "safetensors" else ".pth"


def altered(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """A file after one accident, and what happened: bits, bytes or whole parts of it are others."""
    place = chance.randrange(len(content))
    some = chance.randbytes(chance.choice((1, 2, 8, 64)))
    what = chance.choice(("bit", "bytes", "insert", "delete", "cut", "zeros", "moved"))
    match what:
        case "bit":
            damaged = bytearray(content)
            damaged[place] ^= 1 << chance.randrange(8)
            return f"bit of byte {place}", bytes(damaged)
        case "bytes":
            return f"{len(some)} bytes at {place}", (
                content[:place] + some + content[place + len(some) :]
            )
        case "insert":
            return f"{len(some)} bytes inserted at {place}", content[:place] + some + content[
                place:
            ]
        case "delete":
            return f"{len(some)} bytes deleted at {place}", (
                content[:place] + content[place + len(some) :]
            )
        case "cut":
            return f"cut at {place}", content[:place]
        case "zeros":
            return f"zeros at {place}", content[:place] + bytes(64) + content[place + 64 :]
        case _:
            other = chance.randrange(len(content))
            part = content[other : other + 32]
            return f"{other} copied to {place}", content[:place] + part + content[place + 32 :]


_OPERATIONS = b"(.0]}){\x85\x86\x87tsuaeRbQcKMJGXUqhrj\x88\x89N\x8f\x81\x8a\x80"


def altered_pickle(pickled: bytes, chance: random.Random) -> bytes:
    """A pickle in which one operation is another, missing, or done once more."""
    place, other = chance.randrange(len(pickled)), chance.randrange(len(pickled))
    operation = bytes([chance.choice(_OPERATIONS)])
    part = pickled[other : other + chance.choice((2, 5, 20, 60))]
    return (
        chance.choice(
            (
                pickled[:place] + operation + pickled[place + 1 :],
                pickled[:place] + operation + pickled[place:],
                pickled[:place] + pickled[place + 2 :],
                pickled[:place] + part + pickled[place:],
            )
        )
        or b"."
    )


def zipped(pickled: bytes, members: dict[str, bytes] | None = None) -> bytes:
    """A zip checkpoint with a pickle of one's own, and right checksums."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w/data.pkl", pickled)
        archive.writestr("w/byteorder", b"little")
        for name, content in (members or {"data/0": bytes(84)}).items():
            archive.writestr(f"w/{name}", content)
        archive.writestr("w/version", b"3\n")
    return file.getvalue()


def legacy(pickled: bytes) -> bytes:
    """A checkpoint without zip with a pickle of one's own, and no storages."""
    head = b"".join(pickle.dumps(each, 2) for each in _MAGIC)
    return head + pickled + pickle.dumps([], 2)


def _name(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _int(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def _storage(key: str = "0", numel: int = 21) -> bytes:
    """A reference to a storage of float32."""
    return (
        b"(" + _text("storage") + _name("torch.FloatStorage") + _text(key) + _text("cpu")
        + _int(numel) + b"tQ"
    )  # fmt: skip


def _tensor(shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    sizes = b"".join(b"(" + b"".join(map(_int, each)) + b"t" for each in (shape, stride))
    return (
        _name("torch._utils._rebuild_tensor_v2") + b"(" + _storage() + _int(offset) + sizes
        + b"\x89" + _name("collections.OrderedDict") + b")RtR"
    )  # fmt: skip


def _state(value: bytes, key: str = "stem.weight") -> bytes:
    """A pickle of a dict with one entry."""
    return b"\x80\x02}" + _text(key) + value + b"s."


def _beside(value: bytes) -> bytes:
    """A pickle of a state_dict beside `args` of this value."""
    whole = _tensor((7, 3), (3, 1))
    return (
        b"\x80\x02}" + _text("model") + b"}" + _text("a.weight") + whole + b"ss"
        + _text("args") + b"}" + _text("T") + value + b"ss."
    )  # fmt: skip


def _doubled(levels: int, pair: bytes = b"\x86") -> bytes:
    """A tuple of a tuple twice, of a tuple twice, and so on."""
    return b")q\x00" + b"".join(b"h\x00" + pair + b"q\x00" for _ in range(levels))


def _call(name: str, *arguments: bytes) -> bytes:
    return _name(name) + b"(" + b"".join(arguments) + b"tR"


_HUGE = _int(2**36)
HOSTILE_PICKLES: dict[str, Callable[[], bytes]] = {
    "rows of stride 0": lambda: _state(_tensor((2**31, 3), (0, 1))),
    "a tensor beyond its storage": lambda: _state(_tensor((2**31, 3), (3, 1))),
    "an offset beyond its storage": lambda: _state(_tensor((7, 3), (3, 1), 2**40)),
    "a negative size": lambda: _state(_tensor((-7, 3), (3, 1))),
    "a huge number of sizes": lambda: _state(_tensor((1,) * 5000, (1,) * 5000)),
    "a tensor of no stored numbers": lambda: _state(_call("torch.FloatTensor", _HUGE)),
    "a storage of no stored numbers": lambda: _state(_call("torch.storage.UntypedStorage", _HUGE)),
    "a quantized tensor of one number": lambda: _state(
        _call(
            "torch._utils._rebuild_qtensor", _storage(), b"K\x00", b"(" + _HUGE + b"t",
            b"(K\x00t", b"(" + _name("torch.per_tensor_affine") + b"G" + struct.pack(">d", 1.0)
            + b"K\x00t", b"\x89", _name("collections.OrderedDict") + b")R",
        )
    ),
    "a bytearray of 64 GB": lambda: _beside(_call("builtins.bytearray", _HUGE)),
    "bytes doubled 40 times": lambda: _beside(
        _call("_codecs.encode", _text("a" * 999), _text("latin1"))
        + b"q\x00"
        + b"".join(
            b"0" + _name("_codecs.encode") + b"(h\x00" + _text("hex") + b"tRq\x00"
            for _ in range(40)
        )
    ),
    "bytes of 1 MB copied 500 times": lambda: _beside(
        b"(" + _call("_codecs.encode", _text("a" * 2**20), _text("latin1")) + b"q\x00"
        + (_name("builtins.bytearray") + b"(h\x00tR") * 500 + b"t"
    ),
    "6 million numbers": lambda: _beside(b"](" + b"M\x01\x02" * 6_000_000 + b"e"),
    "6 million texts": lambda: _beside(b"](" + b"X\x01\0\0\0a" * 6_000_000 + b"e"),
    "20,000 names of one hash": lambda: _beside(
        b"}(" + b"".join(
            b"\x8a\x10" + ((2**61 - 1) * number).to_bytes(16, "little") + b"N"
            for number in range(1, 20_000)
        )
        + b"u"
    ),
    "20 million marks": lambda: b"\x80\x02" + b"(" * 20_000_000 + b".",
    "20 million lists": lambda: _beside(b"(" + b"]" * 20_000_000 + b"t"),
    "a set of a list many times": lambda: _beside(
        b"](" + b"".join(_int(i) for i in range(2000)) + b"eq\x00("
        + (_name("builtins.set") + b"(h\x00tR") * 20_000 + b"t"
    ),
    "a deep tuple as a name": lambda: b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.",
    "a doubled tuple as a name": lambda: b"\x80\x02}" + _doubled(60) + b"K\x01s.",
    "a set of a doubled tuple": lambda: _beside(_call("builtins.set", b"]" + _doubled(60) + b"a")),
    "a dtype of a deep tuple": lambda: _beside(
        _call(
            "numpy.core.multiarray.scalar",
            _call("numpy.dtype", b")" + b"\x85" * 1_000_000),
            _call("_codecs.encode", _text("abcdefgh"), _text("latin1")),
        )
    ),
    "a path of a name many times": lambda: _beside(
        _name("pathlib.PosixPath") + b"(" + _text("a" * 100_000) + b"q\x00"
        + b"h\x00" * 100_000 + b"tR"
    ),
    "a name of a megabyte": lambda: _state(_tensor((7, 3), (3, 1)), "a." * 500_000),
    "methods of the dict replaced": lambda: (
        b"\x80\x02" + _name("collections.OrderedDict") + b")R" + _text("a.weight")
        + _tensor((7, 3), (3, 1)) + b"s}" + _text("items") + b"K\x03sb."
    ),
    "methods of a tensor replaced": lambda: _state(
        _call(
            "torch._tensor._rebuild_from_type_v2",
            _name("torch._utils._rebuild_tensor_v2"), _name("torch.Tensor"),
            b"(" + _storage() + b"K\x00(K\x07K\x03t(K\x03K\x01t\x89"
            + _name("collections.OrderedDict") + b")Rt",
            b"}" + _text("numel") + b"K\x05s",
        )
    ),
    "a text of 4 GB": lambda: b"\x80\x02X\xff\xff\xff\xffabc.",
    "a text of 2**63 bytes": lambda: b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc.",
    "bytes of 2**62": lambda: b"\x80\x04\x8e" + b"\xff" * 7 + b"\x3fabc.",
    "an int of 2 GB": lambda: b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "a memo entry of 2**32": lambda: b"\x80\x02}r\xff\xff\xff\xff.",
    "a storage larger than the file": lambda: _state(
        _call(
            "torch._utils._rebuild_tensor_v2", _storage("0", 2**36), b"K\x00", b"(K\x07t",
            b"(K\x01t", b"\x89", _name("collections.OrderedDict") + b")R",
        )
    ),
    "no end": lambda: b"\x80\x02}",
    "nothing": lambda: b"",
}  # fmt: skip
"""Pickles of which none may be loaded, by what they do."""

HARMLESS_PICKLES: dict[str, Callable[[], bytes]] = {
    "a deep list in args": lambda: _beside(b"]" * 10_000 + b"a" * 9_999),
    "a doubled tuple in args": lambda: _beside(_doubled(60)),
    "a doubled tuple of frames": lambda: _beside(_doubled(60)).replace(
        _text("T"), _text("input_size")
    ),
    "a number of 255 bytes in args": lambda: _beside(b"\x8a\xff" + b"\x7f" * 255),
    "a list in itself in args": lambda: _beside(b"]q\x00h\x00a"),
}
"""Pickles of odd arguments beside good weights, which are read or refused in one line."""


def _many_levels(name: str) -> bytes:
    """Dicts in dicts, each under this name, 10,000 levels."""
    return b"\x80\x02}" + (_text(name) + b"}") * 10_000 + b"s" * 10_000 + b"."


def _archive(edit: Callable[[zipfile.ZipFile], None]) -> bytes:
    file = io.BytesIO(zipped(_state(_tensor((7, 3), (3, 1)))))
    with zipfile.ZipFile(file, "a") as archive:
        edit(archive)
    return file.getvalue()


def _twice(archive: zipfile.ZipFile) -> None:
    archive.writestr("w/DATA/0", bytes(84))


def _deflated(archive: zipfile.ZipFile) -> None:
    archive.writestr("w/data/1", bytes(200 * 2**20), zipfile.ZIP_DEFLATED)


def _packed_otherwise(archive: zipfile.ZipFile) -> None:
    archive.writestr("w/data/1", bytes(100), zipfile.ZIP_LZMA)


def _encrypted() -> bytes:
    content = bytearray(zipped(_state(_tensor((7, 3), (3, 1)))))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        content[archive.start_dir + 8] |= 1
        content[archive.infolist()[0].header_offset + 6] |= 1
    return bytes(content)


def _overlapping() -> bytes:
    """Two names of one member."""
    content = bytearray(
        zipped(_state(_tensor((7, 3), (3, 1))), {"data/0": bytes(84), "data/1": b""})
    )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        first, place = archive.infolist()[2], content.rindex(b"w/data/1") - 46
    content[place + 16 : place + 28] = struct.pack("<3I", first.CRC, 84, 84)
    content[place + 42 : place + 46] = struct.pack("<I", first.header_offset)
    return bytes(content)


def _safe(header: object, content: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


_BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a member unpacks to 200 MB": (".pth", lambda: _archive(_deflated)),
    "two members of one name": (".pth", lambda: _archive(_twice)),
    "a member packed by LZMA": (".pth", lambda: _archive(_packed_otherwise)),
    "an encrypted member": (".pth", _encrypted),
    "overlapping members": (".pth", _overlapping),
    "an archive behind something": (".pth", lambda: b"PK\x03\x04" + written("zip")),
    "10,000 levels of model": (".pth", lambda: zipped(_many_levels("model"))),
    "10,000 levels of a": (".pth", lambda: zipped(_many_levels("a"))),
    "nothing at all": (".pth", lambda: b""),
    "safetensors of nothing": (".safetensors", lambda: b""),
    "a header of 2**62 bytes": (".safetensors", lambda: struct.pack("<Q", 2**62) + b"{}"),
    "a tensor of 2**60 numbers": (".safetensors", lambda: _safe(
        {"a.weight": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}, bytes(4))),
    "a product that overflows": (".safetensors", lambda: _safe(
        {"a.weight": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4))),
    "no numbers in huge rows": (".safetensors", lambda: _safe(
        {"a.weight": {"dtype": "F32", "shape": [2**62, 0, 2**62], "data_offsets": [0, 0]}})),
    "a header 5,000 levels deep": (".safetensors", lambda: (
        struct.pack("<Q", 10_000) + b"[" * 5000 + b"]" * 5000)),
}  # fmt: skip


def bombs(skip: tuple[str, ...] = ()) -> Iterator[tuple[str, str, bytes]]:
    """Files that would take memory or time without end: what it is, suffix, content.

    Args:
        skip: beginnings of the names of those that are left out.
    """
    for name, make in HOSTILE_PICKLES.items():
        if name.startswith(skip):
            continue
        yield f"{name}, zip", ".pth", zipped(make())
        yield f"{name}, legacy", ".pth", legacy(make())
    for name, (ending, content) in _BOMBS.items():
        yield name, ending, content()


def odd_contents() -> dict[str, object]:
    """Contents that hold themselves, or what is no weight; torch can save them all."""
    holder: dict[str, object] = {"model": small_state()}
    holder["metrics"] = holder
    in_args: dict[str, object] = {"T": 4}
    in_args["self"] = in_args
    as_state: dict[str, object] = {**small_state()}
    as_state["model"] = as_state
    in_list: list[object] = []
    in_list.append(in_list)
    return {
        "in metrics": holder,
        "in args": {"model": small_state(), "args": in_args},
        "in hyper_parameters": {"model": small_state(), "hyper_parameters": in_args},
        "as its own model": as_state,
        "a list in itself": in_list,
        "as an entry": {**small_state(), "more": in_list},
        "as T": {
            "model": small_state(),
            "args": {"T": in_list, "input_size": [3, in_list, in_list]},
        },
        "a huge accuracy": {"model": small_state(), "best_acc": 10**600},
        "a sparse accuracy": {"model": small_state(), "best_acc": torch.ones(1).to_sparse()},
        "a complex accuracy": {"model": small_state(), "best_acc": torch.ones(1) * 1j},
        "names with lines": {"model": OrderedDict({"a\nb.weight": torch.ones(2, 2)})},
    }


def hostile(
    directory: Path, *, seed: int, count: int, skip: tuple[str, ...] = ()
) -> Iterator[tuple[str, Path, bool]]:
    """Damaged and hostile checkpoint files, one after another under the same names.

    Args:
        directory: where they are written.
        seed: of what is damaged.
        count: of damaged files; those that are made to harm follow them.
        skip: see `bombs`.

    Yields:
        What it is, its path, and whether the file is whole.
    """
    chance = random.Random(seed)
    whole = {kind: written(kind) for kind in KINDS}
    for _ in range(count):
        kind = chance.choice(KINDS)
        what, content = altered(whole[kind], chance)
        path = directory / f"damaged{suffix(kind)}"
        path.write_bytes(content)
        yield f"{kind}: {what}", path, content == whole[kind]
    for what, ending, content in bombs(skip):
        path = directory / f"hostile{ending}"
        path.write_bytes(content)
        yield what, path, False
