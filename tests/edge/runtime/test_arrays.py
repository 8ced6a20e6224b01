"""Reading arrays: what numpy writes is read, and nothing else costs more than its size."""

from __future__ import annotations

import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import hostile_arrays, npy, npz
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from primesvt_deploy.edge.runtime import arrays
from primesvt_deploy.edge.runtime.arrays import ArrayFile, available_memory, read_npy

TYPES = st.one_of(
    arrays_of.boolean_dtypes(),
    arrays_of.integer_dtypes(),
    arrays_of.unsigned_integer_dtypes(),
    arrays_of.floating_dtypes(),
    arrays_of.complex_number_dtypes(),
    st.just(np.dtype("<U3")),
    st.just(np.dtype(">U2")),
    st.just(np.dtype("S4")),
)
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)


def same(found: Any, expected: Any) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


@settings(derandomize=True, deadline=None, max_examples=150)
@given(array=arrays_of.arrays(TYPES, SHAPES), columns=st.booleans(), packed=st.booleans())
def test_what_numpy_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, array: Any, columns: bool, packed: bool
) -> None:
    stored = np.asarray(array, order="F" if columns else "C")
    directory = tmp_path_factory.getbasetemp()
    (directory / "a.npy").write_bytes(npy(stored))
    same(read_npy(directory / "a.npy"), array)
    (np.savez_compressed if packed else np.savez)(directory / "a.npz", first=stored, second=stored)
    with ArrayFile(directory / "a.npz") as file:
        assert file.names == ("first", "second")
        assert file.shape_and_dtype("second") == (array.shape, array.dtype)
        same(file.read("second"), array)


def test_headers_that_others_write(tmp_path: Path) -> None:
    """Keys in another order, double quotes, and Python 2's long numbers."""
    for header in (
        '{"shape": (2L, 2), "fortran_order": False, "descr": "<i2"}',
        "{'fortran_order': False,'descr':'<i2','shape':(2,2,)}\n",
    ):
        data = np.arange(4, dtype="<i2").tobytes()
        content = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header.encode() + data
        (tmp_path / "a.npy").write_bytes(content)
        same(read_npy(tmp_path / "a.npy"), np.arange(4, dtype="<i2").reshape(2, 2))


@pytest.mark.parametrize("seed", range(3))
def test_each_hostile_file_is_read_or_refused_in_one_line(
    tmp_path: Path, seed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    refused = 0
    for description, content in hostile_arrays(seed, 250):
        (tmp_path / "a").write_bytes(content)
        try:
            with ArrayFile(tmp_path / "a") as file:
                for name in file.names:
                    assert file.read(name).nbytes <= 1000
        except ValueError as error:
            refused += 1
            assert str(error).isprintable() and str(error), description
            assert len(str(error)) <= 300
    assert refused > 150
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, r"which is 1099511627776 bytes, and 64 are there"),
        (1, "items of no bytes"),
        (7, r"it holds '\|O', expected plain numbers or text"),
        (9, "what are no characters"),
        (11, "the member 'images' is there twice"),
        (12, "the member 'images' is there twice"),
        (14, "the name of a member has 60000 characters"),
        (15, "packed by method 14"),
        (16, "its list of members is too long"),
        (17, "it is encrypted"),
    ],
)
def test_the_reason_is_said(tmp_path: Path, number: int, said: str) -> None:
    (tmp_path / "a").write_bytes([content for _, content in hostile_arrays(0, 20)][number])
    with pytest.raises(ValueError, match=said), ArrayFile(tmp_path / "a") as file:
        file.read(file.names[0])


def test_one_member_is_read_whatever_the_others_are(tmp_path: Path) -> None:
    content = npz([("a.npy", npy(np.arange(9))), ("b.npy", b"no array"), ("notes.txt", b"text")])
    (tmp_path / "a.npz").write_bytes(content)
    with ArrayFile(tmp_path / "a.npz") as file:
        assert file.read("a").tolist() == list(range(9))
        with pytest.raises(KeyError):
            file.read("c")
        with pytest.raises(ValueError, match="no array of numpy's"):
            file.read("notes.txt")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_changed_byte_of_a_members_data_is_found(tmp_path: Path, method: int) -> None:
    content = npz([("a.npy", npy(np.arange(40)))], method)
    start = content.index(b"\x93NUMPY") + 200 if method == zipfile.ZIP_STORED else 60
    for place in range(start, content.index(b"PK\1\2"), 7):
        changed = bytearray(content)
        changed[place] ^= 16
        (tmp_path / "a.npz").write_bytes(changed)
        with pytest.raises(ValueError), ArrayFile(tmp_path / "a.npz") as file:
            file.read("a")


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.zeros(100, np.uint8))
    assert read_npy(tmp_path / "a.npy", most=100).shape == (100,)
    with pytest.raises(ValueError, match=r"uint8 \[100\], which is more than 99 bytes"):
        read_npy(tmp_path / "a.npy", most=99)
    assert available_memory() > 2**20
    monkeypatch.setattr(arrays, "available_memory", lambda: 99)
    with pytest.raises(MemoryError, match="more than there is memory"):
        read_npy(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="it is an archive"):
        read_npy(tmp_path / "a.npz")


@pytest.mark.slow
def test_an_unused_member_costs_nothing(tmp_path: Path) -> None:
    """An .npz of some MB that would take 3 GB."""
    packed = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(tmp_path / "a.npz", "w", packed, compresslevel=1) as archive:
        archive.writestr("used.npy", npy(np.arange(9)))
        with archive.open("unused.npy", "w", force_zip64=True) as member:
            for _ in range(1500):
                member.write(bytes(2**21))
    code = (
        "import sys\n"
        "from primesvt_deploy.edge.runtime.arrays import ArrayFile\n"
        "with ArrayFile(sys.argv[1]) as file:\n"
        "    print(file.read('used').sum())\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.npz")],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)),
    )
    assert found.stdout == "36\n"
