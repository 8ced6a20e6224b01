"""Adopt a user's own SViT: a Python object, or a function that makes one."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from primesvt_deploy.errors import ModelError, type_and_message
from primesvt_deploy.families.adopted import ADOPTED, AdoptedConfig, AdoptedNetwork
from primesvt_deploy.families.fit_widths import fit_tensors, fit_widths
from primesvt_deploy.families.input_defaults import InputDefaults
from primesvt_deploy.model.adoption_check import check_exportable, check_same_outputs
from primesvt_deploy.model.calling_convention import find_calling_convention
from primesvt_deploy.model.checkpoint import read_checkpoint
from primesvt_deploy.model.data_dependence import check_values_are_not_read
from primesvt_deploy.model.entries import (
    check_numbers,
    entries_of_module,
    others_note,
    widened_note,
)
from primesvt_deploy.model.factory import call_factory
from primesvt_deploy.model.labels import checked_labels
from primesvt_deploy.model.preprocessing import InputOptions, default_note, input_steps
from primesvt_deploy.model.sample_independence import check_sample_independence
from primesvt_deploy.model.smooth import smooth_logits
from primesvt_deploy.model.source import Source
from primesvt_deploy.model.state_dict import key_list
from primesvt_deploy.model.supernet import refuse_supernet, refuse_supernet_keys
from primesvt_deploy.model.svit import SViT

__all__ = ["RecordedCode", "adopt", "rebuild_adopted"]

_TOLERANCE = 1e-6
"""Of logits without thresholds, in fp64, on two machines."""


def adopt(
    module: nn.Module | Callable[[], nn.Module] | str,
    *,
    image_size: int,
    timesteps: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    ema: bool = False,
    key: str | None = None,
    ignore_args: bool = False,
    sha256: str | None = None,
    frames: bool | None = None,
    labels: Sequence[str] | None = None,
    name: str | None = None,
    **inputs: Any,
) -> SViT:
    """Make a SViT of any module built of SpikingJelly neurons and standard layers.

    Neurons may be IF, LIF, PLIF or I-LIF, in multi-step mode, with any parameters. The module
    takes images `[N, C, H, W]` or sequences `[T, N, C, H, W]` (or `[N, T, C, H, W]`) and returns
    logits `[N, K]` or `[T, N, K]`, alone or as the one such tensor of a tuple, list or dict; which
    of them is found by trying. Logits of the adopted model are compared with the module's, in
    float64, before it is returned.

    Args:
        module: the module, a function that makes it, or `module:function`; not changed.
        image_size: height and width of the square input, pixels.
        timesteps: T; default: the module's attribute `T`.
        checkpoint: a file of weights for it; default: the weights that it has.
        ema: read the exponential moving average of the checkpoint's weights.
        key: name of the weights in the checkpoint, where it holds several models'.
        ignore_args: search with it whatever accuracy the checkpoint records.
        sha256: of the checkpoint, 64 hexadecimal digits; one with another is not read.
        frames: whether the input is a sequence of event frames; default: if the first convolution
            takes two channels.
        labels: class names in the order of the logits; default: `0`, `1`, ...
        name: its name in reports; default: the checkpoint's file name, or the class's name.
        inputs: fields of `InputOptions`.

    Raises:
        ModelError: a layer cannot be lowered, the module cannot be called in any of these ways,
            or the weights do not fit it, in one line.
    """
    factory = module if isinstance(module, str) else ""
    net = call_factory(module) if isinstance(module, str) else module
    if not isinstance(net, nn.Module):
        net = net()
    refuse_supernet(net)
    _refuse_scripts(net)
    net = _copied(net)
    if checkpoint is None:
        check_numbers(net.state_dict(), net)
    notes: list[str] = []
    accuracy: float | None = None
    source: Source | None = None
    if checkpoint is not None:
        path = Path(checkpoint)
        stored = read_checkpoint(path, ema=ema, key=key, sha256=sha256)
        source = stored.source
        notes += _load_weights(net, stored.state, path, stored.ignored)
        accuracy = None if ignore_args else stored.accuracy
        notes.append(others_note(stored.others))
    elif ema or key is not None:
        flag = "--ema" if ema else "--key"
        raise ModelError(f"{flag} chooses weights of a checkpoint: pass --checkpoint, or drop it")
    elif sha256 is not None:
        raise ModelError("--sha256 is of a checkpoint: pass --checkpoint, or drop it")
    classes = None if labels is None else len(labels)
    config = find_calling_convention(net, image_size, timesteps, frames, factory, classes)
    network = AdoptedNetwork(config, net)
    check_values_are_not_read(network, net)
    network.record()
    check_exportable(network)
    check_same_outputs(network, net)
    check_sample_independence(network)
    chosen = InputOptions(**inputs)
    notes.append(default_note(config, chosen))
    network.mark_unused()
    return SViT(
        name=name or (checkpoint and Path(checkpoint).name.split(".")[0]) or type(net).__name__,
        family=ADOPTED,
        config=config,
        module=network,
        preprocessing=input_steps(InputDefaults(), config, chosen),
        labels=checked_labels(labels, config.num_classes, Path(type(net).__name__)),
        notes=tuple(filter(None, notes)),
        recorded_accuracy=accuracy,
        source=source,
    )


@dataclass(frozen=True)
class RecordedCode:
    """Facts of a user's code that a bundle's manifest holds.

    Args:
        digest: of the recorded forward pass; "": it could not be recorded.
        sizes: numbers in it that pruning changed, by operation and position.
        logits: of `smooth_logits`, which depend on what no record holds, such as the dilation of
            a convolution; none in bundles of earlier versions.
    """

    digest: str
    sizes: Mapping[str, Mapping[str, int]]
    logits: Sequence[float] = ()


def rebuild_adopted(
    config: AdoptedConfig,
    factory: str,
    state: Mapping[str, torch.Tensor],
    code: RecordedCode,
    path: Path,
) -> AdoptedNetwork:
    """Rebuild the network of a bundle of a user's own class.

    Args:
        config: from the bundle's manifest.
        factory: `module:function` that makes the module; it is imported and called.
        state: the bundle's weights, with pruned widths.
        code: what the manifest says of the module's code.
        path: the bundle, for messages.

    Raises:
        ModelError: the factory fails, it makes a module of other code, or the weights do not fit
            what it makes.
    """
    network = AdoptedNetwork(config, call_factory(factory).cpu().float().eval())
    try:
        _load_equally_wide(network, state)
        network.record()
        if code.digest and network.code != code.digest:
            raise ModelError(
                f"{path}: {factory} makes a module whose code computes something else than the "
                "one that the bundle was built with: pass the factory of the same code"
            )
        # The bundle's weights are narrower than those of the factory's module.
        fit_widths(network, state)
        fit_tensors(network, state)
        _load_weights(network, state, path)
        network.set_sizes(
            {
                node: {int(leaf): value for leaf, value in values.items()}
                for node, values in code.sizes.items()
            }
        )
        _check_logits(network, code.logits, factory, path)
        check_sample_independence(network)
        network.mark_unused()
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} does not fit what {factory} makes ({type_and_message(error)}): is it the "
            "same code?"
        ) from error
    return network


def _check_logits(
    network: AdoptedNetwork, recorded: Sequence[float], factory: str, path: Path
) -> None:
    """Refuse a factory whose module gives other logits with a bundle's weights."""
    found = torch.tensor(smooth_logits(network), dtype=torch.float64)
    expected = torch.tensor(recorded, dtype=torch.float64)
    if recorded and not torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise ModelError(
            f"{path}: with its weights, the module that {factory} makes gives other logits than "
            "the one that the bundle was built with: pass the factory of the same code"
        )


