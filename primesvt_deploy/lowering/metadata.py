"""Metadata of a lowered graph: what the file itself says about its neurons and float layers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from primesvt_deploy.edge.runtime.checked_json import fields, list_of, one_of, parse_json, text
from primesvt_deploy.errors import VerificationError
from primesvt_deploy.lowering.lif import ChargeFireReset

__all__ = [
    "FLOAT_LAYERS_KEY",
    "FOLDED_KEY",
    "NEURONS_KEY",
    "UnrolledLayer",
    "read_metadata",
    "record_neurons",
]

NEURONS_KEY = "primesvt.neurons"
"""Model metadata: JSON list of the neurons there are, each with its constants and the `names` of
the layers that have them.

A layer's spikes are the tensors `<name>.spikes.t<t>`, and all of them `<name>.spikes`; of type
uint8 they are spike counts. Their `layout` is that of the torch module (`NCHW`, any rank) or
`NHWC`.
"""
FLOAT_LAYERS_KEY = "primesvt.real"
"""Model metadata of an integer artifact: JSON list of the weighted layers whose float32 sums are
not exact, so that their outputs depend on the order in which a machine adds."""
FOLDED_KEY = "primesvt.folded"
"""Model metadata, where there are any: JSON list of the neuron layers that the graph has lost."""

_LAYERS = list_of(text(expected="the name of a layer"))
_CHECKS = {
    NEURONS_KEY: list_of(fields({"names": _LAYERS, "layout": one_of("NCHW", "NHWC")})),
    FLOAT_LAYERS_KEY: _LAYERS,
    FOLDED_KEY: _LAYERS,
}


@dataclass(frozen=True)
class UnrolledLayer:
    """One neuron layer of the artifact.

    Args:
        name: of the layer, as in the torch module.
        constants: what it computes.
        spikes: names of the spike tensors, one a timestep.
        layout: `NCHW`: axes as in torch; `NHWC`: channels last.
    """

    name: str
    constants: ChargeFireReset
    spikes: tuple[str, ...]
    layout: str = "NCHW"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        layout = {} if self.layout == "NCHW" else {"layout": self.layout}
        return {"name": self.name, **layout, **vars(self.constants)}


def record_neurons(model: ir.Model, layers: Sequence[UnrolledLayer]) -> None:
    """Write the neuron layers into the model's metadata, equal ones as one entry."""
    alike: dict[tuple[ChargeFireReset, str], list[str]] = {}
    for layer in layers:
        alike.setdefault((layer.constants, layer.layout), []).append(layer.name)
    entries = [
        {"names": names, "layout": layout, **vars(constants)}
        for (constants, layout), names in alike.items()
    ]
    model.metadata_props[NEURONS_KEY] = json.dumps(entries, separators=(",", ":"))


def read_metadata(metadata: Mapping[str, str], key: str) -> list[Any]:
    """Content of one of the keys above in an ONNX file's metadata; empty where it is not there.

    Raises:
        VerificationError: the metadata is damaged.
    """
    try:
        found: list[Any] = parse_json(metadata.get(key, "[]"))
        _CHECKS[key](found, "")
    except ValueError as error:
        raise VerificationError(
            f"{key} in the ONNX file is damaged: {error}; build or copy it again"
        ) from error
    return found
