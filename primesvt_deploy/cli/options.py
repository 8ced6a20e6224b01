"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from primesvt_deploy.errors import SettingsError
from primesvt_deploy.settings import (
    DEFAULT_RATES,
    POLICY_NAMES,
    RECOVERY_STEPS,
    FinetuneSettings,
    SearchSettings,
)

if TYPE_CHECKING:
    from primesvt_deploy.model.svit import SViT

__all__ = [
    "finetune_options",
    "json_option",
    "model_options",
    "numbers",
    "search_options",
    "set_threads",
    "threads_option",
    "whole_numbers",
]

_F = TypeVar("_F", bound=Callable[..., Any])

_MODEL_OPTIONS = (
    click.option("--model", "name", metavar="NAME", help="A reference model or a directory."),
    click.option(
        "--checkpoint", type=click.Path(path_type=Path), help="Weights: safetensors or torch."
    ),
    click.option(
        "--factory", metavar="MODULE:FUNCTION", help="Makes a model of your own class (imported)."
    ),
    click.option("--family", help="The checkpoint's family, such as spikformer."),
    click.option("--timesteps", type=int, help="T the checkpoint was trained with."),
    click.option("--heads", type=int, help="Attention heads of the checkpoint."),
    click.option("--stage-heads", help="Where they differ by stage, such as 3,6,6."),
    click.option("--image-size", type=int, help="Input height and width, pixels."),
    click.option("--patch-size", type=int, help="Input pixels per token side."),
    click.option("--pooling", help="Which of four stem stages pool, such as 0011."),
    click.option("--levels", type=int, help="Levels of integer neurons (Spike-driven V3)."),
    click.option(
        "--frames/--images", default=None, help="Input: event frames, or images.  [default: told]"
    ),
    click.option("--ema", is_flag=True, help="The checkpoint's averaged weights."),
    click.option("--tau", type=float, help="As SpikingJelly's constructor takes it."),
    click.option("--v-threshold", type=float, help="Likewise."),
    click.option(
        "--labels",
        type=click.Path(path_type=Path),
        help="Text file of class names, one a line, in the order of the logits.",
    ),
    click.option("--mean", help="Three numbers, R,G,B, for inputs in 0..1."),
    click.option("--std", help="Likewise."),
    click.option("--resize", type=int, help="Shorter side before the centre crop, pixels."),
    click.option("--interpolation", help="Of that resize: bicubic or bilinear."),
)

_PASSED_ON = (
    "family",
    "timesteps",
    "ema",
    "image_size",
    "patch_size",
    "pooling",
    "levels",
    "frames",
    "tau",
    "v_threshold",
    "resize",
    "interpolation",
)
"""Options that `load` knows by the same name."""
_OF_OWN = (
    "timesteps",
    "ema",
    "image_size",
    "frames",
    "labels",
    "mean",
    "std",
    "resize",
    "interpolation",
)
"""Options that a model of the user's own class has."""

_POLICY_OPTION = click.option(
    "--policy",
    type=click.Choice(POLICY_NAMES),
    default=POLICY_NAMES[0],
    show_default=True,
    help="Which channels leave.",
)
_SEARCH_OPTIONS = (
    click.option(
        "--recover",
        default="all",
        show_default=True,
        help=f"Recovery without gradients: some of {','.join(RECOVERY_STEPS)}; all (of these); "
        "none; all,head: the classifier of the plan decided on is fitted anew if that is better.",
    ),
    click.option(
        "--data", type=click.Path(path_type=Path), help="ImageFolder directory or .npz file."
    ),
    click.option(
        "--rates",
        default=",".join(f"{rate:g}" for rate in DEFAULT_RATES),
        show_default=True,
        help="Pruning rates to try.",
    ),
    click.option(
        "--channel-multiple",
        type=int,
        default=1,
        show_default=True,
        help="Keep channels (per head) in multiples of this.",
    ),
    click.option("--search-images", type=int, help="Search images to decide on.  [default: all]"),
    click.option(
        "--robustness-images",
        type=int,
        default=512,
        show_default=True,
        help="Images behind a point of a robustness curve.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of image order, split."),
)

_FINETUNE_OPTIONS = (
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
    click.option("--device", help="Trains there: cpu, cuda or auto.  [default: auto]"),
)
_FINETUNE_FIELDS = {
    "finetune_timesteps": "timesteps",
    "learning_rate": "learning_rate",
    "batch_size": "batch_size",
    "train_images": "images",
    "distillation": "distillation",
    "device": "device",
}

json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for machines.")
threads_option = click.option(
    "--threads", type=int, default=0, show_default=True, help="CPU threads; 0: automatic."
)


