"""Fine-tuning: it learns, it resumes to the bit, and it refuses what cannot be trained."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from families.zoo import ZOO
from small_models import make_model, write_arrays

from primesvt_deploy.compute.device import CPU
from primesvt_deploy.data import DataSet, open_data
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.errors import DataError, SettingsError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.progress import SILENT, Silent
from primesvt_deploy.settings import ComputeSettings, FinetuneSettings
from primesvt_deploy.training import finetuning
from primesvt_deploy.training.batches import WHOLE, Batches, Share
from primesvt_deploy.training.finetune import Finetuned, check_finetune, finetune
from primesvt_deploy.training.finetuning import FinetuneJob, Finetuning

SETTINGS = FinetuneSettings(epochs=2, batch_size=16, images=64, learning_rate=1e-3)


@pytest.fixture
def train(tiny_data: DataSet) -> ImageList:
    return tiny_data.search  # as good as any labelled images here


def weights(found: Finetuned) -> dict[str, torch.Tensor]:
    return dict(found.model.module.state_dict())


def same(one: Finetuned, other: Finetuned) -> bool:
    mine, theirs = weights(one), weights(other)
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.slow
def test_the_loss_falls_and_the_model_itself_is_left_alone(tiny: SViT, train: ImageList) -> None:
    before = tiny.digest
    student = make_model(seed=5)
    found = finetune(student, tiny, train, replace(SETTINGS, epochs=6, learning_rate=5e-3))
    assert found.losses[-1] < 0.8 * found.losses[0]
    assert tiny.digest == before
    assert student.digest == make_model(seed=5).digest != found.model.digest
    assert found.images == 6 * 64
    assert not found.model.module.training
    assert not any(p.requires_grad for p in found.model.module.parameters())


@pytest.mark.slow
def test_the_teacher_is_followed_where_labels_say_nothing(tiny: SViT, train: ImageList) -> None:
    student = make_model(seed=5)
    settings = replace(SETTINGS, epochs=8, learning_rate=5e-3, distillation=1.0)
    found = finetune(student, tiny, train, settings)
    inputs = torch.from_numpy(train.inputs(0, 64))
    taught = tiny.logits(inputs).softmax(1)

    def distance(model: SViT) -> float:
        return float((model.logits(inputs).softmax(1) - taught).abs().sum(1).mean())

    assert found.losses[-1] < 0.6 * found.losses[0]
    assert distance(found.model) < 0.95 * distance(student)


def begun(tiny: SViT, train: ImageList, settings: FinetuneSettings) -> Finetuning:
    job = FinetuneJob(model=tiny, dense=tiny, train=train, settings=settings)
    return Finetuning(job, CPU, share=WHOLE, keep=lambda state: None, progress=SILENT)


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [3, 4, 7])
def test_cut_off_and_resumed_it_ends_with_the_same_weights(
    tiny: SViT,
    train: ImageList,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    settings = replace(SETTINGS, timesteps=(1, 2))
    tiny = make_model(replace(tiny.config, timesteps=2))
    expected = finetune(tiny, tiny, train, settings)
    monkeypatch.setattr(finetuning, "SAVE_SECONDS", 0.0)
    steps = 0

    class Kill(Silent):
        def message(self, text: str, *more: str) -> None:
            self.text = text

        def step(self, note: str = "") -> None:
            nonlocal steps
            steps += 1
            if steps == at + 1:
                raise Killed

    path = tmp_path / "finetune.pt"
    with pytest.raises(Killed):
        finetune(tiny, tiny, train, settings, checkpoint=path, progress=Kill())
    steps, watcher = -100, Kill()
    resumed = finetune(tiny, tiny, train, settings, checkpoint=path, progress=watcher)
    assert steps == -100 + 8 - at, "it began anew"
    assert same(resumed, expected)
    assert resumed.losses == expected.losses


def test_what_a_step_draws_does_not_depend_on_the_steps_before(
    tiny: SViT, train: ImageList, tmp_path: Path
) -> None:
    model = make_model()
    model.module.position.neuron = torch.nn.Sequential(
        model.module.position.neuron, torch.nn.Dropout(0.5)
    )
    one = finetune(model, tiny, train, SETTINGS)
    torch.rand(17)  # whatever else draws in between
    assert same(one, finetune(model, tiny, train, SETTINGS))


def test_a_damaged_checkpoint_is_begun_anew(tiny: SViT, train: ImageList, tmp_path: Path) -> None:
    path = tmp_path / "finetune.pt"
    path.write_bytes(b"PK\x03\x04 torn")
    found = finetune(tiny, tiny, train, SETTINGS, checkpoint=path)
    assert same(found, finetune(tiny, tiny, train, SETTINGS))


@pytest.mark.slow
def test_another_question_does_not_go_on_from_the_checkpoint(
    tiny: SViT, train: ImageList, tmp_path: Path
) -> None:
    path = tmp_path / "finetune.pt"
    finetune(tiny, tiny, train, SETTINGS, checkpoint=path)
    other = replace(SETTINGS, learning_rate=1e-4)
    found = finetune(tiny, tiny, train, other, checkpoint=path)
    assert same(found, finetune(tiny, tiny, train, other))


def test_early_epochs_may_run_fewer_timesteps(
    tiny: SViT, train: ImageList, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(replace(tiny.config, timesteps=3))
    seen: list[int] = []
    whole = Finetuning.train_step

    def watched(self: Finetuning, batch: tuple[int, int]) -> None:
        neuron = self._student.blocks[0].mlp.fc1.neuron  # type: ignore[union-attr, index]
        neuron.register_forward_hook(lambda n, _a, y: seen.append(n.timesteps))
        whole(self, batch)

    monkeypatch.setattr(Finetuning, "train_step", watched)
    settings = replace(SETTINGS, epochs=3, timesteps=(1, 2, 3))
    found = finetune(model, model, train, settings)
    assert set(seen) == {1, 2, 3}
    assert found.model.timesteps == found.model.module.timesteps == 3


def test_the_learning_rate_warms_up_and_falls_to_nothing(tiny: SViT, train: ImageList) -> None:
    settings = replace(SETTINGS, epochs=5, warmup=0.2)
    run = begun(tiny, train, settings)
    rates = []
    for step in range(run.loop.total):
        run.loop.step = step
        rates.append(run._rate())
    assert rates[:4] == pytest.approx([1e-3 * i / 4 for i in (1, 2, 3, 4)])
    assert rates[4] == pytest.approx(1e-3)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] < 0.02e-3
    assert rates[12] == pytest.approx(0.5e-3 * (1 + math.cos(math.pi * 8 / 16)))


def test_weight_decay_is_for_weights_alone(tiny: SViT, train: ImageList) -> None:
    run = begun(tiny, train, SETTINGS)
    decayed, others = run._optimizer.param_groups
    assert decayed["weight_decay"] == SETTINGS.weight_decay
    assert others["weight_decay"] == 0.0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(list(run._student.parameters()))


@pytest.mark.parametrize("name", ["sdt-v2", "qkformer", "spikingresformer", "sdt-v3, 4 levels"])
def test_families_learn(name: str, tmp_path: Path) -> None:
    found = [key for key in ZOO if key.startswith(name.split(",")[0])]
    family, config = ZOO[found[0]]
    model = make_model(config, family=family)
    if config.frames:
        pytest.skip("written for images")
    data = open_data(model, write_arrays(tmp_path / "d.npz", model))
    result = finetune(model, model, data.search, replace(SETTINGS, epochs=1, images=32))
    changed = [
        key
        for key, value in result.model.module.state_dict().items()
        if not torch.equal(value, model.module.state_dict()[key])
    ]
    assert any(key.endswith("conv.weight") for key in changed)
    assert all(math.isfinite(loss) for loss in result.losses)


class TestRefusals:
    def test_no_train_split(self, tiny: SViT, tiny_data: DataSet) -> None:
        with pytest.raises(DataError, match="0 images to train on"):
            check_finetune(tiny, tiny_data.train, SETTINGS, "d")

    def test_less_than_a_batch(self, tiny: SViT, train: ImageList) -> None:
        with pytest.raises(DataError, match="needs 64"):
            check_finetune(tiny, train.first(40), FinetuneSettings(), "d")

    def test_timesteps_that_do_not_end_with_the_models_own(
        self, tiny: SViT, train: ImageList
    ) -> None:
        settings = replace(SETTINGS, timesteps=(tiny.timesteps, 1))
        with pytest.raises(SettingsError, match="would end with 1"):
            check_finetune(tiny, train, settings, "d")

    def test_more_timesteps_than_epochs(self) -> None:
        with pytest.raises(SettingsError, match="one an epoch"):
            replace(SETTINGS, epochs=1, timesteps=(1, 2))

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_gpu_that_is_not_there(self, tiny: SViT, train: ImageList) -> None:
        with pytest.raises(SettingsError, match="no CUDA device"):
            check_finetune(tiny, train, SETTINGS, "d", compute=ComputeSettings(device="cuda"))

    def test_a_batch_that_workers_cannot_share(self, tiny: SViT, train: ImageList) -> None:
        with pytest.raises(SettingsError, match="cannot be shared by 3 workers: pass --batch-size"):
            check_finetune(tiny, train, SETTINGS, "d", compute=ComputeSettings(workers=3))

    def test_a_batch_that_does_not_fit_the_devices_memory(
        self, tiny: SViT, train: ImageList, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def too_large(*_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

        monkeypatch.setattr(Finetuning, "_step", too_large)
        with pytest.raises(SettingsError, match=r"of 16 images does not fit .* --batch-size"):
            finetune(tiny, tiny, train, SETTINGS)

    @pytest.mark.parametrize(
        "values",
        [
            {"epochs": 0}, {"batch_size": 1}, {"learning_rate": -1.0}, {"distillation": 1.5},
            {"temperature": 0.0}, {"timesteps": (0,)}, {"images": 3},
        ],
    )  # fmt: skip
    def test_values_out_of_range(
        self, values: dict[str, object], tiny: SViT, train: ImageList
    ) -> None:
        with pytest.raises(SettingsError):
            check_finetune(tiny, train, replace(SETTINGS, **values), "d")  # type: ignore[arg-type]


class TestBatches:
    def test_an_epoch_sees_every_image_once_in_its_own_order(self, train: ImageList) -> None:
        batches = Batches(train, 16, seed=3)
        assert sorted(batches.order(0)) == list(range(len(train)))
        assert list(batches.order(0)) == list(Batches(train, 16, seed=3).order(0))
        assert list(batches.order(0)) != list(batches.order(1))
        assert len(batches) == len(train) // 16

    def test_batches_do_not_depend_on_those_before(self, train: ImageList) -> None:
        first = Batches(train, 8, seed=0)
        first.batch(0, 0)
        again = Batches(train, 8, seed=0).batch(0, 1)
        assert torch.equal(first.batch(0, 1)[0], again[0])
        assert torch.equal(first.batch(0, 1)[1], again[1])
        assert not torch.equal(first.batch(1, 1)[0], again[0])

    def test_shares_are_the_parts_of_the_whole(self, train: ImageList) -> None:
        whole = Batches(train, 12, seed=1).batch(1, 2)
        parts = [Batches(train, 12, seed=1, share=Share(i, 3)).batch(1, 2) for i in range(3)]
        assert torch.equal(torch.cat([samples for samples, _ in parts]), whole[0])
        assert torch.equal(torch.cat([labels for _, labels in parts]), whole[1])

    def test_samples_are_shifted_and_mirrored_copies(self, train: ImageList) -> None:
        batches = Batches(train, 1, seed=0)
        size = train.preprocessing.height
        mirrored = moved = 0
        for number in range(40):
            found = batches._augmented(0, number)
            whole = train.inputs(number, number + 1)[0]
            assert found.shape == whole.shape
            match = [
                (flip, down, right)
                for flip in (False, True)
                for down in range(-(size // 8), size // 8 + 1)
                for right in range(-(size // 8), size // 8 + 1)
                if np.array_equal(found, shifted(whole, flip, down, right))
            ]
            assert match, "no shift and flip of the image gives this"
            mirrored += match[0][0]
            moved += match[0][1:] != (0, 0)
        assert 8 <= mirrored <= 32
        assert moved >= 20


def shifted(image: np.ndarray, flip: bool, down: int, right: int) -> np.ndarray:
    padded = np.pad(image, ((0, 0), (8, 8), (8, 8)))
    size = image.shape[-1]
    view = padded[:, 8 - down : 8 - down + size, 8 - right : 8 - right + size]
    return view[..., ::-1] if flip else view
