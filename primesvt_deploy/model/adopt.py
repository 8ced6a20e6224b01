"""Adopt a user's own SViT: a Python object, or a function that makes one."""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from spikingjelly.activation_based import functional
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.adopted import AdoptedConfig, AdoptedNetwork
from primesvt_deploy.families.base import Family, InputDefaults
from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.families.fit_widths import fit_widths
from primesvt_deploy.lowering.lif import ChargeFireReset
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.checkpoint import read_checkpoint
from primesvt_deploy.model.preprocessing import InputOptions, checked_labels, input_steps
from primesvt_deploy.model.state_dict import listed
from primesvt_deploy.model.svit import SViT

__all__ = ["OWN", "adopt", "adopted_again", "check_neurons", "make"]

_TOLERANCE = 1e-9


def _refuse(*_: Any) -> Any:
    raise ModelError(
        "this is a model of a class of your own: pass --factory MODULE:FUNCTION that makes it"
    )


OWN = Family(
    name="own",
    title="a class of the user's own",
    config_type=AdoptedConfig,
    network=_refuse,
    recognises=lambda _: False,
    convert=_refuse,
    flags="--factory --image-size [--timesteps]",
)


def make(factory: str) -> nn.Module:
    """The module that `module:function` makes, called without arguments.

    The current directory is searched as well.

    Raises:
        ModelError: no such module or function, it fails, or what it makes is no `nn.Module`.
    """
    name, _, function = factory.partition(":") if isinstance(factory, str) else ("", "", "")
    if not name or not function:
        raise ModelError(f"factory is {factory!r}: expected MODULE:FUNCTION, such as nets:build")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    # Importing and calling run the user's code, which may raise anything, or exit.
    try:
        maker = getattr(importlib.import_module(name), function)
    except (Exception, SystemExit) as error:
        raise ModelError(f"--factory {factory}: {_told(error)}") from error
    try:
        made = maker()
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"--factory {factory}: it failed when called without arguments ({_told(error)})"
        ) from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"--factory {factory} made a {type(made).__name__}, expected an nn.Module")
    return made


def adopt(
    module: nn.Module | Callable[[], nn.Module] | str,
    *,
    image_size: int,
    timesteps: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    ema: bool = False,
    frames: bool | None = None,
    labels: Sequence[str] | None = None,
    name: str | None = None,
    **inputs: Any,
) -> SViT:
    """Make a SViT of any module built of SpikingJelly neurons and standard layers.

    Neurons may be IF, LIF, PLIF or I-LIF, in multi-step mode, with any parameters. The module
    takes images `[N, C, H, W]` or sequences `[T, N, C, H, W]` (or `[N, T, C, H, W]`) and returns
    logits `[N, K]` or `[T, N, K]`; which of them is found by trying. What the adopted model
    computes is compared with the module's own output before it is returned.

    Args:
        module: the module, a function that makes it, or `module:function`; not changed.
        image_size: height and width of the square input, pixels.
        timesteps: T; default: the module's attribute `T`.
        checkpoint: a file of weights for it; default: the weights that it has.
        ema: read the checkpoint's averaged weights.
        frames: whether the input is a sequence of event frames; default: where the first
            convolution takes two channels.
        labels: class names in the order of the logits; default: `0`, `1`, ...
        name: what reports call it; default: the class's name.
        inputs: the fields of `InputOptions`.

    Raises:
        ModelError: a layer that cannot be lowered, a module that cannot be called so, or weights
            that do not fit it, in one line.
    """
    factory = module if isinstance(module, str) else ""
    net = make(module) if isinstance(module, str) else module
    if not isinstance(net, nn.Module):
        net = net()
    net = _copied(net)
    if checkpoint is not None:
        path = Path(checkpoint)
        _load_weights(net, read_checkpoint(path, ema=ema).state, path)
    elif ema:
        raise ModelError("--ema chooses weights of a checkpoint: pass --checkpoint, or drop it")
    config = _probed(net, image_size, timesteps, frames, factory)
    network = AdoptedNetwork(config, net)
    _check_same(network, net)
    network.mark_unused()
    return SViT(
        name=name or (Path(checkpoint).name.split(".")[0] if checkpoint else type(net).__name__),
        family=OWN,
        config=config,
        module=network,
        preprocessing=input_steps(InputDefaults(), config, InputOptions(**inputs)),
        labels=checked_labels(labels, config.num_classes, Path(type(net).__name__)),
    )


def adopted_again(
    config: AdoptedConfig, factory: str, state: Mapping[str, torch.Tensor], path: Path
) -> AdoptedNetwork:
    """The network of a bundle of a user's own model, from its factory and the bundle's weights."""
    net = make(factory).cpu().float().eval()
    own = AdoptedNetwork(config, net).own_keys(state)
    try:
        # The bundle's weights are narrower than those of the factory's module.
        fit_widths(net, own)
        _load_weights(net, own, path)
        network = AdoptedNetwork(config, net)
        network.mark_unused()
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path} does not fit what {factory} makes ({_told(error)}): is it the same code?"
        ) from error
    return network


