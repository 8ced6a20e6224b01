"""Check the values of options that name a model, without torch."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from primesvt_deploy.cli.options.completers import FAMILY_NAMES
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.errors import ModelError, SettingsError
from primesvt_deploy.model.labels import checked_labels
from primesvt_deploy.model.source import checked_sha256

__all__ = ["check_values"]

_COUNTS = ("timesteps", "num_heads", "image_size", "patch_size", "levels", "chunk_size", "resize")
_POSITIVE = ("tau", "v_threshold")


def check_values(options: Mapping[str, Any]) -> None:
    """Refuse values that no model has.

    Args:
        options: of `load`, by name; None where not given.

    Raises:
        DeployError: one of them is out of range, or contradicts another.
    """
    for name, value in options.items():
        flag = f"--{name.removeprefix('num_').replace('_', '-')}"
        if value is None:
            continue
        if name in _COUNTS and value < 1:
            raise SettingsError(f"{flag} is {value}: expected a whole number, 1 or more")
        if name in _POSITIVE and not 0.0 < value < math.inf:
            raise SettingsError(f"{flag} is {value}: expected a number above 0")
    if options["stage_heads"] is not None and min(options["stage_heads"]) < 1:
        raise SettingsError(f"--stage-heads has {min(options['stage_heads'])}: expected 1 or more")
    pooling = options["pooling"]
    if pooling is not None and (len(pooling) not in (4, 5) or set(pooling) - {"0", "1"}):
        raise SettingsError(
            f"--pooling is {pooling!r:.60}: expected a digit for each stem stage, 1 where it "
            "pools, such as 0011"
        )
    if options["attention_mode"] not in (None, "STAtten", "SDT"):
        raise SettingsError(
            f"--attention-mode is {options['attention_mode']!r:.60}: expected STAtten or SDT"
        )
    if options["ema"] and options["key"] is not None:
        raise SettingsError("--key names the weights to read: drop --ema")
    if options["family"] is not None:
        _check_family(options["family"])
    checked_sha256(options["sha256"])
    _check_labels(options["labels"])
    _check_steps(options)


def _check_family(name: str) -> None:
    if name not in FAMILY_NAMES:
        near = difflib.get_close_matches(name, FAMILY_NAMES, 1)
        raise ModelError(
            f"unknown family {name!r:.60}{f', the nearest is {near[0]}' if near else ''}: expected "
            f"one of {', '.join(FAMILY_NAMES)}; pass --family"
        )


def _check_labels(labels: Sequence[str] | None) -> None:
    """Refuse a file of labels that is empty, or has a name of several lines."""
    if labels is None:
        return
    if not labels:
        raise SettingsError("--labels: the file is empty: expected class names, one a line")
    checked_labels(labels, len(labels), Path("--labels"))


def _check_steps(options: Mapping[str, Any]) -> None:
    """Refuse preprocessing that cannot be, for the size and the channels that are given."""
    mean, std, resize = (options[name] for name in ("mean", "std", "resize"))
    if all(options[name] is None for name in ("mean", "std", "resize", "interpolation")):
        return
    if options["frames"]:
        given = next(n for n in ("mean", "std", "resize", "interpolation") if options[n])
        raise ModelError(f"event frames are taken as they are: drop --{given}")
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (1, 3):
            raise SettingsError(
                f"--{name} has {len(values)} numbers: expected 3 (RGB) or 1 (grey images)"
            )
    channels = len(mean or std or (0.0,))
    size = options["image_size"] or 1
    Preprocessing(
        height=size,
        width=size,
        resize=size if resize is None else resize,
        interpolation=options["interpolation"] or "bicubic",
        mean=mean or (0.5,) * channels,
        std=std or (0.5,) * channels,
    )
