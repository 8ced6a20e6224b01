"""Trains and evaluates networks at odd widths; a program.

In training, and where accuracy is measured, each convolution is held against float64; search and
recovery are watched for what they do to memory alone.

    python every_convolution.py [NAME ...]

Started by `test_every_convolution.py` in a process of its own: the instruction set that oneDNN may
use and the checks of the allocator are set once, when a process starts.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families.zoo import FORMS, ZOO
from random_images import random_images
from small_models import enliven, make_model
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from training_runs import train_in

from primesvt_deploy import adopt, load, open_data
from primesvt_deploy.analysis.groups import Group
from primesvt_deploy.measure.accuracy import torch_hits
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pruning.cut import cut
from primesvt_deploy.pruning.group_check import prunable_groups
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.recovery.recovery import Recovery
from primesvt_deploy.pruning.search.evaluator import Evaluator
from primesvt_deploy.settings import RECOVERY_STEPS, FinetuneSettings
from primesvt_deploy.training.finetune import finetune
from primesvt_deploy.training.strided_pointwise import subsampled_pointwise

TOLERANCE = 1e-4
"""Of the sum of magnitudes that a value is the sum of: float32 sums of 16,384 reach 1.3e-5."""

aten = torch.ops.aten


class Checked(TorchDispatchMode):
    """Holds each convolution that runs, forward and backward, against float64 without oneDNN."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in (aten.convolution.default, aten.convolution_backward.default):
            tensors = [t for t in args if isinstance(t, Tensor)]
            if all(t.dtype == torch.float32 and not t.is_meta for t in tensors):
                self._check(func, args, found if isinstance(found, tuple) else (found,))
        return found

    def _check(self, func: Any, args: Any, found: tuple[Tensor | None, ...]) -> None:
        call = [(t.shape, t.stride()) if isinstance(t, Tensor) else str(t) for t in args]
        before = len(self.seen)
        self.seen.add((func, torch.get_num_threads(), *call))
        if len(self.seen) == before:
            return  # one like it was right
        with torch.backends.mkldnn.flags(enabled=False):
            doubles = [t.double().contiguous() if isinstance(t, Tensor) else t for t in args]
            expected = func(*doubles)
            scale = func(*(t.abs() if isinstance(t, Tensor) else t for t in doubles))
        if not isinstance(expected, tuple):
            expected, scale = (expected,), (scale,)
        for which, value in enumerate(found):
            if value is not None:
                error = (value.double() - expected[which]).abs() / scale[which].clamp_min(1e-12)
                what = f"result {which} of {func} of {call} is off by {float(error.max()):.1e}"
                assert error.max() <= TOLERANCE, what


CHECKED = Checked()


