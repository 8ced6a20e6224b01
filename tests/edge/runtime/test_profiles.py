"""Session profiles and `session.json`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hostile_json import mutations
from sealed_bundles import unchecked

from primesvt_deploy.edge.runtime.bundle import Bundle
from primesvt_deploy.edge.runtime.errors import BundleError
from primesvt_deploy.edge.runtime.profiles import (
    SessionProfile,
    make_profile,
    read_session,
    session_json,
)
from primesvt_deploy.edge.runtime.session import session_options
from primesvt_deploy.edge.runtime.versions import lacking

GOOD = make_profile("low-memory", "model.ort").to_dict()


def written(directory: Path, content: object) -> Bundle:
    (directory / "session.json").write_text(json.dumps(content))
    return unchecked(directory)


def test_a_profile_survives_json() -> None:
    for name in ("latency", "low-memory", "defaults"):
        profile = make_profile(name, "model.ort")
        assert SessionProfile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


def test_what_is_written_is_read(tmp_path: Path) -> None:
    requires = {"com.microsoft::MatMulIntegerToFloat": "1.20", "opset": "1.14"}
    content = session_json(requires=requires, default="low-memory", low_memory_file="model.ort")
    assert content["schema"] == "primesvt-session/1"
    session = read_session(written(tmp_path, content))
    assert session.requires == requires
    assert session.profile() == session.profile("") == make_profile("low-memory", "model.ort")
    assert session.profile("latency") == make_profile("latency")


def test_a_bundle_of_an_older_build_gets_the_defaults(tmp_path: Path) -> None:
    session = read_session(unchecked(tmp_path))
    assert session.profile() == make_profile("latency", "model.onnx")
    assert session.profile("low-memory") == make_profile("low-memory", "model.onnx")
    assert not session.requires


def test_only_a_file_in_onnxruntimes_format_is_mapped() -> None:
    mapped = "session.use_memory_mapped_ort_model"
    assert mapped not in make_profile("low-memory", "model.onnx").config
    assert make_profile("low-memory", "model.ort").config[mapped] == "1"


def test_an_unknown_profile_is_one_line(tmp_path: Path) -> None:
    expected = "there is no session profile 'fast': pass latency or low-memory"
    with pytest.raises(BundleError, match=expected):
        read_session(unchecked(tmp_path)).profile("fast")
    with pytest.raises(BundleError, match=r"'fast': pass latency, low-memory or defaults"):
        make_profile("fast")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "name is ''"),
        ({"name": "a\nb"}, "name is"),
        ({"file": "../model.onnx"}, "expected the name of a file in the bundle"),
        ({"file": ".."}, "file is '..'"),
        ({"file": None}, "file is null"),
        ({"graph_optimization_level": "most"}, "expected one of all, extended, basic, disabled"),
        ({"graph_optimization_level": ["all"]}, "graph_optimization_level"),
        ({"enable_mem_reuse": 1}, "expected true or false"),
        (
            {"config": {"session.disable_prepacking": 1}},
            "config['session.disable_prepacking'] is 1",
        ),
        ({"config": []}, "config is"),
        ({"speed": 1}, "found ["),
        (
            {
                "config": {
                    "session.use_ort_model_bytes_directly": "1",
                    "session.use_ort_model_bytes_for_initializers": "1",
                }
            },
            "crash onnxruntime together",
        ),
    ],
)
def test_a_damaged_profile_is_one_line(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    content = session_json()
    content["profiles"]["low-memory"] = GOOD | changes
    with pytest.raises(BundleError) as caught:
        read_session(written(tmp_path, content))
    assert said in str(caught.value) and str(caught.value).isprintable()
    assert str(caught.value).startswith(str(tmp_path / "session.json"))


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "primesvt-session/9"},
        {"requires": None},
        {"requires": {"opset": "new"}},
        {"requires": {"opset": 1.2}},
        {"profiles": None},
        {"profiles": {}},
        {"profiles": {"latency": []}},
        {"default": "fast"},
        {"default": None},
    ],
    ids=str,
)
def test_a_damaged_session_is_one_line(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        read_session(written(tmp_path, session_json() | changes))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff"])
def test_what_is_no_json_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "session.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match=r"session\.json"):
        read_session(unchecked(tmp_path))


def test_a_builder_cannot_write_what_no_reader_takes() -> None:
    for wrong in ({"default": "fast"}, {"requires": {"opset": "x"}}, {"low_memory_file": "a/b"}):
        with pytest.raises(BundleError):
            session_json(**wrong)  # type: ignore[arg-type]


def test_a_profile_under_another_name_is_refused(tmp_path: Path) -> None:
    content = session_json()
    content["profiles"]["latency"]["name"] = "low-memory"
    with pytest.raises(BundleError, match="'latency' is called 'low-memory'"):
        read_session(written(tmp_path, content))


def test_an_altered_session_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    content = session_json(requires={"opset": "1.14"}, low_memory_file="model.ort")
    kept = 0
    for described, text in mutations(content, seed=0, count=10**6):
        (tmp_path / "session.json").write_bytes(text)
        try:
            session = read_session(unchecked(tmp_path))
        except BundleError as error:
            said = str(error)
            assert said.isprintable() and len(said) < 1000, (described, said[:300])
        else:
            session_options(session.profile(), 1)
            lacking("1.20", session.requires)
            kept += 1
    assert kept > 10


def test_a_pipe_is_refused_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "session.json")
    with pytest.raises(BundleError, match=r"session\.json is damaged: it is a pipe \(FIFO\)"):
        read_session(unchecked(tmp_path, files={"session.json": {}}))
