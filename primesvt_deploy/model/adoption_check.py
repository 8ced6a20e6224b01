"""Check that an adopted network computes what the user's module computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from spikingjelly.activation_based import functional
from torch import nn

from primesvt_deploy.errors import ModelError, type_and_message
from primesvt_deploy.families.adopted import AdoptedNetwork
from primesvt_deploy.families.blocks.neuron import Neuron
from primesvt_deploy.lowering.lif import ChargeFireReset
from primesvt_deploy.lowering.lower_module import lower_module

__all__ = ["check_exportable", "check_neurons", "check_same_outputs"]

_TOLERANCE = 1e-9


def check_same_outputs(network: AdoptedNetwork, net: nn.Module) -> None:
    """Compare an adopted network, and its lowered form, with the user's module, in float64.

    Args:
        network: the adopted network.
        net: the user's module, with its own neurons.

    Raises:
        ModelError: logits of noise differ by more than 1e-9, differ from call to call, or the
            module does not run in double precision.
    """
    generator = torch.Generator().manual_seed(0)
    shape = network.config.example(2).shape
    x = 2.0 * torch.randn(shape, generator=generator, dtype=torch.float64)
    one = x.narrow(1 if network.config.frames else 0, 0, 1)
    original = AdoptedNetwork(network.config, net).double()
    original.net = copy.deepcopy(net).double()
    functional.reset_net(original.net)
    adopted = copy.deepcopy(network).double()
    lowered = lower_module(network).double()
    try:
        with torch.no_grad():
            given = x.clone()
            expected = original(x)
            if not torch.equal(x, given):
                raise ModelError(
                    f"{type(net).__name__} changes its input in place, as x.sub_(...) does, and "
                    "with it the images that others read: write x = x - ..."
                )
            functional.reset_net(original.net)
            again, found, exported = original(x), adopted(x), lowered(x)
            functional.reset_net(original.net)
            alone = [original(one), adopted(one)]
    except ModelError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ModelError(
            f"{type(net).__name__} cannot be run in double precision, in which it is checked "
            f"({type_and_message(error)}): does its code cast to float32, as x.float() does? Write "
            "x.to(weight.dtype)"
        ) from error
    if not bool(expected.isfinite().all()):
        raise ModelError(
            f"{type(net).__name__} gives NaN or infinity for noise: are its weights those of a "
            "trained model?"
        )
    if not torch.equal(expected, again):
        raise ModelError(
            f"{type(net).__name__} gives another output when it is called again: it keeps a state "
            "besides its neurons', which cannot be exported"
        )
    difference = float(torch.stack([expected - found, expected - exported]).abs().max())
    if not difference <= _TOLERANCE:
        raise ModelError(
            f"{type(net).__name__} computes something else once its neurons are replaced (logits "
            f"differ by {difference:.3g}): does its code look into its neurons, call one twice, or "
            "give one a firing function of its own?"
        )
    if not torch.allclose(alone[0], alone[1], rtol=0.0, atol=_TOLERANCE):
        raise ModelError(
            f"{type(net).__name__} takes another way for one image than for several, and an "
            "artifact has one graph: does its code ask for the size of the batch?"
        )


def check_exportable(network: AdoptedNetwork) -> None:
    """Refuse recorded operations that torch.onnx writes as something else, without a word.

    Raises:
        ModelError: names the operation.
    """
    for node in network.graph.nodes if network.graph is not None else ():
        name = getattr(node.target, "__name__", "").strip("_")
        accumulates = name == "index_put" and (
            node.kwargs.get("accumulate", node.args[3] if len(node.args) > 3 else False)
        )
        if name == "index_add" or accumulates:
            raise ModelError(
                f"{type(network.net).__name__} adds into places of a tensor with {name}(), of "
                "which torch.onnx leaves the sum away: write x = x.clone(); x[places] += y"
            )


def check_neurons(
    network: AdoptedNetwork, recorded: Sequence[Mapping[str, Any]], factory: str
) -> None:
    """Compare a network's neurons with those that its bundle was built with.

    Weights do not hold the constants of neurons, so a factory whose code has changed since would
    go unnoticed.

    Args:
        network: from `rebuild_adopted`.
        recorded: entry `neurons` of the bundle's manifest.
        factory: `module:function` that made the network, for the message.

    Raises:
        ModelError: a neuron has other constants.
    """
    constants = {
        str(entry["name"]): {k: v for k, v in entry.items() if k not in ("name", "layout")}
        for entry in recorded
    }
    for name, module in network.named_modules():
        if isinstance(module, Neuron) and module.used:
            found = vars(ChargeFireReset.of(module))
            layer = name.removesuffix(".neuron")
            if constants.get(layer) != found:
                raise ModelError(
                    f"{factory} makes another {layer} than the bundle was built with "
                    f"({found}, recorded {constants.get(layer)}): pass the factory of the same code"
                )
