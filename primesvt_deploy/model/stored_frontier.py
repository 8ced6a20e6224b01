"""Measurements of a pruned reference model, which lie beside its weights.

`benchmarks/stored_frontiers.py` writes the files, of the results that the tables rest on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from primesvt_deploy.edge.runtime.checked_json import (
    fields,
    list_of,
    number,
    read_json,
    text,
    whole,
)
from primesvt_deploy.errors import ModelError
from primesvt_deploy.model.reference_models import models_root

__all__ = ["FILE", "MeasuredDrop", "StoredFrontier", "stored_frontier"]

FILE = "frontier.json"
_DROP = fields({"points": number(), "interval95_points": list_of(number(), least=2), "n": whole(1)})
_CHECK = fields(
    {
        "weights_sha256": text(r"[0-9a-f]{64}"),
        "measured": text(),
        "data": text(),
        "policy": text(),
        "dense": fields({"weight_bytes": whole(1), "top1_percent": number(), "n": whole(1)}),
        "points": list_of(
            fields({"weight_bytes": whole(1), "saved_percent": number(), "drop": _DROP}), least=1
        ),
        "precisions": list_of(
            fields({"precision": text(), "weight_bytes": whole(1), "drop": _DROP})
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class MeasuredDrop:
    """Top-1 that a smaller model loses on the held-out split.

    Args:
        weight_bytes: bytes of its weights.
        points: percentage points lost against the dense model.
        low: lower end of the 95% interval.
        high: upper end of it.
        n: images.
    """

    weight_bytes: int
    points: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class StoredFrontier:
    """Cost of pruning a reference model, as it was measured.

    Args:
        policy: that decided the points.
        data: name of the data set that it was measured on.
        top1_percent: of the dense model on the held-out split.
        points: pruned in float32 and recovered, from the largest to the smallest.
        precisions: not pruned, by the precision of the weights.
    """

    policy: str
    data: str
    top1_percent: float
    points: tuple[MeasuredDrop, ...]
    precisions: dict[str, MeasuredDrop]


def stored_frontier(weights_sha256: str) -> StoredFrontier | None:
    """Measurements of the reference model with these weights; None: there are none.

    Args:
        weights_sha256: SHA-256 of the file of weights, hexadecimal.

    Raises:
        ModelError: a stored file is damaged.
    """
    try:
        places = sorted(models_root().glob(f"*/{FILE}"))
    except ModelError:
        return None  # an installation without reference models
    for path in places:
        try:
            content = read_json(path)
            _CHECK(content, "")
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} is damaged ({error}): install primesvt-deploy again") from (
                error
            )
        if content["weights_sha256"] == weights_sha256:
            return _of(content)
    return None


def _of(content: dict[str, Any]) -> StoredFrontier:
    points = sorted(content["points"], key=lambda point: -int(point["weight_bytes"]))
    return StoredFrontier(
        policy=content["policy"],
        data=content["data"],
        top1_percent=content["dense"]["top1_percent"],
        points=tuple(map(_measured, points)),
        precisions={each["precision"]: _measured(each) for each in content["precisions"]},
    )


def _measured(point: dict[str, Any]) -> MeasuredDrop:
    drop = point["drop"]
    low, high = drop["interval95_points"]
    return MeasuredDrop(
        weight_bytes=point["weight_bytes"], points=drop["points"], low=low, high=high, n=drop["n"]
    )
