"""Options that name a model: a reference model, a checkpoint, or a class of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from primesvt_deploy.cli.options.common import USER_PATH, numbers, whole_numbers, with_options
from primesvt_deploy.cli.options.completers import (
    FAMILY_NAMES,
    complete_models,
    complete_names,
)
from primesvt_deploy.edge.runtime.files import read_regular, reason_of
from primesvt_deploy.errors import SettingsError

if TYPE_CHECKING:
    from primesvt_deploy.model.svit import SViT

__all__ = ["load_named", "model_options"]

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
_ADOPT_OPTIONS = (
    "timesteps",
    "ema",
    "key",
    "ignore_args",
    "sha256",
    "image_size",
    "frames",
    "labels",
    "mean",
    "std",
    "resize",
    "interpolation",
)
"""Options that apply to a model of the user's own class."""


def model_options(function: _F) -> _F:
    """Give a command the options that name a model, which its `load_model` loads.

    Loading takes seconds: a command checks its other options first.
    """

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

        def load_model() -> SViT:
            if factory is not None and name is None:
                return _own_model(factory, checkpoint, options)
            from primesvt_deploy.model.load import load
            from primesvt_deploy.model.reference_models import DEFAULT_MODEL

            chosen = name if checkpoint is None else checkpoint
            return load(DEFAULT_MODEL if chosen is None else chosen, factory=factory, **options)

        return function(load_model=load_model, **rest)

    return cast(_F, with_options(_OPTIONS, wrapped))


def load_named(load_model: Callable[[], SViT], data: Path | None) -> SViT:
    """Load a model; classes without names get those of the data set, and that is told at once.

    Args:
        load_model: loads it.
        data: source of the images; None: those that come with the model.
    """
    from primesvt_deploy.data.class_names import named_by_data

    loaded = load_model()
    named = named_by_data(loaded, data)
    for note in named.notes[len(loaded.notes) :]:
        click.echo(f"note: {note}", err=True)
    return named


def _own_model(factory: str, checkpoint: Path | None, options: dict[str, Any]) -> SViT:
    from primesvt_deploy.model.adopt import adopt

    foreign = [
        key
        for key, value in options.items()
        if value not in (None, False) and key not in _ADOPT_OPTIONS
    ]
    if foreign:
        flag = foreign[0].removeprefix("num_").replace("_", "-")
        raise SettingsError(
            f"--{flag} is for supported families: drop it, --factory sets it itself"
        )
    if options["image_size"] is None:
        raise SettingsError("the factory does not say the image size: pass --image-size")
    return adopt(factory, checkpoint=checkpoint, **{key: options[key] for key in _ADOPT_OPTIONS})


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = read_regular(path, most=_MOST_LABELS).decode().splitlines()
    except (OSError, ValueError) as error:
        raise SettingsError(f"--labels: cannot read {path} as text: {reason_of(error)}") from error
    return tuple(line.strip() for line in lines if line.strip())
