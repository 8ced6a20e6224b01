"""Fill a network with the weights of a state_dict, or say in one line why they do not fit it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from primesvt_deploy.errors import ModelError, first_line
from primesvt_deploy.families import Family
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.coupling_proxy import coupling_proxy
from primesvt_deploy.families.fit_widths import fit_widths
from primesvt_deploy.families.network import SpikingNetwork
from primesvt_deploy.model.entries import check_numbers

__all__ = ["key_list", "network_with_weights"]

_State = Mapping[str, torch.Tensor]
_MOST_BYTES, _PRUNED = 2**30, 16
"""A network before pruning may have so many bytes, or so many times those of its weights."""


def network_with_weights(
    family: Family, config: NetworkConfig, state: _State, path: Path
) -> SpikingNetwork:
    """A network of `family` with the given weights, as wide as they are; float32, evaluation mode.

    Args:
        family: family to build.
        config: configuration of the network before pruning.
        state: state_dict under the network's own names, with pruned widths or not.
        path: file of the weights, for messages.

    Raises:
        ModelError: keys are missing or unexpected, shapes do not fit the network or each other,
            a value is not finite, or the network would be far larger than the weights.
    """
    _check_room(family, config, state, path)
    network = family.build(config)
    _check_keys(family, network.state_dict(), state, path)
    try:
        _check_biases(state)
        fit_widths(network, state)
        _check_shapes(network.state_dict(), state)
        _check_channels(network, config.input_shape)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    expected = network.state_dict()
    try:
        check_numbers(state, network)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    state = {key: tensor.to(expected[key].dtype) for key, tensor in state.items()}
    network.load_state_dict(state)
    return network.eval()


def _check_room(family: Family, config: NetworkConfig, state: _State, path: Path) -> None:
    """Refuse a configuration, read from shapes, whose network is far larger than its weights."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tensors without elements
        network = family.build(config)
    empty = [key for key, tensor in network.state_dict().items() if not tensor.numel()]
    if empty:
        raise ModelError(f"{path}: {empty[0]} would be empty by its configuration: correct that")
    needed = sum(tensor.nbytes for tensor in network.state_dict().values())
    held = sum(tensor.nbytes for tensor in state.values())
    if needed > max(_MOST_BYTES, _PRUNED * held):
        raise ModelError(
            f"{path}: its shapes are those of a {family.name} of {needed} bytes, but it holds "
            f"{held}: is the checkpoint whole?"
        )


def key_list(title: str, keys: Sequence[str]) -> str:
    """Number of keys and the first ten of them: `12 keys missing (first, ...)`."""
    return f"{len(keys)} keys {title}" + (f" ({', '.join(keys[:10])})" if keys else "")


def _check_keys(family: Family, expected: _State, state: _State, path: Path) -> None:
    # A layer has a bias or none as the checkpoint has it, but all layers of a kind alike.
    missing = [k for k in sorted(expected.keys() - state.keys()) if not k.endswith(".conv.bias")]
    unexpected = [
        k for k in sorted(state.keys() - expected.keys()) if not _is_conv_bias(k, expected)
    ]
    if missing or unexpected:
        raise ModelError(
            f"{path} does not fit this {family.name}: {key_list('missing', missing)}; "
            f"{key_list('unexpected', unexpected)}"
        )


def _is_conv_bias(key: str, expected: _State) -> bool:
    layer, _, tail = key.rpartition(".")
    return tail == "bias" and layer.endswith("conv") and f"{layer}.weight" in expected


def _check_biases(state: _State) -> None:
    """Refuse a bias that only one of several repeated blocks lacks: it was lost, not left out."""
    biased: dict[str, tuple[bool, str]] = {}
    for key in state:
        layer, _, tail = key.rpartition(".")
        if tail != "weight" or not layer.endswith("conv"):
            continue
        kind = re.sub(r"\d+", "N", layer)
        found = (f"{layer}.bias" in state, layer)
        first = biased.setdefault(kind, found)
        if first[0] != found[0]:
            lacking, having = (first, found) if found[0] else (found, first)
            raise ModelError(
                f"{lacking[1]}.bias is missing, but {having[1]} has one: is the checkpoint whole?"
            )


def _check_shapes(expected: _State, state: _State) -> None:
    for key in expected:
        if expected[key].shape != state[key].shape:
            raise ModelError(
                f"{key} is {list(state[key].shape)}, expected {list(expected[key].shape)}"
            )


def _check_channels(network: SpikingNetwork, input_shape: tuple[int, int, int]) -> None:
    """Check that each layer takes as many channels as the one before gives.

    Shapes alone are computed (on the meta device), by the coupling proxy, which has no time axis.

    Raises:
        ModelError: a layer takes another number of channels than arrives.
    """
    proxy, run = coupling_proxy(network)
    proxy.to("meta")
    for name, layer in proxy.named_modules():
        layer.register_forward_pre_hook(_channel_check(name))
    try:
        with torch.no_grad():
            run(proxy, torch.zeros(1, *input_shape, device="meta"))
    except RuntimeError as error:
        raise ModelError(
            f"the weights do not fit each other or the image size ({first_line(error)}): check "
            "--image-size and --heads"
        ) from error


def _channel_check(name: str) -> Any:
    def check(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            taken = getattr(layer, "in_channels", getattr(layer, "num_features", None)) or getattr(
                layer, "in_features", None
            )
            arriving = inputs[0].shape[-1 if isinstance(layer, nn.Linear) else 1]
            if taken != arriving:
                raise ModelError(
                    f"{name} takes {taken} channels, but {arriving} arrive: the weights are not "
                    "one model's"
                )

    return check
