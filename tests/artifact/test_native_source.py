"""A model as C source is the bytes of its file, and compiles; labels are text that C reads back."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from small_models import LABELS, SHALLOW, make_model

from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.artifact.native_source import native_source, write_native_source
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

pytestmark = pytest.mark.slow  # a network is traced
ODD_LABELS = ('quote " and \\', "what??!", "größe", "\n", "0123")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> NativeModel:
    path = tmp_path_factory.mktemp("native") / "model.svit"
    export_native(quantize(make_model(SHALLOW), 8), path, precision=Precision.INT8)
    return NativeModel(path)


@pytest.fixture(scope="module")
def content(model: NativeModel) -> bytes:
    return bytes(model._file)


def compiled(directory: Path, content: bytes, labels: tuple[str, ...]) -> ctypes.CDLL:
    source, _ = write_native_source(directory, content, labels=labels)
    library = directory / "model.so"
    flags = "-std=c99 -Wall -Wextra -Wconversion -Wpedantic -Werror -shared -fPIC"
    subprocess.run(["gcc", *flags.split(), "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


def test_words_are_the_bytes_of_the_file(content: bytes, tmp_path: Path) -> None:
    odd = content + b"\1"  # no whole number of words
    library = compiled(tmp_path, odd, ())
    words = (ctypes.c_uint8 * len(odd)).in_dll(library, "svit_model_words")
    assert bytes(words) == odd
    assert ctypes.addressof(words) % 64 == 0
    assert not hasattr(library, "svit_model_labels")


def test_labels_are_what_they_were(content: bytes, tmp_path: Path) -> None:
    library = compiled(tmp_path, content, ODD_LABELS)
    labels = (ctypes.c_char_p * len(ODD_LABELS)).in_dll(library, "svit_model_labels")
    assert tuple(label.decode() for label in labels) == ODD_LABELS


def test_the_header_says_what_the_model_takes(model: NativeModel, content: bytes) -> None:
    header = native_source(content).header
    defined = dict(
        line.split()[1:3]
        for line in header.splitlines()
        if line.startswith("#define SVIT_MODEL_") and len(line.split()) > 2
    )
    sizes = ("CHANNELS", "HEIGHT", "WIDTH", "CLASSES", "ARENA_BYTES", "BYTES")
    found = tuple(int(defined[f"SVIT_MODEL_{name}"]) for name in sizes)
    assert found == (*model.sample_shape, model.classes, model.arena_bytes, len(content))


def test_the_same_model_gives_the_same_source_in_short_lines(content: bytes) -> None:
    source = native_source(content, labels=LABELS)
    assert source == native_source(content, labels=LABELS)
    assert max(len(line) for line in source.source.splitlines()) <= 100
    words = np.frombuffer(content[:4], dtype="<u4")
    assert f"0x{words[0]:08x}," in source.source


def test_another_number_of_labels_is_refused(content: bytes) -> None:
    with pytest.raises(SettingsError, match="2 labels, and the model has 5 classes"):
        native_source(content, labels=("one", "two"))
