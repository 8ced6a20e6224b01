"""Channels of a user's own module are followed through whatever its code does to them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from idioms import DIM, HEADS, IDIOMS, Attention, Network, Projection, Unit, network_in
from small_models import enliven, make_model
from torch import nn
from torch.nn import functional as F

from primesvt_deploy import adopt
from primesvt_deploy.analysis.groups import Group, find_groups
from primesvt_deploy.families.adopted import AdoptedNetwork
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.families.spikformer import SpikformerConfig
from primesvt_deploy.model.smooth import smooth_copy
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.cut import check_cut, cut, mask
from primesvt_deploy.pruning.group_check import Prunable, prunable_groups
from primesvt_deploy.pruning.plan import Plan


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def losable(network: SpikingNetwork, groups: tuple[Group, ...]) -> int:
    """Parameters that are gone once each head of each group keeps one channel."""
    plan = Plan()
    for group in groups:
        width = group.width // group.heads
        plan = plan.replacing(group.name, [head * width for head in range(group.heads)])
    return parameters(network) - parameters(cut(network, groups, plan))


@cache
def family_form() -> SViT:
    """The same network as a family, whose modules declare their couplings."""
    return make_model(
        SpikformerConfig(
            timesteps=2, image_size=16, in_channels=3, num_classes=5, num_heads=HEADS,
            embed_dim=DIM, depth=1, pooling="0011", mlp_ratio=2.0,
        )
    )  # fmt: skip


@cache
def adopted(idiom: str) -> tuple[SViT, Prunable]:
    """The network in this idiom, and its groups."""
    model = adopt(network_in(idiom), image_size=16)
    return model, prunable_groups(model)


@pytest.mark.parametrize("idiom", IDIOMS)
def test_as_much_can_be_pruned_as_of_the_family_form(idiom: str) -> None:
    model, found = adopted(idiom)
    assert not found.left
    family = family_form()
    assert parameters(model.module) == parameters(family.module)
    expected = losable(family.module, find_groups(family.module, family.config.input_shape))
    assert losable(model.module, found.groups) >= 0.9 * expected


@pytest.mark.parametrize("idiom", IDIOMS)
def test_cut_equals_masked_whichever_channels_leave(idiom: str) -> None:
    model, found = adopted(idiom)
    groups = found.groups
    random = torch.Generator().manual_seed(1)
    plan = Plan()
    for group in groups:
        width = group.width // group.heads
        keep = int(torch.randint(1, width, (1,), generator=random))
        kept = [
            head * width + int(channel)
            for head in range(group.heads)
            for channel in torch.randperm(width, generator=random)[:keep]
        ]
        plan = plan.replacing(group.name, kept)
    x = torch.randn(4, 3, 16, 16, generator=random)
    masked = mask(model.module, groups, plan)
    assert check_cut(masked, cut(model.module, groups, plan), x) <= 1e-9
    with torch.no_grad():
        assert float((masked(x) - model.module(x)).abs().max()) > 1e-3


def test_fused_q_k_and_v_are_groups_with_names_of_their_own() -> None:
    names = {group.name for group in adopted("qkv, chunk")[1].groups}
    assert {"attn.qkv.linear[0:32]", "attn.qkv.linear[32:48]"} <= names


class Embedded(Attention):
    """Adds a learned position embedding, and scales each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(0.2 * torch.randn(1, 1, 16, DIM))
        self.register_buffer("scale", 1.0 + torch.rand(DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + self.position) * self.scale


def test_tensors_of_the_code_lose_the_channels_that_they_meet() -> None:
    model = adopt(enliven(Network(Embedded)), image_size=16)
    found = prunable_groups(model)
    assert not found.left
    stream = next(group for group in found.groups if group.parameters)
    assert set(stream.parameters) == {("net.attn.position", 3), ("net.attn.scale", 0)}
    smaller = cut(model.module, [stream], Plan().replacing(stream.name, range(10)))
    assert smaller.get_parameter("net.attn.position").shape == (1, 1, 16, 10)


class Alpha(Attention):
    """Reads the value of a weight, and of something computed of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * float(self.alpha) * (2.0 * self.alpha).item())


def test_values_of_weights_are_constants() -> None:
    found = prunable_groups(adopt(enliven(Network(Alpha)), image_size=16))
    assert not found.left
    assert "attn.v.linear" in {group.name for group in found.groups}


class Gated(Attention):
    """Multiplies tokens with one another through a layer of its own over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.over_tokens = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.over_tokens(x.transpose(2, 3)).transpose(2, 3))