def model_options(function: _F) -> _F:
    """Adds the options that name a model; the command receives it as `model`."""

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
        if name is not None and checkpoint is not None:
            raise SettingsError("--model and --checkpoint name two models: pass one of them")
        options = {
            "num_heads": heads,
            "stage_heads": whole_numbers(stage_heads, "--stage-heads") if stage_heads else None,
            "labels": _lines(labels) if labels else None,
            "mean": numbers(mean, "--mean") if mean else None,
            "std": numbers(std, "--std") if std else None,
            **{option: rest.pop(option) for option in _PASSED_ON},
        }
        if factory is not None and name is None:
            model = _own_model(factory, checkpoint, options)
        else:
            from primesvt_deploy.model.load import DEFAULT_MODEL, load

            model = load(checkpoint or name or DEFAULT_MODEL, factory=factory, **options)
        return function(model=model, **rest)

    return cast(_F, _with(_MODEL_OPTIONS, wrapped))


def _own_model(factory: str, checkpoint: Path | None, options: dict[str, Any]) -> SViT:
    from primesvt_deploy.model.adopt import adopt

    foreign = [
        key for key, value in options.items() if value not in (None, False) and key not in _OF_OWN
    ]
    if foreign:
        flag = foreign[0].removeprefix("num_").replace("_", "-")
        raise SettingsError(f"--{flag} is for known families: drop it, --factory says it itself")
    if options["image_size"] is None:
        raise SettingsError("the factory does not tell the image size: pass --image-size")
    return adopt(factory, checkpoint=checkpoint, **{key: options[key] for key in _OF_OWN})


def search_options(function: _F, *, max_drop: str = "3", policies: bool = True) -> _F:
    """Adds the search's options; the command receives `search` and `data` (a path or None).

    Args:
        function: the command.
        max_drop: default of `--max-drop`.
        policies: whether the command prunes, so that a policy can be chosen.
    """
    chosen = (_POLICY_OPTION,) if policies else ()
    limit = click.option(
        "--max-drop",
        default=max_drop,
        show_default=True,
        help="Points of top-1 that may be lost on the search split, or off.",
    )

    @wraps(function)
    def wrapped(
        *,
        max_drop: str,
        rates: str,
        channel_multiple: int,
        search_images: int | None,
        robustness_images: int,
        seed: int,
        recover: str,
        policy: str = POLICY_NAMES[0],
        **rest: Any,
    ) -> Any:
        search = SearchSettings(
            policy=policy,
            recover=_recovery(recover),
            max_drop=_max_drop(max_drop),
            rates=numbers(rates, "--rates"),
            channel_multiple=channel_multiple,
            search_images=search_images,
            robustness_images=robustness_images,
            seed=seed,
        )
        return function(search=search, **rest)

    return cast(_F, _with((*chosen, limit, *_SEARCH_OPTIONS), wrapped))


def finetune_options(function: _F) -> _F:
    """Adds the options of fine-tuning; the command receives `finetune` (settings or None)."""

    @wraps(function)
    def wrapped(*, finetune: int | None, **rest: Any) -> Any:
        told = {name: rest.pop(name) for name in _FINETUNE_FIELDS}
        given = {_FINETUNE_FIELDS[name]: v for name, v in told.items() if v is not None}
        if "timesteps" in given:
            given["timesteps"] = whole_numbers(given["timesteps"], "--finetune-timesteps")
        if finetune is None and given:
            flag = next(name for name, value in told.items() if value is not None)
            raise SettingsError(f"--{flag.replace('_', '-')} needs --finetune EPOCHS: pass both")
        settings = None if finetune is None else FinetuneSettings(epochs=finetune, **given)
        return function(finetune=settings, **rest)

    return cast(_F, _with(_FINETUNE_OPTIONS, wrapped))


def _recovery(text: str) -> tuple[str, ...]:
    """Names with commas between; `all` stands for those that candidates go through."""
    named = {"all": RECOVERY_STEPS, "none": ()}
    parts = [part.strip() for part in text.split(",")]
    return tuple(step for part in parts for step in named.get(part, (part,)))


def _with(options: tuple[Callable[[Any], Any], ...], function: Any) -> Any:
    for option in reversed(options):
        function = option(function)
    return function


def numbers(text: str, flag: str) -> tuple[float, ...]:
    """Numbers with commas between."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise SettingsError(f"{flag} is {text!r}: expected numbers with commas between") from error


def _max_drop(text: str) -> float | None:
    try:
        return None if text.strip().lower() == "off" else float(text)
    except ValueError as error:
        raise SettingsError(f"--max-drop is {text!r}: expected a number of points, or off") from (
            error
        )


def whole_numbers(text: str, flag: str) -> tuple[int, ...]:
    """Whole numbers with commas between."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise SettingsError(
            f"{flag} is {text!r}: expected whole numbers with commas between"
        ) from error


def _lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--labels: cannot read {path} as text: {error}") from error


def set_threads(threads: int) -> None:
    """Limit torch's threads; 0 leaves its own choice."""
    if threads < 0:
        raise SettingsError(f"threads are {threads}: expected 0 (automatic) or more")
    if threads:
        import torch

        torch.set_num_threads(threads)
