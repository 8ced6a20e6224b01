"""A user's own SViT: adopted as it is, pruned where that is safe, refused where it is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from own_nets import (
    Attending,
    Convolutional,
    Flattened,
    Fused,
    attending,
    neurons_of_all_kinds,
    scaled,
)
from small_models import enliven, write_arrays
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from primesvt_deploy import BuildSettings, SearchSettings, adopt, build, load
from primesvt_deploy.artifact.onnx_export import export_onnx
from primesvt_deploy.data import open_data
from primesvt_deploy.errors import DeployError, ModelError
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.cut import check_cut, cut, mask
from primesvt_deploy.pruning.group_check import prunable_groups
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.verification.bundle import verify_bundle
from primesvt_deploy.verification.verify import verify_artifact

FACTORY = "own_nets:attending"


def samples(model: SViT, count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    shape = model.config.example(count).shape
    return torch.randn(shape, generator=generator)


@torch.no_grad()
def own_logits(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    functional.reset_net(net)
    logits: torch.Tensor = net(x)
    functional.reset_net(net)
    return logits


@pytest.mark.slow
@pytest.mark.parametrize("kind", neurons_of_all_kinds())
def test_every_kind_of_neuron_is_exported_with_equal_spikes(kind: str, tmp_path: Path) -> None:
    net = enliven(Convolutional(neurons_of_all_kinds()[kind]))
    model = adopt(net, image_size=16, timesteps=4)
    artifact = export_onnx(model, tmp_path / "m.onnx")
    data = open_data(model, write_arrays(tmp_path / "d.npz", model))
    outcome = verify_artifact(model, artifact.path, data.search.first(32))
    assert outcome.flipped_spikes == 0
    assert outcome.spikes_compared > 0
    assert outcome.max_difference < 1e-5
    assert outcome.top1_disagreements == 0


def test_adopting_changes_nothing_of_the_users_module() -> None:
    net = attending()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    kinds = [type(module) for module in net.modules()]
    model = adopt(net, image_size=16)
    assert [type(module) for module in net.modules()] == kinds
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    x = samples(model)
    assert torch.equal(model.module(x), own_logits(net, x).mean(0))


def test_how_the_module_is_called_is_found_by_trying() -> None:
    sequence = adopt(enliven(Convolutional()), image_size=16, timesteps=3).config
    assert (sequence.sequence_input, sequence.sequence_output) == (True, True)
    plain = adopt(enliven(Flattened()), image_size=16).config
    assert (plain.sequence_input, plain.sequence_output) == (False, False)
    assert plain.timesteps == 2
    own = adopt(attending(), image_size=16).config
    assert (own.sequence_input, own.sequence_output) == (False, True)


@pytest.mark.parametrize("batch_first", [False, True])
def test_event_frames_reach_a_module_in_the_order_it_takes(batch_first: bool) -> None:
    class Wrapped(Convolutional):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.transpose(0, 1) if batch_first else x)

    net = enliven(Wrapped(channels=2))
    model = adopt(net, image_size=16, timesteps=3)
    assert model.config.frames
    assert model.config.batch_first == batch_first
    x = samples(model)
    assert x.shape == (3, 6, 2, 16, 16)
    taken = x.transpose(0, 1) if batch_first else x
    assert torch.equal(model.module(x), own_logits(net, taken).mean(0))


def test_groups_that_stand_the_trial_are_prunable_and_the_rest_is_named() -> None:
    model = adopt(attending(), image_size=16)
    found = prunable_groups(model)
    names = {group.name: group.heads for group in found.groups}
    assert names == {"fc1.0": 1, "stem.0 and 2 more": 1, "q.0 and 1 more": 2, "v.0": 2}
    assert not found.left, "the logits are no group"


class Turning(Attending):
    """Makes a layer as it runs: its code cannot be recorded."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.Identity()(x))


def test_code_that_cannot_be_recorded_keeps_the_channels_whose_number_it_holds() -> None:
    model = adopt(enliven(Turning()), image_size=16)
    found = prunable_groups(model)
    assert {group.name for group in found.groups} == {"fc1.0", "fc2.0 and 2 more"}
    # Its code reshapes to 16 channels in two heads, so none of these can leave.
    assert {"q.0", "k.0", "v.0"} & set(" ".join(found.left).split())
    assert found.left["the code"].endswith("as it makes a layer (Identity) as it runs")
    assert not any("head" in name for name in found.left), "the logits are no group"


