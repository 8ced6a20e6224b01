"""A file of stages: each is the model of its timesteps, and runs stop where the margins say."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from staged_models import export_stages, middle_margin, normalised, stage_models

from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.edge.runtime.errors import BundleError
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.stages import margins_of
from primesvt_deploy.settings import Precision

pytestmark = pytest.mark.slow  # the engine is compiled, and networks are traced

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
_TIMESTEPS_AT, _EARLY_AT, _HASH = 13 * 4 + 24, 116, slice(16, 48)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("stages") / "model.svit"
    export_stages(target, margin=middle_margin(IMAGES))
    return target


@pytest.mark.parametrize("bits", [8, 4])
def test_each_stage_is_the_file_of_its_model_alone(bits: int, tmp_path: Path) -> None:
    artifact = export_stages(tmp_path / "stages.svit", margin=1.0, bits=bits)
    precision = Precision.INT8 if bits == 8 else Precision.INT4
    alone = []
    for number, model in enumerate(stage_models(bits)):
        alone.append(export_native(model, tmp_path / f"{number}.svit", precision=precision))
        expected = NativeModel(alone[-1].path).logits_of_pixels(IMAGES)
        stage = NativeModel(artifact.path, stage=number)
        np.testing.assert_array_equal(stage.logits_of_pixels(IMAGES), expected)
        _, timesteps = stage.logits_and_timesteps(normalised(IMAGES))
        assert set(timesteps) == {model.timesteps}
    assert artifact.arena_bytes == max(each.arena_bytes for each in alone)


def test_stages_share_their_weights(path: Path, tmp_path: Path) -> None:
    """What more there is: records, and scales and biases of the layers."""
    for model in stage_models():
        weights = [x.weight for x in model.module.modules() if hasattr(x, "weight")]
    outputs = sum(len(weight) for weight in weights)
    alone = export_native(stage_models()[-1], tmp_path / "alone.svit", precision=Precision.INT8)
    content = alone.path.read_bytes()
    (records,) = struct.unpack_from("<I", content, 56)
    more = len(path.read_bytes()) - len(content)
    assert more <= 2 * (records + 8 * outputs + 64)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_runs_stop_at_the_first_stage_that_is_sure(path: Path, threads: int) -> None:
    model, inputs = NativeModel(path, threads=threads), normalised(IMAGES)
    stages = [NativeModel(path, stage=number).logits(inputs) for number in range(3)]
    is_sure = margins_of(stages[0]) >= np.float32(model.stages[0].margin)
    assert 0 < is_sure.sum() < len(IMAGES)
    expected = np.where(is_sure[:, None], stages[0], stages[2])
    for _ in range(2):  # one by one all threads work on a sample, in a batch one on each
        for i in range(len(inputs)):
            logits, timesteps = model.logits_and_timesteps(inputs[i : i + 1])
            np.testing.assert_array_equal(logits[0], expected[i])
            assert timesteps[0] == (1 if is_sure[i] else 3)
    logits, timesteps = model.logits_and_timesteps(inputs)
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(timesteps, np.where(is_sure, 1, 3))


def test_the_whole_model_takes_all_timesteps(path: Path) -> None:
    whole, inputs = NativeModel(path).whole(), normalised(IMAGES)
    logits, timesteps = whole.logits_and_timesteps(inputs)
    np.testing.assert_array_equal(logits, NativeModel(path, stage=2).logits(inputs))
    assert set(timesteps) == {3} and len(whole.stages) == 3


def test_layers_are_observed_of_the_stage_that_decides(path: Path) -> None:
    model, (sample, *_) = NativeModel(path), normalised(IMAGES)
    _, (timesteps,) = model.logits_and_timesteps(sample[None])
    spikes = [counts for counts in model.observe(sample).values() if counts.dtype == np.uint8]
    assert {len(counts) for counts in spikes} == {timesteps}


def test_there_is_no_other_stage(path: Path) -> None:
    assert [stage.timesteps for stage in NativeModel(path).stages] == [1, 2, 3]
    for number in (3, -2):
        with pytest.raises(BundleError):
            NativeModel(path, stage=number)


@pytest.mark.parametrize(
    "words",
    [
        {_EARLY_AT: 3},  # records of operators for a stage
        {_EARLY_AT: 2**31},
        {_EARLY_AT + 4: 2**30},
        {_TIMESTEPS_AT: 2},  # no more than the stage before
        {"first": 3},
        {"first": 0},
        {"second": 1},
        {"operators": 1000},
    ],
    ids=str,
)
def test_altered_stages_are_refused(
    path: Path, words: dict[int | str, int], tmp_path: Path
) -> None:
    content = bytearray(path.read_bytes())
    (table,) = struct.unpack_from("<I", content, _EARLY_AT + 4)
    places = {"first": table + 12, "second": table + 28 + 12, "operators": table}
    for place, value in words.items():
        struct.pack_into("<I", content, places.get(place, place), value)  # type: ignore[call-overload]
    content[_HASH] = bytes(32)
    content[_HASH] = hashlib.sha256(content).digest()
    (tmp_path / "altered.svit").write_bytes(content)
    with pytest.raises(BundleError, match="out of bounds"):
        NativeModel(tmp_path / "altered.svit")
