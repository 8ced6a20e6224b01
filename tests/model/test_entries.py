"""Entries of stored state_dicts: prefixes, counters and number types that files have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from own_nets import Attending
from safetensors.torch import save_file
from small_models import enliven
from spikingjelly.activation_based.model.spikformer import Spikformer as Upstream
from torch import nn

from primesvt_deploy import adopt, load
from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.entries import check_numbers
from primesvt_deploy.model.svit import SViT

State = dict[str, torch.Tensor]
BLOCK = "blocks.0.attn.q_lif."
OPTIONS: dict[str, Any] = {"timesteps": 2, "num_heads": 2, "image_size": 16, "patch_size": 4}


@pytest.fixture(scope="module")
def state() -> State:
    model = Upstream(
        T=2, img_size_h=16, img_size_w=16, patch_size=4, num_classes=5,
        embed_dims=16, num_heads=2, depths=1,
    )  # fmt: skip
    return dict(enliven(model, seed=4).state_dict())


@pytest.fixture(scope="module")
def own() -> State:
    return dict(enliven(Attending(), seed=5).state_dict())


def of_family(path: Path, **options: Any) -> SViT:
    return load(path, **OPTIONS, **options)


def of_own_class(path: Path, **options: Any) -> SViT:
    return adopt("own_nets:attending", image_size=16, checkpoint=path, **options)


@pytest.fixture(params=[of_family, of_own_class], ids=["family", "own class"])
def case(
    request: pytest.FixtureRequest, state: State, own: State
) -> tuple[State, Callable[..., SViT]]:
    """A whole state_dict, and what reads it."""
    return (state if request.param is of_family else own), request.param


def saved(tmp_path: Path, content: object) -> Path:
    torch.save(content, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def equal(one: SViT, other: SViT) -> bool:
    mine, theirs = one.module.state_dict(), other.module.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def prefixed(**models: State) -> State:
    return {f"{name}.{k}": v for name, model in models.items() for k, v in model.items()}


def other_than(state: State) -> State:
    return {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}


def without_counters(state: State) -> State:
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


HARMLESS: dict[str, State] = {
    "thop, whole": {"total_ops": torch.zeros(1), "total_params": torch.zeros(1)},
    "thop, of layers": {f"{BLOCK}total_ops": torch.zeros(1), "head.total_params": torch.zeros(1)},
    "ptflops": {"head.__flops__": torch.zeros(1), "head.__params__": torch.zeros(1)},
    "profiler": {"profiler.calls": torch.zeros(3), "head.profiler.seconds": torch.zeros(1)},
    "surrogate": {f"{BLOCK}surrogate_function.alpha": torch.tensor(4.0)},
    "averaged": {"n_averaged": torch.tensor(7)},
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_entries_that_no_forward_pass_reads_are_left_out_with_one_note(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]], kind: str
) -> None:
    state, read = case
    plain = read(saved(tmp_path, state))
    assert plain.notes == ()
    found = read(saved(tmp_path, {**HARMLESS[kind], **state}))
    assert equal(found, plain)
    (note,) = found.notes
    assert f"{len(HARMLESS[kind])} entr" in note
    assert all(key in note for key in HARMLESS[kind])
    assert "never reads" in note


def test_a_note_counts_all_and_names_the_first(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]]
) -> None:
    state, read = case
    everything = {key: t for entries in HARMLESS.values() for key, t in entries.items()}
    found = read(saved(tmp_path, {**state, **everything, "epoch": 3, "best": 0.5}))
    (note,) = found.notes
    assert f"{len(everything) + 2} entries" in note
    assert "(epoch, best, " in note
    assert note.count(",") < 6


@pytest.mark.parametrize("share", ["all", "one"])
def test_missing_batch_counters_are_no_loss(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]], share: str
) -> None:
    state, read = case
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    fewer = without_counters(state) if share == "all" else {**state}
    fewer.pop(counters[0], None)
    found = read(saved(tmp_path, fewer))
    lacking = len(counters) if share == "all" else 1
    assert found.notes == (
        f"its checkpoint lacks {lacking} num_batches_tracked, which are not read either",
    )
    plain = read(saved(tmp_path, state))
    x = torch.randn(plain.config.example(4).shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.logits(x), plain.logits(x))


@pytest.mark.parametrize(
    "prefixes", ["module.", "model.", "net.", "_orig_mod.module.", "model.student.", "backbone."]
)
@pytest.mark.parametrize("averaged", [False, True])
def test_prefixes_that_all_keys_share_are_dropped(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]], prefixes: str, averaged: bool
) -> None:
    state, read = case
    wrapped = {f"{prefixes}{key}": tensor for key, tensor in state.items()}
    counter = {"n_averaged": torch.tensor(3)} if averaged else {}
    found = read(saved(tmp_path, {"state_dict": {**counter, **wrapped}}))
    assert equal(found, read(saved(tmp_path, state)))
    assert len(found.notes) == averaged


def test_the_state_of_torchs_averaged_model(tmp_path: Path, own: State) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(enliven(Attending(), seed=5))
    found = of_own_class(saved(tmp_path, {"ema": averaged.state_dict()}), ema=True)
    assert equal(found, of_own_class(saved(tmp_path, own)))
    assert "n_averaged" in found.notes[0]


def test_safetensors_are_fitted_alike(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]]
) -> None:
    state, read = case
    path = tmp_path / "w.safetensors"
    wrapped = {f"net.{k}": v.clone() for k, v in without_counters(state).items()}
    save_file({**wrapped, "n_averaged": torch.tensor(3)}, path)
    found = read(path)
    assert found.notes[0].startswith("1 entry of its checkpoint")
    assert equal(read(path, key="net"), found)
    with pytest.raises(ModelError, match=r"holds no weights at 'teacher' \(--key\)"):
        read(path, key="teacher")
    with pytest.raises(ModelError, match=r"holds no averaged weights .*: drop --ema"):
        read(path, ema=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {**state, "extra.weight": torch.zeros(1)},
        lambda state: {**state, "total_ops.weight": torch.zeros(1)},
        lambda state: {**state, "alpha": torch.zeros(1)},
        lambda state: dict(list(state.items())[1:]),
        lambda state: {k: v for k, v in state.items() if not k.endswith("running_mean")},
        lambda state: {f"net.{k}" if i else k: v for i, (k, v) in enumerate(state.items())},
    ],
)
def test_anything_else_is_refused(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]], change: Callable[[State], State]
) -> None:
    state, read = case
    with pytest.raises(ModelError) as caught:
        read(saved(tmp_path, change(state)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_weights_are_widened_with_a_note(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]], dtype: torch.dtype
) -> None:
    state, read = case
    narrow = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    found = read(saved(tmp_path, narrow))
    count = sum(tensor.is_floating_point() for tensor in state.values())
    name = str(dtype).removeprefix("torch.")
    assert found.notes == (
        f"tensors of its checkpoint were widened to float32: {count} from {name}",
    )
    assert {tensor.dtype for tensor in found.module.parameters()} == {torch.float32}
    wide = read(saved(tmp_path, {k: v.to(state[k].dtype) for k, v in narrow.items()}))
    assert equal(found, wide)


def test_of_several_models_a_key_chooses(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]]
) -> None:
    state, read = case
    other = other_than(state)
    plain = read(saved(tmp_path, state))
    path = saved(tmp_path, {"student": state, "teacher": {"net": other}})
    with pytest.raises(ModelError, match=r"\(student, teacher.net\): choose one with --key"):
        read(path)
    assert equal(read(path, key="student"), plain)
    assert not equal(read(path, key="teacher.net"), read(path, key="student"))


def test_of_several_models_in_one_state_dict_a_prefix_chooses(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]]
) -> None:
    state, read = case
    other = other_than(state)
    models = {"student": state, "teacher.module": other, "criterion": {"weight": torch.ones(5)}}
    path = saved(tmp_path, {"state_dict": prefixed(**models)})
    with pytest.raises(ModelError, match=r"\(student, teacher.module\): choose one with --key"):
        read(path)
    chosen = read(path, key="student")
    assert not chosen.notes
    for key in ("state_dict.student", "student."):
        assert equal(read(path, key=key), chosen)
    assert not equal(read(path, key="teacher"), chosen)
    with pytest.raises(ModelError, match="weight"):
        read(path, key="criterion")
    with pytest.raises(ModelError, match=r"expected one of state_dict, student, teacher$"):
        read(path, key="studnet")
    assert equal(chosen, read(saved(tmp_path, state)))


def test_a_prefix_chooses_behind_one_that_all_share(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]]
) -> None:
    state, read = case
    path = saved(tmp_path, prefixed(module=prefixed(student=state, teacher=other_than(state))))
    with pytest.raises(ModelError, match=r"\(module.student, module.teacher\): choose one"):
        read(path)
    plain = read(saved(tmp_path, state))
    path = saved(tmp_path, prefixed(module=prefixed(student=state, teacher=other_than(state))))
    assert equal(read(path, key="module.student"), plain)
    assert equal(read(path, key="student"), plain)


@pytest.mark.parametrize(
    ("model", "beside"),
    [
        ("model", "criterion"),
        ("model", "model_ema"),
        ("model", "ema_model.module"),
        ("", "ema"),
        ("", "teacher"),
    ],
)
def test_what_stands_beside_the_only_model_is_left_out_with_a_note(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]], model: str, beside: str
) -> None:
    state, read = case
    wrapped = prefixed(**{model: state}) if model else state
    loss = {"weight": torch.ones(5)}
    further = prefixed(**{beside: loss if beside == "criterion" else other_than(state)})
    found = read(saved(tmp_path, {"state_dict": {**further, **wrapped}}))
    assert found.notes[0].startswith(f"{len(further)} entr")
    assert f"({beside}." in found.notes[0]
    assert equal(found, read(saved(tmp_path, state)))


@pytest.mark.parametrize("fitting", ["teacher", "ema", "model_ema"])
def test_a_teacher_or_an_average_is_not_taken_for_a_model_that_does_not_fit(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]], fitting: str
) -> None:
    state, read = case
    broken = {"conv.weight": torch.ones(3, 3, 3, 3)}
    path = saved(tmp_path, prefixed(**{"student": broken, fitting: state}))
    with pytest.raises(ModelError, match=rf"beside those of {fitting}.*: pass --key {fitting} to"):
        read(path)
    assert equal(read(path, key=fitting), read(saved(tmp_path, state)))


@pytest.mark.parametrize("prefix", ["teacher", "ema", "ema_model.module", "backup"])
def test_a_model_without_a_prefix_that_does_not_fit_is_not_replaced(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]], prefix: str
) -> None:
    state, read = case
    torn = {key: tensor for key, tensor in state.items() if key != "head.weight"}
    path = saved(tmp_path, {**torn, **prefixed(**{prefix: other_than(state)})})
    with pytest.raises(ModelError, match=rf"beside those of {prefix}.*: pass --key {prefix} to"):
        read(path)


def test_averages_under_a_prefix_are_named(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]]
) -> None:
    state, read = case
    path = saved(tmp_path, prefixed(model=other_than(state), model_ema=state))
    with pytest.raises(ModelError, match=r"holds no averaged weights .*pass --key model_ema"):
        read(path, ema=True)
    assert equal(read(path, key="model_ema"), read(saved(tmp_path, state)))


def test_other_models_of_a_file_are_mentioned(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]]
) -> None:
    state, read = case
    found = read(saved(tmp_path, {"model": state, "best_model": other_than(state)}))
    assert found.notes[0].endswith("other models' weights too: --key best_model reads them")
    assert equal(found, read(saved(tmp_path, state)))
    with pytest.raises(ModelError, match=r"\(student, model.teacher\): choose one"):
        read(saved(tmp_path, {"student": state, "model": {"teacher": other_than(state)}}))
    average = {"ema": state, "criterion": {"weight": torch.ones(5, 5)}}
    assert equal(read(saved(tmp_path, average)), read(saved(tmp_path, state)))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (lambda t: t * float("nan"), "head.weight holds NaN or infinity"),
        (lambda t: t.to(torch.int8), "head.weight holds int8 numbers"),
        (lambda t: t.bool(), "head.weight holds bool numbers"),
        (lambda t: t.to(torch.complex64), "head.weight holds complex64 numbers"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(
    tmp_path: Path,
    case: tuple[State, Callable[..., SViT]],
    kind: Callable[[torch.Tensor], torch.Tensor],
    said: str,
) -> None:
    state, read = case
    with pytest.raises(ModelError, match=said):
        read(saved(tmp_path, {**state, "head.weight": kind(state["head.weight"])}))


def test_a_variance_below_zero_is_refused(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]]
) -> None:
    state, read = case
    key = next(name for name in state if name.endswith("running_var"))
    variance = state[key].clone()
    variance[1] = -1e-6
    with pytest.raises(ModelError, match="running_var holds a variance below zero"):
        read(saved(tmp_path, {**state, key: variance}))
    variance[1] = -0.0
    read(saved(tmp_path, {**state, key: variance}))
    counter = key.replace("running_var", "num_batches_tracked")
    read(saved(tmp_path, {**state, counter: torch.tensor(-5)}))


def test_a_modules_own_variance_is_checked_by_its_norm() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(2)
            self.register_buffer("running_var", -torch.ones(2))

    check_numbers(Own().state_dict(), Own())
    net = Own()
    nn.init.constant_(net.bn.running_var, -1.0)
    with pytest.raises(ModelError, match=r"bn\.running_var holds a variance below zero"):
        check_numbers(net.state_dict(), net)


def test_tensors_without_numbers_are_refused(
    tmp_path: Path, case: tuple[State, Callable[..., SViT]]
) -> None:
    state, read = case
    for shape in ((0,), (2**40, 0, 3)):
        with pytest.raises(ModelError, match=r"head\.weight"):
            read(saved(tmp_path, {**state, "head.weight": torch.empty(shape)}))


def test_shapes_are_added_up_before_a_network_is_built(tmp_path: Path, state: State) -> None:
    wide = {**state, "head.weight": torch.zeros(2**24, 1, dtype=torch.int8)}
    with pytest.raises(ModelError, match=r"of a spikformer of \d+ bytes, but it holds \d+"):
        of_family(saved(tmp_path, wide))


def test_a_key_needs_a_checkpoint() -> None:
    with pytest.raises(ModelError, match="--key chooses weights of a checkpoint"):
        adopt("own_nets:attending", image_size=16, key="net")
    with pytest.raises(ModelError, match="comes with its own description: drop --key"):
        load(key="net")
