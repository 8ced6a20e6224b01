"""List the layers of upstream's checkpoints: `primesvt_deploy/families/upstream_layers.json`.

    python tools/list_upstream_layers.py

Read from the test vectors in `tests/fixtures`, one form of a family each, and from SpikingJelly's
own models; run it when one is added.
`tests/families/test_nearest.py` holds the list to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from spikingjelly.activation_based.model.maxformer import MaxFormer
from spikingjelly.activation_based.model.qkformer import QKFormer
from spikingjelly.activation_based.model.spike_driven_transformer import SpikeDrivenTransformer
from spikingjelly.activation_based.model.spikformer import Spikformer

from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.families import families_with
from primesvt_deploy.families.nearest import LISTED, layers_of

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"


def listed() -> str:
    """The file's content: for each family, the layers of each form, without repetition."""
    forms: dict[str, list[list[str]]] = {}
    for name, state, arguments in (*_vectors(), *_spikingjellys()):
        families = families_with(state.keys(), arguments)
        if not families:
            raise SystemExit(f"{name} is of no known family")
        layers = layers_of(state)
        for family in families:
            if layers not in forms.setdefault(family.name, []):
                forms[family.name].append(layers)
    return json.dumps(forms, indent=0) + "\n"


def _vectors() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for path in sorted(FIXTURES.glob("*.pt")):
        content = torch.load(path, weights_only=True)
        yield path.name, content["state_dict"], content.get("args", {})


def _spikingjellys() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    with torch.device("meta"):
        models = (
            Spikformer(T=1, embed_dims=16, num_heads=2, depths=1),
            SpikeDrivenTransformer(T=1, embed_dims=16, num_heads=2, depths=1),
            QKFormer(T=1, embed_dims=32, depths=(1, 1, 1), num_heads=(2, 2, 2)),
            MaxFormer(T=1, embed_dims=32, depths=(1, 1, 1)),
            MaxFormer(T=1, embed_dims=32, depths=(1, 1, 1), cifar=True),
        )
    for model in models:
        yield type(model).__name__, model.state_dict(), {}


if __name__ == "__main__":
    write_whole(LISTED, listed())
