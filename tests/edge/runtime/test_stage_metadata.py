"""Stages as the metadata of an ONNX file say them, and as others may have altered them."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
from hostile_json import mutations

from primesvt_deploy.edge.runtime.errors import BundleError
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.edge.runtime.stages import STAGES_KEY, Stage, read_stages, stages_json

STAGES = (Stage(1, 2.5), Stage(2, math.inf), Stage(4, 0.0))


def marked(path: Path, **metadata: str) -> Path:
    """A copy of a file with these metadata, by keys without their prefix."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {f"primesvt.{key}": x for key, x in metadata.items()})
    onnx.save(model, path.with_name("marked.onnx"))
    return path.with_name("marked.onnx")


def test_what_is_written_is_read() -> None:
    assert read_stages({STAGES_KEY: stages_json(STAGES)}) == STAGES
    assert read_stages({}) == ()


def test_altered_stages_are_read_or_refused_in_one_line() -> None:
    read = 0
    content = [vars(stage) for stage in (Stage(1, 2.5), Stage(2, 0.0))]
    for described, text in mutations(content, seed=0, count=10**6):
        try:
            found = read_stages({STAGES_KEY: text.decode(errors="replace")})
        except BundleError as error:
            said = str(error)
            assert said.isprintable() and len(said) < 1000, (described, said[:300])
        else:
            assert all(stage.timesteps > 0 and stage.margin >= 0.0 for stage in found), described
            read += 1
    assert read > 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"primesvt\.stages in the ONNX file is damaged: it is not complete JSON"),
        ('[{"timesteps": 0, "margin": 1}]', r"\[0\]\.timesteps is 0, expected a whole number"),
        (stages_json(STAGES), r"has stages and 1 outputs, expected 2; copy it again"),
    ],
)
def test_damaged_stages_of_a_file_are_one_line(text: str, said: str, tiny_files: Path) -> None:
    with pytest.raises(BundleError, match=said):
        OnnxModel(marked(tiny_files / "model.onnx", stages=text), threads=1)


def test_metadata_that_are_no_text_are_one_line(tiny_files: Path) -> None:
    path = marked(tiny_files / "model.onnx", stages="@@@@@@@@")
    path.write_bytes(path.read_bytes().replace(b"@@@@@@@@", b"\xff\xfe\xed\xa0\x80@@@"))
    with pytest.raises(BundleError, match="metadata in the ONNX file is damaged"):
        OnnxModel(path, threads=1)
