"""Images and arrays that are damaged or made to cost far more than their size, from a seed."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

__all__ = [
    "damaged",
    "hostile_arrays",
    "hostile_images",
    "image_bombs",
    "npy",
    "npz",
    "png",
    "small_images",
]


def damaged(content: bytes, generator: random.Random) -> tuple[str, bytes]:
    """A copy with bytes changed, inserted, taken out, repeated or cut off, and what was done."""
    found, place = bytearray(content), generator.randrange(len(content))
    way = generator.choice(["flip", "insert", "delete", "repeat", "truncate"])
    piece = generator.randrange(1, 9)
    if way == "flip":
        for _ in range(piece):  # headers are hit as often as all that follows
            most = generator.choice([min(200, len(found)), len(found)])
            found[generator.randrange(most)] = generator.randrange(256)
    elif way == "insert":
        found[place:place] = generator.randbytes(piece)
    elif way == "delete":
        del found[place : place + piece]
    elif way == "repeat":
        found[place:place] = found[place : place + 50 * piece]
    else:
        del found[place:]
    return f"{way} at {place}", bytes(found)


def small_images() -> dict[str, bytes]:
    """A small image of each format and kind of content that is read."""
    y, x = np.mgrid[:13, :17]
    colours = Image.fromarray(np.stack([x * 7, y * 11, x + y], axis=-1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "jpeg": (colours, "JPEG", {"exif": exif}),
        "progressive jpeg": (colours, "JPEG", {"progressive": True}),
        "png": (colours, "PNG", {"exif": exif}),
        "palette png": (colours.convert("P"), "PNG", {"transparency": bytes(9)}),
        "webp": (colours, "WEBP", {"exif": exif}),
        "lossless webp": (colours.convert("RGBA"), "WEBP", {"lossless": True}),
        "gif": (colours, "GIF", {"comment": b"a comment"}),
        "tiff": (colours, "TIFF", {}),
        "lzw tiff": (colours, "TIFF", {"compression": "tiff_lzw"}),
        "jpeg tiff": (colours, "TIFF", {"compression": "jpeg"}),
        "fax tiff": (colours.convert("1"), "TIFF", {"compression": "group4"}),
        "float tiff": (
            colours.convert("L").convert("F"),
            "TIFF",
            {"compression": "tiff_adobe_deflate"},
        ),
        "bmp": (colours, "BMP", {}),
        "ppm": (colours, "PPM", {}),
    }
    found = {}
    for name, (image, kind, options) in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found[name] = buffer.getvalue()
    rows = b"".join(b"\x04\x05\x02\1" + b"\0\0" for _ in range(13)) + b"\0\1"
    text = " ".join(str(v % 256) for v in range(13 * 17 * 3))
    return found | {"rle bmp": rle_bmp(17, 13, rows), "text ppm": f"P3 17 13 255 {text}".encode()}


def hostile_images(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged images, with what each is and what was done to it."""
    generator, whole = random.Random(seed), list(small_images().items())
    for number in range(count):
        name, content = whole[number % len(whole)]
        done, found = damaged(content, generator)
        yield f"{name}: {done}", found


def png(
    width: int, height: int, row: bytes, *chunks: tuple[bytes, bytes], colour: int = 2
) -> bytes:
    """A PNG of RGB whose rows are all the same; `row` begins with its filter."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


def rle_bmp(width: int, height: int, rows: bytes) -> bytes:
    """A packed BMP of 8 bits."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    palette = bytes(b for v in range(256) for b in (v, v, v, 0))
    start = struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078)
    return b"BM" + start + header + palette + rows


def tiff(entries: list[tuple[int, int, int, int]], data: bytes = b"") -> bytes:
    """A TIFF of 8 x 8 grey pixels with further tags (number, type, count, value or place).

    `data` begins at byte 512.
    """
    tags = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64)]
    own = {tag for tag, *_ in entries}
    tags = sorted([tag for tag in tags if tag[0] not in own] + entries)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags)
    return (b"II*\0\x48\0\0\0" + bytes(64) + directory + bytes(4)).ljust(512, b"\0") + data