class Normed(Attention):
    """Normalises over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.norm(x))


class Sorting(Attention):
    def product(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return super().product(q.sort(dim=-1).values, k, v)


class Fixed(Attention):
    def heads_of(self, spikes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return super().heads_of(spikes + torch.arange(DIM) / DIM, x)


@pytest.mark.parametrize(
    ("attention", "said"),
    [
        (Normed, "LayerNorm"),
        (Sorting, "sort"),
        (Fixed, "a tensor made in the code has their number of elements"),
        (Gated, ""),
    ],
)
def test_what_cannot_be_followed_stays_and_is_named(attention: type[Attention], said: str) -> None:
    """Whatever the code does, the groups that are offered are right (the trial decides)."""
    model = adopt(enliven(Network(attention)), image_size=16)
    found = prunable_groups(model)
    assert "fc1.linear" in {group.name for group in found.groups}
    assert said in " ".join(found.left.values())


class OneHeadOfKeys(Attention):
    """Multi-query attention: all heads of queries meet the same keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.v = Projection(DIM, DIM // HEADS), Projection(DIM, DIM // HEADS)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        k, v = (unit(x).unsqueeze(2) for unit in (self.k, self.v))
        return self.heads_of(self.q(x), x), k, v


def test_keys_of_one_head_leave_with_the_queries_of_all() -> None:
    found = prunable_groups(adopt(enliven(Network(OneHeadOfKeys)), image_size=16))
    assert not found.left
    keys = next(group for group in found.groups if "net.attn.k.linear" in group.outputs)
    assert set(keys.outputs) == {"net.attn.q.linear", "net.attn.k.linear"}
    assert keys.width == DIM // HEADS


class SortedTokens(nn.Module):
    def __init__(self, keeps: bool, dim: int) -> None:
        super().__init__()
        self.keeps_channels, self.dim = keeps, dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sort(dim=self.dim).values


@pytest.mark.parametrize(
    ("keeps", "dim", "left"),
    [
        (True, 2, False),
        (False, 2, True),
        (True, 3, True),
    ],
    ids=["as said", "not said", "not so"],
)
def test_a_module_may_say_that_it_keeps_channels_and_is_not_taken_at_its_word(
    keeps: bool, dim: int, left: bool
) -> None:
    class Helped(Attention):
        def __init__(self) -> None:
            super().__init__()
            self.sorted = SortedTokens(keeps, dim)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.sorted(x)

    found = prunable_groups(adopt(enliven(Network(Helped)), image_size=16))
    assert bool(found.left) == left
    assert "attn.v.linear" in {group.name for group in found.groups}


class Acting(nn.Module):
    """Stem, an operation on `[T, B, C, H, W]`, a layer behind it and a classifier."""

    T = 2

    def __init__(self, operation: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.operation = operation
        self.stem, self.inner, self.last = Unit(3, 16, 3), Unit(16, 16, 1), Unit(16, 16, 1)
        self.first, self.also = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 16, 1)
        self.gain = nn.Parameter(1.0 + torch.rand(16))
        self.tokens, self.square = nn.Linear(256, 256, bias=False), nn.Linear(16, 16)
        self.blocks = nn.ModuleList([self.inner])
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1))
        logits: torch.Tensor = self.head(self.last(self.operation(self, x)).mean((3, 4))).mean(0)
        return logits


