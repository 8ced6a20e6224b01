"""Check that an adopted network computes each sample by itself, whatever stands beside it.

An artifact on a device sees one image at a time. A module that normalises by a statistic of the
whole batch, or that mixes the batch axis with another one, would give other logits there than in
the batches it was trained and judged with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from primesvt_deploy.errors import ModelError, type_and_message
from primesvt_deploy.families import recognise
from primesvt_deploy.families.adopted import AdoptedNetwork
from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.model.smooth import smooth_copy

__all__ = ["check_sample_independence"]

_TOLERANCE = 1e-9
_SAMPLES = 3
"""Size of the batches, of which each sample is watched."""


def check_sample_independence(network: AdoptedNetwork) -> None:
    """Compare logits of a sample alone with those of the same sample in a batch, in float64.

    Compared are the network itself and its copy without thresholds, which a silent neuron cannot
    make look right.

    Args:
        network: an adopted network; not changed.

    Raises:
        ModelError: they differ by more than 1e-9; names the layer where the difference begins.
    """
    exact = copy.deepcopy(network).double().eval()
    for candidate in (smooth_copy(network), exact):
        differences = _differences(candidate, network, 0)
        if not any(differences):
            continue
        # Sums of another order may flip a spike that just reaches its threshold, but hardly twice.
        again = _differences(candidate, network, 1)
        place = next((i for i in range(_SAMPLES) if differences[i] and again[i]), None)
        if place is not None:
            raise ModelError(
                f"{type(network.net).__name__}: the logits of an image change with the images "
                f"beside it in the batch (by up to {differences[place]:.3g}); this begins "
                f"{_where_it_begins(candidate, network, place)}. An artifact sees one image at a "
                f"time: {_advice(network)}"
            )


def _advice(network: AdoptedNetwork) -> str:
    found = recognise(network.net.state_dict().keys())
    if found is not None:
        return (
            f"its weights have the keys of {found.name}, which is built in with samples by "
            "themselves: pass --checkpoint without --factory"
        )
    return (
        "take statistics over each sample alone (of batch norm: with track_running_stats), and "
        "keep the batch an axis of its own"
    )


def _probe(network: AdoptedNetwork, seed: int) -> torch.Tensor:
    """A batch of noise, whose first sample is darker and whose last one is brighter."""
    generator = torch.Generator().manual_seed(seed)
    shape = network.config.example(_SAMPLES).shape
    batch = torch.randn(shape, generator=generator, dtype=torch.float64)
    for place, sign in ((0, -1.0), (_SAMPLES - 1, 1.0)):
        _sample(network, batch, place).mul_(3.0).add_(sign * (1.0 + seed))
    return batch


def _sample(network: AdoptedNetwork, batch: torch.Tensor, place: int) -> torch.Tensor:
    """A batch of one sample of a batch."""
    return batch.narrow(1 if network.config.frames else 0, place, 1)


def _differences(candidate: SpikingNetwork, network: AdoptedNetwork, seed: int) -> list[float]:
    """Largest difference of logits beyond tolerance of each sample, or 0."""
    batch = _probe(network, seed)
    name = type(network.net).__name__
    try:
        with torch.no_grad():
            together = candidate(batch)
            alone = [candidate(_sample(network, batch, place)) for place in range(_SAMPLES)]
    except Exception as error:  # the user's code may raise anything
        raise ModelError(
            f"{name} does not run on a batch of one image, as a device gives it "
            f"({type_and_message(error)}): does its code squeeze the batch away?"
        ) from error
    if alone[0].shape != together[:1].shape:
        raise ModelError(
            f"{name} returns {list(alone[0].shape)} for one image, expected "
            f"{list(together[:1].shape)}: does its code squeeze the batch away?"
        )
    return [
        0.0 if _same(one[0], logits) else float((one[0] - logits).abs().max())
        for one, logits in zip(alone, together, strict=True)
    ]


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    tolerance = _TOLERANCE * max(1.0, float(second.abs().max()))
    return torch.allclose(first, second, rtol=0.0, atol=tolerance, equal_nan=True)


def _where_it_begins(candidate: SpikingNetwork, network: AdoptedNetwork, place: int) -> str:
    """The first layer whose input or output is another beside other samples."""
    batch = _probe(network, 0)
    alone = _sample(network, batch, place)
    seen: list[torch.Tensor] = []
    with torch.no_grad(), _observed(candidate, lambda _, tensor: seen.append(tensor.clone())):
        candidate(alone)
    single = iter(seen)
    last = "the input"

    def compare(layer: str, tensor: torch.Tensor) -> None:
        nonlocal last
        expected = next(single, None)
        if expected is None or not _holds(tensor, expected, place):
            raise _BeginsHere(layer)
        last = layer

    def titled(layer: str) -> str:
        name, _, side = layer.rpartition(":")
        title = f"{name.removeprefix('net.')} ({_kind(network.get_submodule(name))})"
        return f"in {title}" if side == "output" else f"in the code between {before} and {title}"

    try:
        with torch.no_grad(), _observed(candidate, compare):
            candidate(batch)
    except _BeginsHere as found:
        before = last.rpartition(":")[0].removeprefix("net.") or last
        return titled(str(found))
    return f"behind {last.rpartition(':')[0].removeprefix('net.') or last}"


class _BeginsHere(Exception):
    """Ends the run that looks for the layer."""


@contextmanager
def _observed(network: SpikingNetwork, see: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Show `see` every layer's `name:input` and `name:output`, in the order of the calls."""
    handles = []
    neurons = [name for name, module in network.named_modules() if isinstance(module, Neuron)]
    for name, module in network.named_modules():
        inside_neuron = any(name.startswith(f"{neuron}.") for neuron in neurons)
        if (name in neurons or not list(module.children())) and not inside_neuron:
            handles.append(module.register_forward_pre_hook(_of_input(f"{name}:input", see)))
            handles.append(module.register_forward_hook(_of_output(f"{name}:output", see)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _kind(module: nn.Module) -> str:
    if isinstance(module, Neuron):
        return type(module.node).__name__
    if getattr(module, "running_mean", 0) is None:
        return f"{type(module).__name__} without running statistics"
    return type(module).__name__


def _of_input(place: str, see: Callable[[str, torch.Tensor], None]) -> Any:
    def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], torch.Tensor):
            see(place, inputs[0])

    return hook


def _of_output(place: str, see: Callable[[str, torch.Tensor], None]) -> Any:
    def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, torch.Tensor):
            see(place, output)

    return hook


def _holds(together: torch.Tensor, alone: torch.Tensor, place: int) -> bool:
    """Whether a tensor of a batch has the one of its sample at `place` as a slice of some axis.

    The batch may be an axis of its own, or be folded with time or tokens in either order.
    """
    if together.shape == alone.shape:
        return _same(together, alone)
    for axis, size in enumerate(together.shape):
        expected = list(together.shape)
        expected[axis] = size // _SAMPLES
        if size % _SAMPLES or list(alone.shape) != expected:
            continue
        rest = size // _SAMPLES
        for inner in (n for n in range(1, rest + 1) if rest % n == 0):
            parts = together.unflatten(axis, (rest // inner, _SAMPLES, inner))
            if _same(parts.select(axis + 1, place).flatten(axis, axis + 1), alone):
                return True
    return False
