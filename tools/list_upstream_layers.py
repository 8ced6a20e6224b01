"""List the layers of upstream's checkpoints, and the options that they do not tell.

In `primesvt_deploy/families`: `upstream_layers.json` and `asked_options.json`.

    python tools/list_upstream_layers.py

Read from the test vectors in `tests/fixtures`, one form of a family each, and from SpikingJelly's
own models; run it when one is added.
`tests/families/test_nearest.py` holds the list to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from spikingjelly.activation_based.model.maxformer import MaxFormer
from spikingjelly.activation_based.model.qkformer import QKFormer
from spikingjelly.activation_based.model.spike_driven_transformer import SpikeDrivenTransformer
from spikingjelly.activation_based.model.spikformer import Spikformer

from primesvt_deploy.edge.whole_file import write_whole
from primesvt_deploy.families import Family, families_with
from primesvt_deploy.families.asked_options import ASKED
from primesvt_deploy.families.nearest import LISTED, layers_of
from primesvt_deploy.families.options import ModelOptions, missing_options

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"


def listed() -> str:
    """The file's content: for each family, the layers of each form, without repetition."""
    forms = {
        name: [list(layers) for layers in asked_by_layers]
        for name, asked_by_layers in _forms().items()
    }
    return json.dumps(forms, indent=0) + "\n"


def asked() -> str:
    """The other file's content: for each family, the options that each form asks for."""
    return json.dumps({n: list(of_forms.values()) for n, of_forms in _forms().items()}) + "\n"


@cache
def _forms() -> dict[str, dict[tuple[str, ...], list[str]]]:
    """Options that are asked for, by family and the layers of its form."""
    forms: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for name, state, arguments in (*_vectors(), *_spikingjellys()):
        families = families_with(state.keys(), arguments)
        if not families:
            raise SystemExit(f"{name} is of no known family")
        layers = tuple(layers_of(state))
        for family in families:
            missing = _missing(family, state)
            known = forms.setdefault(family.name, {}).setdefault(layers, missing)
            forms[family.name][layers] = [option for option in known if option in missing]
    return forms


def _missing(family: Family, state: dict[str, Any]) -> list[str]:
    missing = missing_options(partial(family.convert, state), ModelOptions())
    # Upstream's code fixes a QKFormer's heads by some widths, which layers do not tell.
    return [name for name in missing if (family.name, name) != ("qkformer", "num_heads")]


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
    write_whole(ASKED, asked())