def strided(net: Any, x: torch.Tensor) -> torch.Tensor:
    even, odd = x[:, :, ::2].flatten(0, 1), x[:, :, 1::2].flatten(0, 1)
    return (net.first(even) + net.also(odd)).unflatten(0, x.shape[:2])


def written_over(net: Any, x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[..., 0, 0] = torch.arange(16.0)
    return x


def shifted(net: Any, x: torch.Tensor) -> torch.Tensor:
    """An eighth of the channels comes from the timestep before, an eighth from the next."""
    fold, shifted = x.shape[2] // 8, torch.zeros_like(x)
    shifted[1:, :, :fold] = x[:-1, :, :fold]
    shifted[:-1, :, fold : 2 * fold] = x[1:, :, fold : 2 * fold]
    shifted[:, :, 2 * fold :] = x[:, :, 2 * fold :]
    return net.inner(shifted)


def last_shifted(net: Any, x: torch.Tensor) -> torch.Tensor:
    """The last channels come from the next timestep: when all of them have left, none does."""
    shifted = x.clone()
    shifted[:-1, :, -4:] = x[1:, :, -4:]
    return net.inner(shifted)


def padded(net: Any, x: torch.Tensor) -> torch.Tensor:
    """A border of zeros, written out."""
    steps, batch, channels, height, width = x.shape
    padded = torch.zeros(steps, batch, channels, height + 2, width + 2)
    padded[..., 1:-1, 1:-1] = x
    return net.inner(F.max_pool2d(padded.flatten(0, 1), 3, 1).unflatten(0, (steps, batch)))


def padded_like_a_norm(net: Any, x: torch.Tensor) -> torch.Tensor:
    """Meta-SpikeFormer's BNAndPadLayer: the border is what the norm makes of 0."""
    bn = net.inner.bn
    normed = F.pad(bn(net.inner.conv(x.flatten(0, 1))), [1] * 4)
    border = (bn.bias - bn.running_mean * bn.weight / torch.sqrt(bn.running_var + bn.eps)).view(
        1, -1, 1, 1
    )
    normed[:, :, 0:1, :], normed[:, :, -1:, :] = border, border
    normed[:, :, :, 0:1], normed[:, :, :, -1:] = border, border
    return net.inner.lif(F.avg_pool2d(normed, 3, 1).unflatten(0, x.shape[:2]))


def kept_for_later(net: Any, x: torch.Tensor) -> torch.Tensor:
    """What does not reach the logits holds no channel."""
    net.loss = (x.mean(2) ** 2).sum()
    return x


def functions(net: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A layer written with torch's functions."""
    bn = net.inner.bn
    y = F.conv2d(x.flatten(0, 1), weight, net.inner.conv.bias)
    y = F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0.1, bn.eps)
    y = F.linear(y.movedim(1, -1), net.square.weight, net.square.bias).movedim(-1, 1)
    return net.inner.lif(y.unflatten(0, x.shape[:2]))


def standardised(net: Any, x: torch.Tensor) -> torch.Tensor:
    """Each filter is normed over its inputs, so that none of them can leave."""
    weight = net.inner.conv.weight
    norm = weight.square().sum((1, 2, 3), keepdim=True) + 1e-3
    return functions(net, x, weight / torch.sqrt(norm))


UNSAFE: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "first channel": lambda net, x: x * (0.5 + x[:, :, :1]),
    "last channel": lambda net, x: x * (0.5 + x[:, :, -1:]),
    "narrow": lambda net, x: net.inner(x) * (0.5 + torch.narrow(x, 2, 15, 1)),
    "step": strided,
    "maximum": lambda net, x: x * (net.inner.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])
                                   - 2).amax(2, keepdim=True),
    "mean": lambda net, x: x + x.mean(2, keepdim=True),
    "rolled": lambda net, x: x * x.roll(1, dims=2),
    "standardised": standardised,
    "written over": lambda net, x: written_over(net, x),
}  # fmt: skip
FOLLOWED: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "moved parameter": lambda net, x: x + net.inner(x) * net.gain.view(1, 1, -1, 1, 1),
    "indexed parameter": lambda net, x: x * net.gain[:, None, None],
    "zeros like it": lambda net, x: torch.where(x > 0.5, x, torch.zeros_like(x)),
    "one of a batch": lambda net, x: x + net.inner(x)[:, :, :, :1],
    "two names": lambda net, x: net.blocks[0](x),
    "temporal shift": shifted,
    "last channels shifted": last_shifted,
    "branches summed": lambda net, x: torch.stack([net.inner(x), x]).sum(0),
    "branches averaged": lambda net, x: torch.stack([net.inner(x), x]).mean(0),
    "every second pixel": lambda net, x: net.inner(x)[..., ::2, ::2],
    "kept for later": lambda net, x: kept_for_later(net, net.inner(x)),
    "padded by writing": padded,
    "padded like a norm": padded_like_a_norm,
    "layers as functions": lambda net, x: functions(net, x, 2.0 * net.inner.conv.weight),
    "narrow by keywords": lambda net, x: x * x.narrow(dim=2, start=0, length=16).sigmoid(),
    "tokens": lambda net, x: x + net.tokens(x.flatten(3)).reshape(x.shape),
    "heads that gate": lambda net, x: (
        x.unflatten(2, (2, 8)) * x.unflatten(2, (2, 8)).sum(3, keepdim=True)
    ).flatten(2, 3),
}


