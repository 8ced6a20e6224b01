"""Options that name a model: a reference model, a checkpoint, or a class of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from primesvt_deploy.cli.options.common import USER_PATH, numbers, whole_numbers, with_options
from primesvt_deploy.cli.options.completers import (
    FAMILY_NAMES,
    complete_models,
    complete_names,
)
from primesvt_deploy.edge.runtime.files import read_regular, reason_of
from primesvt_deploy.errors import SettingsError

__all__ = ["model_options"]

_F = TypeVar("_F", bound=Callable[..., Any])

_MOST_LABELS = 2**24
"""Most bytes of a file of labels."""

_OPTIONS = (
    click.option(
        "--model",
        "name",
        metavar="NAME",
        shell_complete=complete_models,
        help="A reference model or a directory.",
    ),
    click.option("--checkpoint", type=USER_PATH, help="Weights: safetensors or torch."),
    click.option(
        "--factory", metavar="MODULE:FUNCTION", help="Makes a model of your own class (imported)."
    ),
    click.option(
        "--family",
        shell_complete=complete_names(*FAMILY_NAMES),
        help="The checkpoint's family, such as spikformer.",
    ),
    click.option("--timesteps", type=int, help="T the checkpoint was trained with."),
    click.option("--heads", type=int, help="Attention heads of the checkpoint."),
    click.option("--stage-heads", help="Where they differ by stage, such as 3,6,6."),
    click.option("--image-size", type=int, help="Input height and width, pixels."),
    click.option("--patch-size", type=int, help="Input pixels per token side."),
    click.option("--pooling", help="Which of four stem stages pool, such as 0011."),
    click.option("--levels", type=int, help="Levels of integer neurons (Spike-driven V3)."),
    click.option(
        "--attention-mode",
        shell_complete=complete_names("STAtten", "SDT"),
        help="Of a checkpoint of STAtten: STAtten or SDT.",
    ),
    click.option("--chunk-size", type=int, help="Timesteps that attend to each other (STAtten)."),
    click.option(
        "--frames/--images",
        default=None,
        help="Input: event frames or images.  [default: by the checkpoint]",
    ),
    click.option("--ema", is_flag=True, help="The checkpoint's averaged weights."),
    click.option("--sha256", metavar="HEX", help="Of the checkpoint file; another is refused."),
    click.option("--key", metavar="NAME", help="Which weights of a checkpoint that has several."),
    click.option(
        "--ignore-args",
        is_flag=True,
        help="Read a checkpoint although its stored arguments or accuracy say it is another model.",
    ),
    click.option("--tau", type=float, help="As SpikingJelly's constructor takes it."),
    click.option("--v-threshold", type=float, help="Likewise."),
    click.option(
        "--labels",
        type=USER_PATH,
        help="Text file of class names, one a line, in the order of the logits.",
    ),
    click.option("--mean", help="One number a channel, such as R,G,B, for inputs in 0..1."),
    click.option("--std", help="Likewise."),
    click.option("--resize", type=int, help="Shorter side before the centre crop, pixels."),
    click.option(
        "--interpolation",
        shell_complete=complete_names("bicubic", "bilinear"),
        help="Of that resize: bicubic or bilinear.",
    ),
)

_LOAD_OPTIONS = (
    "family",
    "timesteps",
    "ema",
    "key",
    "ignore_args",
    "sha256",
    "image_size",
    "patch_size",
    "pooling",
    "levels",
    "attention_mode",
    "chunk_size",
    "frames",
    "tau",
    "v_threshold",
    "resize",
    "interpolation",
)
"""Options that `load` takes under the same name."""


def model_options(function: _F) -> _F:
    """Give a command the options that name a model; it receives `model`, a `ModelChoice`."""

    @wraps(function)
    def wrapped(
        *,
        name: str | None,
        checkpoint: Path | None,
        factory: str | None,
        heads: int | None,
        stage_heads: str | None,
        labels: Path | None,
        mean: str | None,
        std: str | None,
        **rest: Any,
    ) -> Any:
        if name == "":
            raise SettingsError(
                "--model is empty: expected a name, or a directory, or leave it out"
            )
        if name is not None and checkpoint is not None:
            raise SettingsError("--model and --checkpoint name two models: pass one of them")
        if rest["sha256"] is not None and checkpoint is None:
            raise SettingsError("--sha256 is of a checkpoint: pass --checkpoint, or drop it")
        options = {
            "num_heads": heads,
            "stage_heads": whole_numbers(stage_heads, "--stage-heads") if stage_heads else None,
            "labels": _lines(labels) if labels else None,
            "mean": numbers(mean, "--mean") if mean else None,
            "std": numbers(std, "--std") if std else None,
            **{option: rest.pop(option) for option in _LOAD_OPTIONS},
        }
        # Here, as these import numpy, which help does without.
        from primesvt_deploy.cli.options.model_choice import ModelChoice
        from primesvt_deploy.cli.options.model_values import check_values

        check_values(options)
        chosen = ModelChoice(name=name, checkpoint=checkpoint, factory=factory, options=options)
        return function(model=chosen, **rest)

    return cast(_F, with_options(_OPTIONS, wrapped))


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = read_regular(path, most=_MOST_LABELS).decode().splitlines()
    except (OSError, ValueError) as error:
        raise SettingsError(f"--labels: cannot read {path} as text: {reason_of(error)}") from error
    return tuple(line.strip() for line in lines if line.strip())
