"""Write a `model.svit` as C source, to compile it into the firmware of a microcontroller."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from primesvt_deploy.artifact.native_file import arena_bytes, shape_and_classes
from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.errors import SettingsError

__all__ = ["HEADER_NAME", "SOURCE_NAME", "NativeSource", "native_source", "write_native_source"]

SOURCE_NAME, HEADER_NAME = "model.c", "model.h"
_WORDS_A_LINE = 8
_ALIGNMENT = 64
"""Bytes that the file is aligned to, `SVIT_ALIGNMENT` in the engine."""

_SOURCE = """\
/* A model.svit as words: written by primesvt-deploy. */
#include "{header}"

const uint32_t svit_model_words[] __attribute__((aligned({alignment}))) = {{
{words}
}};
"""
_LABELS = """
const char *const svit_model_labels[SVIT_MODEL_CLASSES] = {{
{labels}
}};
"""
_HEADER = """\
/* A model.svit that is compiled in: written by primesvt-deploy.
 *
 *     static uint8_t arena[SVIT_MODEL_ARENA_BYTES] __attribute__((aligned({alignment})));
 *     svit_model model;
 *     int error = svit_open_unhashed(&model, svit_model_words, SVIT_MODEL_BYTES);
 *     error = svit_run(&model, arena, pixels, logits); // uint8 [HEIGHT, WIDTH, CHANNELS]
 */
#ifndef SVIT_MODEL_H
#define SVIT_MODEL_H

#include <stdint.h>

#define SVIT_MODEL_BYTES {bytes}
#define SVIT_MODEL_ARENA_BYTES {arena}
#define SVIT_MODEL_HEIGHT {height}
#define SVIT_MODEL_WIDTH {width}
#define SVIT_MODEL_CHANNELS {channels}
#define SVIT_MODEL_CLASSES {classes}

extern const uint32_t svit_model_words[];
{labels}
#endif
"""
_DECLARED_LABELS = "extern const char *const svit_model_labels[SVIT_MODEL_CLASSES];\n"


@dataclass(frozen=True, kw_only=True)
class NativeSource:
    """A model as C source.

    Args:
        source: content of `model.c`.
        header: content of `model.h`.
    """

    source: str
    header: str


def native_source(content: bytes, *, labels: Sequence[str] = ()) -> NativeSource:
    """A `model.svit` as C99 source: the same bytes, as little-endian words in flash.

    Args:
        content: of the file.
        labels: of the classes, in the order of the logits; none: the source has none.

    Raises:
        SettingsError: another number of labels than classes.
    """
    channels, height, width, classes = shape_and_classes(content)
    if labels and len(labels) != classes:
        raise SettingsError(
            f"{len(labels)} labels, and the model has {classes} classes: pass one for each"
        )
    source = _SOURCE.format(header=HEADER_NAME, alignment=_ALIGNMENT, words=_words(content))
    if labels:
        source += _LABELS.format(labels="\n".join(f"    {_quoted(label)}," for label in labels))
    header = _HEADER.format(
        alignment=_ALIGNMENT,
        bytes=len(content),
        arena=arena_bytes(content),
        height=height,
        width=width,
        channels=channels,
        classes=classes,
        labels=_DECLARED_LABELS if labels else "",
    )
    return NativeSource(source=source, header=header)


def write_native_source(
    directory: str | os.PathLike[str], content: bytes, *, labels: Sequence[str] = ()
) -> tuple[Path, Path]:
    """Write `model.c` and `model.h`, replaced whole if they exist; gives their paths.

    Args:
        directory: that stands already.
        content: of a `model.svit`.
        labels: of the classes; see `native_source`.

    Raises:
        SettingsError: another number of labels than classes.
    """
    written = native_source(content, labels=labels)
    source, header = Path(directory) / SOURCE_NAME, Path(directory) / HEADER_NAME
    write_whole(source, written.source)
    write_whole(header, written.header)
    return source, header


def _words(content: bytes) -> str:
    whole = content + bytes(-len(content) % 4)
    words = [f"0x{word:08x}," for word in np.frombuffer(whole, dtype="<u4").tolist()]
    lines = range(0, len(words), _WORDS_A_LINE)
    return "\n".join("    " + " ".join(words[at : at + _WORDS_A_LINE]) for at in lines)


def _quoted(text: str) -> str:
    """A C string literal of UTF-8; bytes beyond printable ASCII are octal, which ends by itself."""
    plain = {ord("\\"): "\\\\", ord('"'): '\\"', ord("?"): "\\?"}  # "??" begins a trigraph
    parts = (
        plain.get(byte, chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}")
        for byte in text.encode()
    )
    return '"' + "".join(parts) + '"'
