from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from other_device import OTHER, other_device
from out_of_memory import memory_for
from recorded_progress import Recorded

from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.data import DataSet
from primesvt_deploy.errors import SettingsError, VerificationError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision
from primesvt_deploy.verification.native import verify_native
from primesvt_deploy.verification.outcome import Verification
from primesvt_deploy.verification.verify import verify_artifact


@pytest.fixture
def path(tiny_files: Path) -> Path:
    return tiny_files / "model.onnx"


def altered(path: Path, name: str, change: float, place: int = 0) -> Path:
    """The file with one value of one initializer changed."""
    model = onnx.load(path)
    entry = next(e for e in model.graph.initializer if e.name == name)
    values = numpy_helper.to_array(entry).copy()
    values.reshape(-1)[place] += change
    entry.CopyFrom(numpy_helper.from_array(values, name))
    target = path.with_name("altered.onnx")
    onnx.save(model, target)
    return target


def test_a_true_artifact_passes(tiny: SViT, path: Path, tiny_data: DataSet) -> None:
    outcome = verify_artifact(tiny, path, tiny_data.search).require()
    assert outcome.n == len(tiny_data.search)
    assert outcome.max_difference_without_flips <= 1e-4
    # 19 neuron layers were compared, each whole.
    assert set(outcome.flips) >= {"stem.0", "blocks.0.attn", "blocks.1.mlp.fc2"}
    assert outcome.spikes_compared > 1_000_000


def test_another_head_is_found_by_its_logits(tiny: SViT, path: Path, tiny_data: DataSet) -> None:
    wrong = altered(path, "head.bias", 0.01)
    with pytest.raises(VerificationError, match="without a flipped spike"):
        verify_artifact(tiny, wrong, tiny_data.search).require()


def test_another_weight_is_found_by_its_flips(tiny: SViT, path: Path, tiny_data: DataSet) -> None:
    outcome = verify_artifact(tiny, altered(path, "stem.1.conv.bias", 0.4), tiny_data.search)
    # Flips begin where the weight is, in no layer before it, and at some timestep.
    assert not any(outcome.flips["stem.0"])
    assert sum(outcome.flips["stem.1"]) > 0
    assert len(outcome.flips["stem.1"]) == tiny.timesteps
    assert outcome.images_with_flips > 0
    with pytest.raises(VerificationError, match="flipped"):
        outcome.require()


def test_flips_are_attributed_to_the_images_that_disagree(
    tiny: SViT, path: Path, tiny_data: DataSet
) -> None:
    outcome = verify_artifact(tiny, altered(path, "stem.1.conv.bias", 0.4), tiny_data.search)
    assert 0 < outcome.top1_disagreements < outcome.n
    assert len(outcome.disagreeing_images) == outcome.top1_disagreements
    some = sum(map(sum, outcome.flips_on_disagreements.values()))
    assert 0 < some < outcome.flipped_spikes


