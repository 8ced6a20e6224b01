from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from primesvt_deploy.errors import BundleError
from primesvt_deploy.report.content import (
    ClassifiedImage,
    ConfusedPair,
    LayerBytes,
    LayerFiring,
    ReportContent,
    SampleImage,
    Sensitivity,
    SpikeRaster,
    encode_content,
    read_content,
)

PICTURE = "data:image/png;base64,iVBORw0KGgo="
CONTENT = ReportContent(
    layers=(LayerBytes(layer="head", dense=8, shipped=4),),
    sensitivity=(Sensitivity(group="a", rates=(0.5,), values=(0.25,)),),
    firing=(
        LayerFiring(
            layer="stem.0", dense=0.5, shipped=None, by_timestep=(), channels=0, silent=0,
            constant=0,
        ),
    ),
    sample=SampleImage(
        image=PICTURE, label="ant", predicted="ant", probability=0.75,
        rasters=(SpikeRaster(layer="stem.0", rates=((0.5, 0.25), (0.0, 1.0))),),
        attention=((1.5, 2.0),), attention_layer="attn",
    ),
    classes=("ant", "bee"),
    confusion=(ConfusedPair(label=0, predicted=1, dense=2, shipped=3),),
    lost=(
        ClassifiedImage(
            index=3, image=PICTURE, label="ant", dense_probability=0.75, predicted="bee",
            shipped_probability=0.5,
        ),
    ),
)  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(encode_content(CONTENT))
    assert read_content(path) == CONTENT


def put(place: str, value: Any) -> bytes:
    """The content with another value at a place such as `sample.image`."""
    content = json.loads(encode_content(CONTENT))
    *parents, last = place.split(".")
    owner = content
    for name in parents:
        owner = owner[int(name) if name.isdigit() else name]
    owner[last] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "truncated"),
        (b"\xff", "malformed"),
        (b"[" * 100_000, ""),
        (put("layers.0.dense", -1), ">= 0"),
        (put("layers.0.dense", 2**70), ""),
        (put("layers.0.more", 1), "unknown field `more`"),
        (put("sample.probability", 1.5), "<= 1.0"),
        (put("sample.probability", "much"), "`$.sample.probability`"),
        (put("sample.image", "https://example.org/a.png"), "`$.sample.image`"),
        (put("sample.image", "data:image/svg+xml;base64,AAAA"), "`$.sample.image`"),
        (put("lost.0.image", PICTURE + "\n"), "`$.lost[0].image`"),
        (put("sample.rasters.0.rates", [[0.5], [0.5, 0.5]]), "rows of several lengths"),
        (put("sensitivity.0.values", []), "one value a rate"),
        (put("confusion.0.predicted", 2), "beyond the 2"),
        (put("schema", "primesvt-report/9"), "expected 'primesvt-report/1'"),
    ],
)
def test_what_no_build_writes_is_refused_in_one_line(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="is not what a build writes") as caught:
        read_content(path)
    assert said in str(caught.value) and len(str(caught.value.args[0]).splitlines()) == 1


def test_a_bundle_of_an_earlier_version(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"there is no .*report\.json: .* build it again"):
        read_content(tmp_path / "report.json")


def test_what_is_no_file_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="it is a directory"):
        read_content(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BundleError, match="a pipe"):
        read_content(tmp_path / "pipe")
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(16_000_001)
    with pytest.raises(BundleError, match="more than 16000000 bytes"):
        read_content(large)