@pytest.mark.parametrize("kind", ["last channels shifted", "temporal shift"])
@pytest.mark.parametrize("kept", [range(12), range(2, 16), range(4, 12)])
def test_slices_of_channels_that_have_all_left_are_empty(kind: str, kept: range) -> None:
    model = adopt(enliven(Acting(FOLLOWED[kind])), image_size=16)
    groups = [g for g in prunable_groups(model).groups if "net.stem.conv" in g.outputs]
    plan = Plan().replacing(groups[0].name, kept)
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    masked, smaller = mask(model.module, groups, plan), cut(model.module, groups, plan)
    assert check_cut(smooth_copy(masked), smooth_copy(smaller), x) <= 1e-9


@pytest.mark.parametrize("size", [8, 4])
def test_code_that_takes_a_large_batch_in_parts_is_not_recorded(size: int) -> None:
    def in_parts(net: Any, x: torch.Tensor) -> torch.Tensor:
        return net.inner(torch.cat([2.0 * part for part in x.split(size, dim=1)], dim=1))

    net = enliven(Acting(in_parts))
    model = adopt(net, image_size=16)
    assert isinstance(model.module, AdoptedNetwork)
    assert model.module.unrecorded == "it takes another way for a larger batch"
    assert model.logits(torch.randn(17, 3, 16, 16)).shape == (17, 5)


def test_channels_whose_values_the_code_reads_stay() -> None:
    def reading(net: Any, x: torch.Tensor) -> torch.Tensor:
        return net.inner(x) * float(net.inner.conv.weight.sum()) * net.gain.view(-1, 1, 1)

    model = adopt(enliven(Acting(reading)), image_size=16)
    found = prunable_groups(model)
    assert found.left["inner.conv"] == "the code reads values of inner.conv.weight"
    assert {group.name for group in found.groups} == {"last.conv"}


@pytest.mark.parametrize("kind", UNSAFE)
def test_channels_that_code_looks_at_by_place_or_extreme_stay(kind: str) -> None:
    found = prunable_groups(adopt(enliven(Acting(UNSAFE[kind])), image_size=16))
    names = {group.name for group in found.groups}
    assert "last.conv" in names
    assert found.left
    reading = "inner.conv" if kind == "maximum" else "stem.conv"
    assert reading not in " ".join(names)


@pytest.mark.parametrize("kind", FOLLOWED)
def test_more_ways_of_writing_are_followed(kind: str) -> None:
    found = prunable_groups(adopt(enliven(Acting(FOLLOWED[kind])), image_size=16))
    assert any("stem.conv" in group.outputs[-1] for group in found.groups), found.left
    assert not {"stem.conv", "inner.conv"} & found.left.keys(), found.left