def check_neurons(
    network: AdoptedNetwork, recorded: Sequence[Mapping[str, Any]], factory: str
) -> None:
    """Compare a network's neurons with those that its bundle was built with.

    Args:
        network: from `adopted_again`.
        recorded: the manifest's `neurons`.
        factory: for the message.

    Raises:
        ModelError: a neuron has other constants: weights do not hold them, so they would not tell.
    """
    known = {
        str(entry["name"]): {k: v for k, v in entry.items() if k not in ("name", "layout")}
        for entry in recorded
    }
    for name, module in network.named_modules():
        if isinstance(module, Neuron) and module.used:
            found = vars(ChargeFireReset.of(module))
            layer = name.removesuffix(".neuron")
            if known.get(layer) != found:
                raise ModelError(
                    f"{factory} makes another {layer} than the bundle was built with "
                    f"({found}, recorded {known.get(layer)}): pass the factory of the same code"
                )


def _copied(net: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(net).cpu().float().eval()
    except RuntimeError as error:
        raise ModelError(
            f"{type(net).__name__} cannot be copied ({_told(error)}): call spikingjelly."
            "activation_based.functional.reset_net(model) on it first"
        ) from error


def _load_weights(net: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    expected = net.state_dict()
    if not expected.keys() & state.keys() and f"model.{next(iter(state))}" in expected:
        # A prefix that the module has itself was taken for a wrapper's.
        state = {f"model.{key}": tensor for key, tensor in state.items()}
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    if missing or unexpected:
        raise ModelError(
            f"{path} does not fit {type(net).__name__}: {listed('missing', missing)}; "
            f"{listed('unexpected', unexpected)}"
        )
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1].strip()
        raise ModelError(f"{path} does not fit {type(net).__name__}: {last}") from error


def _probed(
    net: nn.Module, image_size: int, timesteps: int | None, frames: bool | None, factory: str
) -> AdoptedConfig:
    """How the module is called, by trying."""
    steps = getattr(net, "T", None) if timesteps is None else timesteps
    if type(steps) is not int:
        raise ModelError(
            f"{type(net).__name__} has no attribute T that tells the timesteps: pass --timesteps"
        )
    first = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        raise ModelError(f"{type(net).__name__} has no 2-d convolution: expected a vision model")
    sequence = first.in_channels == 2 if frames is None else frames
    plain = AdoptedConfig(
        timesteps=steps,
        image_size=image_size,
        in_channels=first.in_channels,
        num_classes=1,
        frames=sequence,
        sequence_input=False,
        sequence_output=False,
        factory=factory,
    )
    tried: list[str] = []
    for config in _ways(plain):
        outcome = _tried(net, config)
        if isinstance(outcome, AdoptedConfig):
            return outcome
        tried.append(outcome)
    raise ModelError(f"{type(net).__name__} could not be run: {'; '.join(dict.fromkeys(tried))}")


def _ways(plain: AdoptedConfig) -> list[AdoptedConfig]:
    ways = [] if plain.frames else [plain]
    return [
        *ways,
        replace(plain, sequence_input=True),
        replace(plain, sequence_input=True, batch_first=True),
    ]


def _tried(net: nn.Module, config: AdoptedConfig) -> AdoptedConfig | str:
    """`config` completed with what the output tells, or why the module does not run so."""
    # Another number of samples than of timesteps, so that the axes cannot be confused.
    samples = 2 if config.timesteps != 2 else 3
    network = AdoptedNetwork(config, net)
    try:
        with torch.no_grad():
            found = network(config.example(samples))
    except Exception as error:  # the user's code may raise anything
        return f"on an input of {list(config.example(samples).shape)}: {_told(error)}"
    if not isinstance(found, torch.Tensor):
        return f"it returns a {type(found).__name__}, expected logits [N, K] or [T, N, K]"
    steps = (config.timesteps, samples)
    if found.ndim == 3 and tuple(found.shape[:2]) == steps:
        return replace(config, sequence_output=True, num_classes=found.shape[2])
    if found.ndim == 2 and len(found) == samples:
        return replace(config, num_classes=found.shape[1])
    return (
        f"it returns {list(found.shape)} for {samples} samples and {config.timesteps} timesteps, "
        "expected logits [N, K] or [T, N, K]"
    )


def _check_same(network: AdoptedNetwork, net: nn.Module) -> None:
    """Compare with the module and its own neurons, in fp64, and with what will be exported."""
    generator = torch.Generator().manual_seed(0)
    shape = network.config.example(2).shape
    x = 2.0 * torch.randn(shape, generator=generator, dtype=torch.float64)
    own = AdoptedNetwork(network.config, net).double()
    own.net = copy.deepcopy(net).double()
    functional.reset_net(own.net)
    ours = copy.deepcopy(network).double()
    lowered = lower_module(network).double()
    try:
        with torch.no_grad():
            expected, found, again, exported = own(x), ours(x), ours(x), lowered(x)
    except Exception as error:  # the user's code may raise anything
        raise ModelError(
            f"{type(net).__name__} cannot be run in double precision, in which it is checked "
            f"({_told(error)}): does its code cast to float32?"
        ) from error
    difference = float(torch.stack([expected - found, expected - exported]).abs().max())
    if not difference <= _TOLERANCE:
        raise ModelError(
            f"{type(net).__name__} computes something else once its neurons are replaced (logits "
            f"differ by {difference:.3g}): does its code look into its neurons, call one twice, or "
            "give one a firing function of its own?"
        )
    if not torch.equal(found, again):
        raise ModelError(
            f"{type(net).__name__} gives another output when it is called again: it keeps a state "
            "besides its neurons', which cannot be exported"
        )


def _told(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    first = (str(error).strip() or "no reason given").splitlines()[0][:160]
    return f"{type(error).__name__}: {first}"