def test_what_cannot_be_followed_does_not_keep_the_rest_from_being_pruned() -> None:
    class Sorting(Fused):
        def __init__(self) -> None:
            super().__init__()
            self.mlp.append(Sorted())

    class Sorted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sort(dim=2).values

    found = prunable_groups(adopt(enliven(Sorting()), image_size=16))
    assert {"mlp.0", "stem.0", "qkv"} == {group.name for group in found.groups}
    assert set(found.left) == {"stem.3", "mlp.3"}
    assert found.left["mlp.3"] == "what sort() does with them"


def test_cut_equals_masked_for_a_users_own_module() -> None:
    model = adopt(enliven(Convolutional()), image_size=16, timesteps=3)
    groups = prunable_groups(model).groups
    assert {group.name for group in groups} == {"net.0", "net.3"}
    grouped = next(group for group in groups if group.name == "net.0")
    assert grouped.heads == 2, "the grouped convolution behind reads two slices"
    plan = Plan().replacing("net.0", [0, 2, 5, 6]).replacing("net.3", [0, 1, 2, 7, 8, 10])
    masked, smaller = mask(model.module, groups, plan), cut(model.module, groups, plan)
    assert check_cut(masked, smaller, samples(model)) <= 1e-9
    assert (masked(samples(model)) - model.module(samples(model))).abs().max() > 1e-3


def test_what_a_flattening_classifier_reads_leaves_it_too() -> None:
    model = adopt(enliven(Flattened()), image_size=16)
    (group,) = prunable_groups(model).groups
    smaller = cut(model.module, [group], Plan().replacing("conv.0", [1, 4]))
    assert smaller.get_parameter("net.head.weight").shape == (5, 2 * 64)


class Normed(neuron.LIFNode):
    """A subclass that only chooses its arguments."""

    def __init__(self) -> None:
        super().__init__(tau=1.5, step_mode="m")


class Noisy(neuron.LIFNode):
    def neuronal_charge(self, x: torch.Tensor) -> None:
        super().neuronal_charge(x + 0.1)


def test_a_subclass_that_only_sets_arguments_is_what_it_derives_from() -> None:
    net = enliven(Convolutional(Normed()))
    assert adopt(net, image_size=16, timesteps=2).module.net.get_submodule(  # type: ignore[union-attr]
        "net.2"
    ).parameters_.tau == pytest.approx(1.5)


