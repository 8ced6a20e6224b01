"""Options of fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import click

from primesvt_deploy.cli.options.common import whole_numbers, with_options
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.settings import FinetuneSettings

__all__ = ["finetune_options"]

_F = TypeVar("_F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--finetune", type=int, metavar="EPOCHS", help="Train the pruned model on."),
    click.option(
        "--finetune-timesteps", metavar="T,T,...", help="T of each epoch, the model's own last."
    ),
    click.option("--learning-rate", type=float, help="Its peak.  [default: 0.0003]"),
    click.option("--batch-size", type=int, help="Training images a step.  [default: 64]"),
    click.option("--train-images", type=int, help="So many of the train split.  [default: all]"),
    click.option(
        "--distillation",
        type=float,
        help="Weight of the dense model's answers against labels, 0 to 1.  [default: 0.5]",
    ),
)
_FIELDS = {
    "finetune_timesteps": "timesteps",
    "learning_rate": "learning_rate",
    "batch_size": "batch_size",
    "train_images": "images",
    "distillation": "distillation",
}


def finetune_options(function: _F) -> _F:
    """Give a command the options of fine-tuning; it receives `finetune` (settings or None)."""

    @wraps(function)
    def wrapped(*, finetune: int | None, **rest: Any) -> Any:
        values = {name: rest.pop(name) for name in _FIELDS}
        given = {_FIELDS[name]: v for name, v in values.items() if v is not None}
        if "timesteps" in given:
            given["timesteps"] = whole_numbers(given["timesteps"], "--finetune-timesteps")
        if finetune is None and given:
            flag = next(name for name, value in values.items() if value is not None)
            raise SettingsError(f"--{flag.replace('_', '-')} needs --finetune EPOCHS: pass both")
        settings = None if finetune is None else FinetuneSettings(epochs=finetune, **given)
        return function(finetune=settings, **rest)

    return cast(_F, with_options(_OPTIONS, wrapped))
