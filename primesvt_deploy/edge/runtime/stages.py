"""Stages of a model that stops early: one after another runs, until the logits of one are final."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .checked_json import fields, list_of, number, parse_json, whole
from .errors import BundleError

__all__ = ["STAGES_KEY", "Stage", "margins_of", "read_stages", "stages_json"]

STAGES_KEY = "primesvt.stages"
"""Metadata of an ONNX file that stops early: JSON list of its stages, `timesteps` and `margin`."""

_STAGES = list_of(fields({"timesteps": whole(1, 10_000), "margin": number(0, math.inf)}), most=100)


@dataclass(frozen=True)
class Stage:
    """One of the stages that a model runs one after another, until it is sure.

    Args:
        timesteps: T.
        margin: largest logit less the second, from which on its logits are final; 0 of the last
            stage, whose logits are final in any case.
    """

    timesteps: int
    margin: float


def margins_of(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Largest logit less the second of logits `[N, K]`, as the runtimes have it: float32 `[N]`.

    With a single class a margin is infinite.
    """
    if logits.shape[1] == 1:
        return np.full(len(logits), np.inf, np.float32)
    ordered = np.partition(logits, -2, axis=1)
    margins: npt.NDArray[np.float32] = ordered[:, -1] - ordered[:, -2]
    return margins


def stages_json(stages: Sequence[Stage]) -> str:
    """Stages as the metadata of an ONNX file have them."""
    return json.dumps([vars(stage) for stage in stages])


def read_stages(metadata: Mapping[str, str]) -> tuple[Stage, ...]:
    """Stages of an ONNX file, from its metadata; none where it does not stop early.

    Raises:
        BundleError: the metadata is damaged.
    """
    try:
        found = parse_json(metadata.get(STAGES_KEY, "[]"), infinity=True)
        _STAGES(found, "")
    except ValueError as error:
        raise BundleError(
            f"{STAGES_KEY} in the ONNX file is damaged: {error}; copy the file again"
        ) from error
    return tuple(Stage(entry["timesteps"], entry["margin"]) for entry in found)