class TokensAsImage(nn.Module):
    """A user's own: tokens become an image again, which lies channels-last without being asked."""

    T = 2

    def __init__(self, shortcut: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.spikes = neuron.LIFNode(step_mode="m")
        self.mix = nn.Linear(5, 5)
        self.shortcut = shortcut
        self.norm = layer.BatchNorm2d(8, step_mode="m")
        self.last = neuron.LIFNode(step_mode="m")
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        functional.reset_net(self)
        x = self.spikes(self.stem(images).unsqueeze(0).repeat(self.T, 1, 1, 1, 1))
        tokens = self.mix(x.flatten(3).transpose(2, 3))
        x = tokens.transpose(2, 3).unflatten(3, images.shape[2:])
        return self.head(self.last(self.norm(self.shortcut(x))).mean(dim=(3, 4))).mean(dim=0)


class Functional(nn.Module):
    """A shortcut without a layer, whose activations are computed anew in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 5, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        def shortcut(x: Tensor, weight: Tensor) -> Tensor:
            return F.conv2d(x.flatten(0, 1), weight, stride=(2, 2)).unflatten(0, x.shape[:2])

        return checkpoint(shortcut, x, self.weight, use_reentrant=False)


OWN: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: layer.Conv2d(5, 8, 1, stride=2, step_mode="m"),
    "standardised": lambda: layer.WSConv2d(5, 8, 1, stride=2, step_mode="m"),
    "functional": Functional,
}


def own(kind: str) -> SViT:
    return adopt(enliven(TokensAsImage(OWN[kind]())), image_size=48)


def odd(groups: tuple[Group, ...]) -> Plan:
    """An odd number of channels stays in each head: half of them or one more."""
    plan = Plan()
    for group in groups:
        width = group.width // group.heads
        keep = min(width, width // 2 | 1)
        kept = [h * width + i for h in range(group.heads) for i in range(keep)]
        plan = plan.replacing(group.name, kept)
    return plan


def search_and_finetune(model: SViT) -> None:
    """Candidates, recovery, accuracy and fine-tuning, of a model and of what is left of it."""
    images = random_images(model, 8)
    groups = prunable_groups(model).groups
    recovery = Recovery(model, groups, images, RECOVERY_STEPS)
    plan = odd(groups)
    Evaluator(model, groups, images, recovery=recovery).outcome(plan, keep=groups)
    Evaluator(model, groups, images, recovery=recovery).outcome(plan)  # cut at once
    pruned = model.with_module(cut(recovery.recovered(plan), groups, plan))
    settings = FinetuneSettings(epochs=1, batch_size=4, images=8)
    with CHECKED:
        torch_hits(pruned, images)
        found = finetune(pruned, model, images, settings)
    assert_learned(pruned.module.state_dict(), found.model.module.state_dict())


def train_from_scratch(model: SViT) -> None:
    """As `tools/train_reference.py` does."""
    before = {name: t.clone() for name, t in model.module.state_dict().items()}
    quiet = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as place, quiet, CHECKED:
        losses = train_in(Path(place), model, random_images(model, 8))
    assert np.isfinite(losses).all()
    assert_learned(before, model.module.state_dict())


def assert_learned(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    """Most weights moved."""
    weights = [name for name, t in before.items() if t.ndim > 1]
    moved = [name for name in weights if not torch.equal(before[name], after[name])]
    assert len(moved) > 0.9 * len(weights), sorted(set(weights) - set(moved))


def wide_shortcut(width: int) -> None:
    """A shortcut of large images, where AVX-512 fails below 16 channels."""
    convolutions = [nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 16, 1, stride=2)]
    network = nn.Sequential(*convolutions).to(memory_format=torch.channels_last)
    with CHECKED, subsampled_pointwise():
        network(torch.randn(2, 3, 80, 80)).square().sum().backward()


def reference() -> None:
    """The layers of the models that are shipped, as wide as they are."""
    model = load()
    images = open_data(model).train.first(4)
    settings = FinetuneSettings(epochs=1, batch_size=4, images=4)
    with CHECKED:
        finetune(model, model, images, settings)


def zoo(name: str) -> SViT:
    family, config = ZOO[name]
    return make_model(config, family=family)


def cases() -> Iterator[tuple[str, tuple[int, ...], Callable[[], None]]]:
    """Name, numbers of threads, and what to run.

    Each strided 1x1 convolution of one's own runs with both numbers, those of the families with
    one or the other in turn.
    """
    both = itertools.cycle((1, 2))
    for width in (3, 9, 15):
        yield f"shortcut of {width}", (1, 2), partial(wide_shortcut, width)
    for kind in OWN:
        yield f"own, {kind}", (1, 2), lambda kind=kind: search_and_finetune(own(kind))
    yield "reference", (2,), reference
    for name, (family, config) in ZOO.items():
        strided = family.name in ("qkformer", "maxformer")
        if strided or name in FORMS:
            yield name, (1,), lambda name=name: search_and_finetune(zoo(name))
        if strided and not config.frames:
            yield f"{name}, new", (next(both),), lambda name=name: train_from_scratch(zoo(name))


def main() -> None:
    """Run the cases whose names begin as given, or all."""
    warnings.filterwarnings("ignore", message="TF32")  # of torch.backends.mkldnn.flags
    for name, threads, run in cases():
        if name.startswith(tuple(sys.argv[1:]) or ""):
            for count in threads:
                torch.set_num_threads(count)
                run()
            print(name, flush=True)
    print(f"{len(CHECKED.seen)} kinds of call checked")


if __name__ == "__main__":
    main()