def with_logits(path: Path, *nodes: onnx.NodeProto) -> Path:
    """The file with `nodes` that make `logits` of `whole`, its own logits."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[:] = ["whole" if name == "logits" else name for name in node.output]
    model.graph.node.extend(nodes)
    target = path.with_name("mixing.onnx")
    onnx.save(model, target)
    return target


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (
            (
                onnx.helper.make_node("ReduceMean", ["whole"], ["mean"], keepdims=1),
                onnx.helper.make_node("Sub", ["whole", "mean"], ["logits"]),
            ),
            "change with those beside them",
        ),
        (
            (
                onnx.helper.make_node("ReduceMax", ["whole"], ["most"], keepdims=1),
                onnx.helper.make_node("Sub", ["whole", "most"], ["logits"]),
            ),
            "logits of an image alone differ",
        ),
        (
            (
                onnx.helper.make_node("Shape", ["whole"], ["size"], start=0, end=1),
                onnx.helper.make_node("Cast", ["size"], ["factor"], to=onnx.TensorProto.FLOAT),
                onnx.helper.make_node("Mul", ["whole", "factor"], ["logits"]),
            ),
            "logits of an image alone differ",
        ),
    ],
    ids=["neighbours", "largest", "size of the batch"],
)
def test_an_artifact_whose_images_see_each_other_does_not_pass(
    tiny: SViT,
    path: Path,
    tiny_data: DataSet,
    nodes: tuple[onnx.NodeProto, ...],
    said: str,
) -> None:
    outcome = verify_artifact(tiny, with_logits(path, *nodes), tiny_data.search.first(8))
    assert any(said in failure for failure in outcome.failures())


def test_nan_does_not_pass(tiny: SViT, path: Path, tiny_data: DataSet) -> None:
    outcome = verify_artifact(tiny, altered(path, "head.bias", np.nan), tiny_data.search)
    assert outcome.failures()


def test_the_artifact_of_another_model_is_refused(
    tiny: SViT, path: Path, tiny_data: DataSet
) -> None:
    model = onnx.load(path)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = name.replace("stem.2.spikes", "other.spikes")
    onnx.save(model, path)
    with pytest.raises(VerificationError, match="no spikes of layer"):
        verify_artifact(tiny, path, tiny_data.search)


@pytest.mark.parametrize("key", ["neurons", "real", "folded"])
def test_damaged_metadata_are_one_line(
    key: str, tiny: SViT, path: Path, tiny_data: DataSet
) -> None:
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {f"primesvt.{key}": '[{"names": 1}]'})
    onnx.save(model, path)
    with pytest.raises(VerificationError, match=rf"^primesvt\.{key} in the ONNX file is damaged"):
        verify_artifact(tiny, path, tiny_data.search.first(4))


def test_metadata_of_others_are_left_alone(tiny: SViT, path: Path, tiny_data: DataSet) -> None:
    model = onnx.load(path)
    model.metadata_props.add(key="author", value="no {JSON")
    onnx.save(model, path)
    verify_artifact(tiny, path, tiny_data.search.first(4)).require()


def test_no_images_no_verification(tiny: SViT, path: Path, tiny_data: DataSet) -> None:
    with pytest.raises(VerificationError, match="no image"):
        verify_artifact(tiny, path, tiny_data.search.first(0))


def test_a_fixed_batch_is_verified_in_whole_batches(
    tiny: SViT, tmp_path: Path, tiny_data: DataSet
) -> None:
    path = export_onnx(tiny, tmp_path / "seven.onnx", batch=7).path
    assert verify_artifact(tiny, path, tiny_data.search.first(30)).n == 28
    with pytest.raises(VerificationError, match="do not fill"):
        verify_artifact(tiny, path, tiny_data.search.first(3))


def test_verification_leaves_no_hooks_behind(tiny: SViT, path: Path, tiny_data: DataSet) -> None:
    verify_artifact(tiny, path, tiny_data.search.first(4))
    assert not any(module._forward_hooks for module in tiny.module.modules())
    assert isinstance(tiny.logits(torch.zeros(1, 3, 16, 16)), torch.Tensor)


def chaotic(
    flipped: int, rounding: int | None, disagreements: int = 0, difference: float = 0.5
) -> Verification:
    return Verification(
        n=100, top1_disagreements=disagreements, disagreeing_images=(), max_difference=1.0,
        max_difference_without_flips=0.0, images_with_flips=100, spikes_compared=10_000,
        flips={"stem.0": (flipped,)}, flips_on_disagreements={}, rounding_flips=rounding,
        rounding_disagreements=disagreements, rounding_difference=difference,
    )  # fmt: skip


def test_flips_that_rounding_makes_in_the_model_itself_are_explained_by_it() -> None:
    assert chaotic(200, None).failures()
    assert not chaotic(200, 150).failures()
    (said,) = chaotic(700, 150).failures()
    assert "700 of 10000 spikes are flipped" in said
    assert "rounding flips 150 in the model itself" in said
    assert not chaotic(200, 150, disagreements=8).failures()
    (said,) = chaotic(200, 150, difference=0.1).failures()
    assert said == "logits differ by 1, by rounding in the model itself at most by 0.1"


def test_another_head_is_found_where_every_image_has_a_flip(
    tiny: SViT, path: Path, tiny_data: DataSet
) -> None:
    """A bias of the head flips no spike, and a flip excuses no difference that it cannot make."""
    images = tiny_data.search.first(16)
    wrong = altered(altered(path, "stem.0.conv.bias", 0.03), "head.bias", 0.5)
    outcome = verify_artifact(tiny, wrong, images)
    assert outcome.images_with_flips == outcome.n
    assert any("by rounding in the model itself at most" in said for said in outcome.failures())


def test_a_wrong_weight_is_not_explained_by_rounding(
    tiny: SViT, path: Path, tiny_data: DataSet
) -> None:
    outcome = verify_artifact(tiny, altered(path, "stem.1.conv.bias", 0.4), tiny_data.search)
    assert outcome.rounding_flips is not None, "it was measured"
    assert outcome.rounding_flips < 1e-3 * outcome.flipped_spikes
    assert outcome.failures()


class TestOnAnotherDevice:
    """The model runs there, beside the artifact on the CPU; outcomes are the same."""

    def test_with_flips_and_double_precision(
        self, tiny: SViT, path: Path, tiny_data: DataSet
    ) -> None:
        wrong, images = altered(path, "stem.1.conv.bias", 0.4), tiny_data.search.first(8)
        expected = verify_artifact(tiny, wrong, images)
        with other_device():
            found = verify_artifact(tiny, wrong, images, device=OTHER)
        assert found == expected
        assert expected.flipped_spikes and expected.rounding_flips is not None

    @pytest.mark.slow
    def test_of_integer_artifacts(self, tiny: SViT, tmp_path: Path, tiny_data: DataSet) -> None:
        quantized, images = quantize(tiny, 8), tiny_data.search.first(20)
        onnx_file = export_onnx(quantized, tmp_path / "m.onnx", precision=Precision.INT8).path
        native = export_native(quantized, tmp_path / "m.svit", precision=Precision.INT8).path
        # Behind float layers spikes are compared where some flip: one float layer is altered.
        wrong = altered(onnx_file, "stem.0.conv.bias", 0.4)
        outcomes = []
        with other_device():
            for device in (torch.device("cpu"), OTHER):
                flipped = verify_artifact(quantized, wrong, images, device=device)
                of_engine = verify_native(
                    quantized, native, images, precision=Precision.INT8, device=device
                )
                outcomes.append((flipped, of_engine.require()))
        assert outcomes[0] == outcomes[1]
        assert flipped.flipped_spikes and flipped.flips_behind_float_layers == 0


@pytest.mark.slow
def test_images_that_do_not_fit_are_compared_in_halves(
    tiny: SViT, tmp_path: Path, tiny_data: DataSet
) -> None:
    quantized, images = quantize(tiny, 8), tiny_data.search.first(20)
    path = export_onnx(quantized, tmp_path / "m.onnx", precision=Precision.INT8).path
    fixed = export_onnx(quantized, tmp_path / "4.onnx", precision=Precision.INT8, batch=4).path
    expected, progress = verify_artifact(quantized, path, images), Recorded()
    with memory_for(5, tiny.timesteps) as failed:
        found = verify_artifact(quantized, path, images, progress=progress)
    assert failed == [16, 8]
    assert found.n == expected.n and found.flips == expected.flips
    assert progress.messages[-1].endswith(
        "a batch of 8 does not fit the device's memory: 4 from now on"
    )
    with memory_for(3, tiny.timesteps), pytest.raises(SettingsError, match="batch of 4 does not"):
        verify_artifact(quantized, fixed, images)