def jpeg_with_exif(block: bytes) -> bytes:
    """A small JPEG whose EXIF block goes over as many segments as it needs."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    parts = [block[start : start + 65_000] for start in range(0, len(block), 65_000)]
    segments = [b"\xff\xe1" + struct.pack(">H", len(p) + 8) + b"Exif\0\0" + p for p in parts]
    content = buffer.getvalue()
    return content[:2] + b"".join(segments) + content[2:]


def image_bombs() -> dict[str, Callable[[], bytes]]:
    """Small files that cost much, by what they do: made when called, in a second at most."""
    million = 10**6
    numbers = b"\1\0\0\0" * (2 * million)
    overlapping = [(1000 + i, 7, 2 * million, 512) for i in range(3000)]
    return {
        "pixels over the limit": lambda: png(13_300, 13_300, bytes(100)),
        "texts": lambda: png(8, 8, bytes(25), *[(b"zTXt", _packed(million))] * 500),
        "profile": lambda: png(8, 8, bytes(25), (b"iCCP", _packed(200 * million))),
        "tags that overlap": lambda: tiff(overlapping, bytes(2 * million)),
        "strips": lambda: tiff([(273, 4, million, 512), (278, 4, 1, 1)], numbers),
        "a tile": _large_tile,
        "fractions": lambda: tiff([(282, 5, million, 512), (296, 3, 1, 2)], numbers),
        "exif": lambda: jpeg_with_exif(tiff([(274, 3, 1, 6), (282, 5, million, 512)], numbers)),
        "skipped rows": lambda: rle_bmp(67_000_000, 1, b"\0\2\0\xff" * 4 + b"\0\1"),
        "comments": lambda: b"P3 8 8 255 " + b"#\n" * 500_000 + b"0 " * 192,
        "scans": lambda: _many_scans(20_000),
        "comment": lambda: b"GIF89a\x08\0\x08\0\0\0\0!\xfe" + (b"\xff" + b"a" * 255) * 40_000,
    }


def _large_tile() -> bytes:
    """A tile of 200 million pixels for an image of 64."""
    rows, columns = 20_000, 10_000
    data = zlib.compress(bytes(rows * columns), 1)
    tags = [(259, 3, 1, 8), (322, 4, 1, columns), (323, 4, 1, rows), (324, 4, 1, 512)]
    return tiff([*tags, (325, 4, 1, len(data))], data)


def _packed(size: int) -> bytes:
    return b"name\0\0" + zlib.compress(bytes(size), 1)


def _many_scans(count: int) -> bytes:
    content = small_images()["progressive jpeg"]
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + content[-2:]


def npy(array: Any, **options: Any) -> bytes:
    """An `.npy` of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of files by name, which may be there twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            with warnings.catch_warnings(action="ignore"):  # of a name that is there already
                archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def with_header(text: str, data: bytes = b"", version: int = 1) -> bytes:
    """An `.npy` with this header."""
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode("latin-1") + data


def hostile_arrays(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` files under the name of an `.npy` or `.npz`: made by hand, then damaged ones."""
    numbers = np.arange(120, dtype=np.uint8)
    plain, objects = npy(numbers), npy(np.array([{}], dtype=object), allow_pickle=True)
    entry = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n"
    made = [
        ("2^40 items", with_header(entry % ("|u1", "(1099511627776,)"), bytes(64))),
        ("items of no bytes", with_header(entry % ("<U0", "(1099511627776,)"))),
        ("a negative shape", with_header(entry % ("|u1", "(-1, 8)"), bytes(8))),
        ("a shape of 60 axes", with_header(entry % ("|u1", f"({'1,' * 60})"), bytes(1))),
        ("code in the header", with_header("__import__('os').abort()\n")),
        ("brackets in the header", with_header("(" * 9000)),
        ("a header of 4 GB", with_header("", version=2)[:-4] + b"\xff" * 4 + bytes(64)),
        ("objects", objects),
        ("records", npy(np.zeros(3, [("a", "f4"), ("b", "i4")]))),
        ("no characters", with_header(entry % ("<U1", "(1,)"), b"\xff" * 4)),
        ("nothing", b""),
        ("a member twice", npz([("images.npy", plain), ("images.npy", plain)])),
        ("a name with and without its ending", npz([("images.npy", plain), ("images", plain)])),
        ("a path that leads out", npz([("../images.npy", plain), ("/labels.npy", plain)])),
        ("a long name", npz([("i" * 60_000, plain)])),
        ("an unusual method", npz([("images.npy", plain)], zipfile.ZIP_LZMA)),
        ("members without end", npz([(f"{i}.npy", b"") for i in range(20_000)])),
        ("an encrypted member", _with_flag(npz([("images.npy", plain)]))),
        ("objects in a member", npz([("images.npy", objects), ("labels.npy", plain)])),
    ]
    generator = random.Random(seed)
    columns = np.asfortranarray(numbers.reshape(2, 3, 20))
    whole = [
        ("npy", npy(columns)),
        *(
            (f"npz, {method}", npz([("frames.npy", npy(columns)), ("labels.npy", plain)], method))
            for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        ),
    ]
    for number in range(count):
        if number < len(made):
            yield made[number]
            continue
        name, content = whole[number % len(whole)]
        done, found = damaged(content, generator)
        yield f"{name}: {done}", found


def _with_flag(archive: bytes) -> bytes:
    found = bytearray(archive)
    found[found.index(b"PK\3\4") + 6] |= 1
    found[found.index(b"PK\1\2") + 8] |= 1
    return bytes(found)
