"""A network with the weights of a state_dict, or one line on why they do not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families import Family
from primesvt_deploy.families.config import NetworkConfig
from primesvt_deploy.families.coupling import coupling_twin
from primesvt_deploy.families.fit_widths import fit_widths
from primesvt_deploy.families.network import SpikingNetwork

__all__ = ["filled", "listed"]


def filled(
    family: Family, config: NetworkConfig, state: Mapping[str, torch.Tensor], path: Path
) -> SpikingNetwork:
    """A network of `family` with these weights, as wide as they are; float32, evaluation mode.

    Args:
        family: what to build.
        config: of the network before pruning.
        state: under the network's own names.
        path: where the weights come from, for messages.

    Raises:
        ModelError: keys are missing or unexpected, shapes do not fit the network or each other,
            or a value is not finite.
    """
    network = family.build(config)
    expected = network.state_dict()
    # Biases come and go with the checkpoint, but for all layers of a kind alike.
    missing = [k for k in sorted(expected.keys() - state.keys()) if not k.endswith(".conv.bias")]
    unexpected = [
        k for k in sorted(state.keys() - expected.keys()) if not _is_conv_bias(k, expected)
    ]
    if missing or unexpected:
        raise ModelError(
            f"{path} does not fit this {family.name}: {listed('missing', missing)}; "
            f"{listed('unexpected', unexpected)}"
        )
    try:
        _check_biases(state)
        fit_widths(network, state)
        expected = network.state_dict()
        for key in expected:
            if expected[key].shape != state[key].shape:
                raise ModelError(
                    f"{key} is {list(state[key].shape)}, expected {list(expected[key].shape)}"
                )
        _check_flow(network, config.input_shape)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    state = {k: v.to(expected[k].dtype) for k, v in state.items()}
    broken = [k for k, v in state.items() if not v.isfinite().all()]
    if broken:
        raise ModelError(f"{path}: {broken[0]} holds NaN or infinity: use another checkpoint")
    network.load_state_dict(state)
    return network.eval()


def listed(what: str, keys: Sequence[str]) -> str:
    """`12 keys missing (first, ...)`, ten at most by name."""
    return f"{len(keys)} keys {what}" + (f" ({', '.join(keys[:10])})" if keys else "")


def _is_conv_bias(key: str, expected: Mapping[str, torch.Tensor]) -> bool:
    layer, _, tail = key.rpartition(".")
    return tail == "bias" and layer.endswith("conv") and f"{layer}.weight" in expected


def _check_biases(state: Mapping[str, torch.Tensor]) -> None:
    """Blocks repeat: a bias that only one of them lacks was lost, not left out."""
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


def _check_flow(network: SpikingNetwork, input_shape: tuple[int, int, int]) -> None:
    """Let shapes, not values, run through the network: does each layer fit the one before?

    Raises:
        ModelError: a layer takes another number of channels than arrives.
    """
    twin, run = coupling_twin(network)
    twin.to("meta")
    for name, layer in twin.named_modules():
        layer.register_forward_pre_hook(_checks_channels(name))
    try:
        with torch.no_grad():
            run(twin, torch.zeros(1, *input_shape, device="meta"))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise ModelError(
            f"the weights do not fit each other or the image size ({reason}): check --image-size "
            "and --heads"
        ) from error


def _checks_channels(name: str) -> Any:
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