class Rings(nn.Module):
    """Keeps a state of its own from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Convolutional()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        logits: torch.Tensor = self.inner(x)
        return logits * self.calls


def single_step() -> nn.Module:
    net = Convolutional()
    functional.set_step_mode(net, "s")
    return net


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (Convolutional(neuron.QIFNode(step_mode="m")), r"net.2 is a QIFNode, .*expected neurons"),
        (Convolutional(Noisy()), "net.2 is a Noisy, which overrides 'neuronal_charge'"),
        (single_step(), r"net.2 is in single-step mode: call .*set_step_mode\(model, 'm'\)"),
        (nn.Sequential(nn.Conv2d(3, 5, 3)), r"\(Sequential\) has no spiking neuron"),
        (nn.Sequential(neuron.IFNode(step_mode="m")), "has no 2-d convolution"),
        (Rings(), "Rings gives another output when it is called again: it keeps a state"),
    ],
    ids=["QIF", "override", "single-step", "no neuron", "no convolution", "state"],
)
def test_what_cannot_be_lowered_is_refused_by_name(net: nn.Module, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        adopt(enliven(net), image_size=16, timesteps=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timesteps": None}, "has no attribute T .*pass --timesteps"),
        ({"image_size": 2, "module": Flattened()}, "Flattened could not be run: on an input of"),
        ({"labels": ("a", "b")}, "2 labels for a model of 5 classes"),
        ({"module": "own_nets"}, "expected MODULE:FUNCTION"),
        ({"module": "own_nots:build"}, "--factory own_nots:build: ModuleNotFoundError"),
        ({"module": "own_nets:lost"}, "--factory own_nets:lost: AttributeError"),
        ({"module": "own_nets:wanting"}, "failed when called without arguments .*no such data"),
        ({"module": "own_nets:no_model"}, "made a list, expected an nn.Module"),
    ],
)
def test_mistakes_of_the_user_get_one_line(options: dict[str, Any], said: str) -> None:
    given = {"module": enliven(Convolutional()), "image_size": 16, "timesteps": 3, **options}
    with pytest.raises(DeployError, match=said) as caught:
        adopt(**given)
    assert "\n" not in str(caught.value)


def test_weights_come_from_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    other = enliven(Attending(), seed=5)
    torch.save({"model": other.state_dict()}, path)
    model = adopt(FACTORY, image_size=16, checkpoint=path)
    assert model.name == "mine"
    x = samples(model)
    assert torch.equal(model.module(x), own_logits(other, x).mean(0))
    torch.save({"model": Convolutional().state_dict()}, path)
    with pytest.raises(ModelError, match=r"does not fit Attending: \d+ keys missing"):
        adopt(FACTORY, image_size=16, checkpoint=path)


@pytest.mark.slow
def test_a_build_of_ones_own_class_loads_again_by_its_factory(tmp_path: Path) -> None:
    model = adopt(FACTORY, image_size=16)
    data = write_arrays(tmp_path / "d.npz", model)
    search = SearchSettings(max_drop=100.0, rates=(0.5,), robustness_images=50)
    settings = BuildSettings(saving=40.0, search=search, verify_images=20)
    result = build(model, tmp_path / "bundle", settings, data=open_data(model, data))
    assert not result.manifest["left_unpruned"]
    assert result.manifest["model"]["sizes"], "its code holds widths that pruning changed"
    assert result.manifest["model"]["arguments"]["factory"] == FACTORY
    with pytest.raises(ModelError, match="made by own_nets:attending: pass --factory"):
        load(result.path)
    with pytest.raises(ModelError, match=r"makes another net.* than the bundle was built with"):
        load(result.path, factory="own_nets:attending_otherwise")
    with pytest.raises(ModelError, match="expected MODULE:FUNCTION"):
        load(result.path, factory=attending)  # type: ignore[arg-type]
    again = load(result.path, factory=FACTORY)
    x = samples(again)
    session = ort.InferenceSession(result.path / "model.onnx")
    found = session.run(None, {"images": x.numpy()})[0]
    np.testing.assert_allclose(found, again.logits(x).numpy(), atol=1e-4)
    parameters = [sum(p.numel() for p in m.module.parameters()) for m in (again, model)]
    assert parameters[0] < 0.97 * parameters[1]
    outcome = verify_bundle(result.path, data=data, images=40, factory=FACTORY)
    assert not outcome.failures()


@pytest.mark.slow
def test_values_that_code_reads_are_those_of_the_bundle_when_it_is_loaded_again(
    tmp_path: Path,
) -> None:
    net = scaled()
    net.get_parameter("alpha").data.fill_(0.9)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    model = adopt("own_nets:scaled", image_size=16, checkpoint=tmp_path / "w.pth")
    data = open_data(model, write_arrays(tmp_path / "d.npz", model))
    search = SearchSettings(max_drop=None, rates=(0.5,), robustness_images=50, recover=())
    settings = BuildSettings(saving=10.0, search=search, verify_images=10)
    bundle = build(model, tmp_path / "bundle", settings, data=data).path
    again, x = load(bundle, factory="own_nets:scaled"), samples(model)
    found = ort.InferenceSession(bundle / "model.onnx").run(None, {"images": x.numpy()})[0]
    np.testing.assert_allclose(found, again.logits(x).numpy(), atol=1e-4)
    with pytest.raises(ModelError, match="own_nets:doubled makes a module whose code computes"):
        load(bundle, factory="own_nets:doubled")
    with pytest.raises(ModelError, match="own_nets:with_another_setting makes gives other logits"):
        load(bundle, factory="own_nets:with_another_setting")


@pytest.mark.slow
@pytest.mark.parametrize("factory", ["own_nets:spikingjellys", "own_nets:spiking_attribute"])
def test_neurons_are_recorded_whatever_their_attribute_is_called(
    factory: str, tmp_path: Path
) -> None:
    """SpikingJelly's own classes call theirs `neuron`, a name that layers' names leave out."""
    model = adopt(factory, image_size=16, timesteps=2)
    data = open_data(model, write_arrays(tmp_path / "d.npz", model))
    settings = BuildSettings(budget_mb=20.0, verify_images=10)
    bundle = build(model, tmp_path / "bundle", settings, data=data).path
    assert load(bundle, factory=factory).digest == model.digest


def test_a_factory_is_for_ones_own_class_alone(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a spikformer: drop --factory"):
        load(factory=FACTORY)


def test_a_network_of_two_calls_is_at_rest_before_each() -> None:
    model = adopt(enliven(Convolutional()), image_size=16, timesteps=3)
    x = samples(model)
    assert torch.equal(model.module(x), model.module(x))
    assert torch.equal(copy.deepcopy(model.module)(x), model.module(x))


def test_layers_of_spikingjelly_that_keep_a_state_are_refused() -> None:
    net = Convolutional()
    net.net[1] = layer.SynapseFilter(tau=2.0, step_mode="m")
    with pytest.raises(ModelError, match=r"net.1 is a SynapseFilter, which keeps a state"):
        adopt(net, image_size=16, timesteps=3)


def lif_net(tau: float) -> nn.Module:
    return enliven(Convolutional(neuron.LIFNode(tau=tau)))


def test_the_digest_names_what_weights_do_not_hold() -> None:
    """A model with another tau, or with other code, must not reuse the ledger of this one."""

    class Doubled(Convolutional):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    nets = [lif_net(2.0), lif_net(3.0), enliven(Doubled(neuron.LIFNode(tau=2.0)))]
    digests = {adopt(net, image_size=16, timesteps=3).digest for net in nets}
    assert len(digests) == 3
    assert adopt(lif_net(2.0), image_size=16, timesteps=3).digest in digests


def test_a_firing_function_of_ones_own_is_refused() -> None:
    class Twice(surrogate.Sigmoid):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2.0 * super().forward(x)

    net = enliven(Convolutional(neuron.LIFNode(surrogate_function=Twice())))
    with pytest.raises(ModelError, match="give one a firing function of its own"):
        adopt(net, image_size=16, timesteps=3)
    once = neuron.ILIFNode(surrogate_function=surrogate.MultiLevelSpikeCount(1))
    with pytest.raises(ModelError, match=r"net.2 is an ILIFNode that counts to 1"):
        adopt(enliven(Convolutional(once)), image_size=16, timesteps=3)


def test_a_tau_learnt_after_adoption_is_exported() -> None:
    net = enliven(Convolutional(neuron.ParametricLIFNode(init_tau=1.5)))
    model = adopt(net, image_size=16, timesteps=4)
    with torch.no_grad():
        model.module.get_parameter("net.net.2.node.w").fill_(-1.0)
    x = samples(model)
    torch.testing.assert_close(lower_module(model.module)(x), model.module(x))


@pytest.mark.slow
def test_a_neuron_under_two_names_and_one_never_called(tmp_path: Path) -> None:
    class Odd(Convolutional):
        def __init__(self) -> None:
            super().__init__()
            self.alias = self.net[2]
            self.idle = neuron.LIFNode(step_mode="m")

    model = adopt(enliven(Odd()), image_size=16, timesteps=2)
    artifact = export_onnx(model, tmp_path / "m.onnx")
    data = open_data(model, write_arrays(tmp_path / "d.npz", model))
    assert verify_artifact(model, artifact.path, data.search.first(16)).flipped_spikes == 0


@pytest.mark.slow
def test_code_that_views_and_dropout_are_fine(tmp_path: Path) -> None:
    class Viewing(Attending):
        def __init__(self) -> None:
            super().__init__()
            self.drop = layer.Dropout(0.5, step_mode="m")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.drop(x.view(len(x), 3, 16, 16)))

    model = adopt(enliven(Viewing()), image_size=16)
    data = open_data(model, write_arrays(tmp_path / "d.npz", model))
    search = SearchSettings(max_drop=100.0, rates=(0.5,), robustness_images=50)
    settings = BuildSettings(saving=3.0, search=search, verify_images=10)
    assert build(model, tmp_path / "b", settings, data=data).met


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    """Only a bundle's weights may be narrower than the factory's module."""
    state = attending().state_dict()
    state["fc1.0.weight"] = state["fc1.0.weight"][:16].clone()
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"does not fit Attending: size mismatch for fc1"):
        adopt(FACTORY, image_size=16, checkpoint=tmp_path / "w.pth")


def test_a_prefix_that_is_the_models_own_is_kept(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        T = 3

        def __init__(self) -> None:
            super().__init__()
            self.model = Attending()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(x)
            return logits

    net = enliven(Wrapped())
    torch.save(net.state_dict(), tmp_path / "w.pth")
    model = adopt(Wrapped, image_size=16, checkpoint=tmp_path / "w.pth")
    x = samples(model)
    assert torch.equal(model.module(x), own_logits(net, x).mean(0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.sub_(0.1), "changes its input in place"),
        (
            lambda x: x.clone().index_add_(0, torch.arange(len(x)), x),
            "adds into places .*index_add",
        ),
    ],
)
def test_code_whose_artifact_would_be_another_is_refused(
    change: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    class Changing(Attending):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(change(x))

    with pytest.raises(ModelError, match=said) as caught:
        adopt(enliven(Changing()), image_size=16)
    assert "\n" not in str(caught.value)