def _refuse_scripts(net: nn.Module) -> None:
    for name, module in net.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{name or type(net).__name__} is a ScriptModule, whose code cannot be followed: "
                "adopt the module that it was scripted from"
            )


def _load_equally_wide(network: AdoptedNetwork, state: Mapping[str, torch.Tensor]) -> None:
    """Fill in the weights that were not cut: the code may read their values as it is recorded."""
    own = network.state_dict()
    fitting = {k: t for k, t in state.items() if k in own and own[k].shape == t.shape}
    network.load_state_dict({**own, **fitting})


def _copied(net: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(net).cpu().float().eval()
    except RuntimeError as error:
        raise ModelError(
            f"{type(net).__name__} cannot be copied ({type_and_message(error)}): call spikingjelly."
            "activation_based.functional.reset_net(model) on it first"
        ) from error


def _load_weights(
    net: nn.Module, state: Mapping[str, torch.Tensor], path: Path, ignored: Sequence[str] = ()
) -> list[str]:
    """Fill `net`; notes on entries that were left out, added or widened."""
    expected = net.state_dict()
    try:
        state, note = entries_of_module(state, expected, ignored)
    except ModelError as error:
        raise ModelError(f"{path} {error}") from error
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    if missing or unexpected:
        refuse_supernet_keys(unexpected, path)
        raise ModelError(
            f"{path} does not fit {type(net).__name__}: {key_list('missing', missing)}; "
            f"{key_list('unexpected', unexpected)}"
        )
    try:
        check_numbers(state, net)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1].strip()
        raise ModelError(f"{path} does not fit {type(net).__name__}: {last}") from error
    return list(filter(None, (note, widened_note(state))))
