"""Options of the search: policy, recovery, limits, images."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import click

from primesvt_deploy.cli.options.common import USER_PATH, numbers, with_options
from primesvt_deploy.cli.options.completers import complete_names_with_commas
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.settings import (
    DEFAULT_RATES,
    EVALUATION_PRECISIONS,
    POLICY_NAMES,
    RECOVERY_STEPS,
    SearchSettings,
)

__all__ = ["search_options"]

_F = TypeVar("_F", bound=Callable[..., Any])

_POLICY_OPTION = click.option(
    "--policy",
    type=click.Choice(POLICY_NAMES),
    default=POLICY_NAMES[0],
    show_default=True,
    help="Which channels leave.",
)
_OPTIONS = (
    click.option(
        "--recover",
        default="all",
        show_default=True,
        shell_complete=complete_names_with_commas("all", "none", "head", *RECOVERY_STEPS),
        help=f"Recovery without gradients: some of {','.join(RECOVERY_STEPS)}; all (of these); "
        "none; all,head: the classifier of the plan decided on is fitted anew if that is better.",
    ),
    click.option("--data", type=USER_PATH, help="ImageFolder directory or .npz file."),
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
    click.option(
        "--ignore",
        multiple=True,
        metavar="LAYER",
        help="A layer, module or group that keeps its channels; patterns such as blocks.0.*; may "
        "be given several times.",
    ),
    click.option("--search-images", type=int, help="Search images to decide on.  [default: all]"),
    click.option(
        "--robustness-images",
        type=int,
        default=512,
        show_default=True,
        help="Images behind a point of a robustness curve.",
    ),
    click.option(
        "--evaluation-precision",
        type=click.Choice(EVALUATION_PRECISIONS),
        default=SearchSettings.evaluation_precision,
        show_default=True,
        help="Of the networks that candidates are judged by.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of image order, split."),
)


def search_options(function: _F, *, max_drop: str = "3", policies: bool = True) -> _F:
    """Give a command the search's options; it receives `search` and `data` (a path or None).

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
        evaluation_precision: str,
        seed: int,
        recover: str,
        ignore: tuple[str, ...],
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
            ignore=ignore,
            evaluation_precision=evaluation_precision,
        )
        return function(search=search, **rest)

    return cast(_F, with_options((*chosen, limit, *_OPTIONS), wrapped))


def _recovery(text: str) -> tuple[str, ...]:
    """Recovery steps from names with commas between; `all` stands for those of candidates."""
    named = {"all": RECOVERY_STEPS, "none": ()}
    parts = [part.strip() for part in text.split(",")]
    return tuple(step for part in parts for step in named.get(part, (part,)))


def _max_drop(text: str) -> float | None:
    try:
        return None if text.strip().lower() == "off" else float(text)
    except ValueError as error:
        raise SettingsError(f"--max-drop is {text!r}: expected a number of points, or off") from (
            error
        )
