"""Options of a build: its budget, its form, and where its bundle goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from primesvt_deploy.cli.options.common import USER_PATH, with_options
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.settings import (
    BudgetOn,
    BuildSettings,
    ComputeSettings,
    FinetuneSettings,
    Precision,
    Runtime,
    SearchSettings,
)

__all__ = ["BuildChoice", "build_options"]

_F = TypeVar("_F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--budget-mb", type=float, help="Megabytes (10^6 bytes) the model may have."),
    click.option("--saving", type=float, help="Percent of the dense float32 model to save."),
    click.option(
        "--budget-on",
        type=click.Choice([what.value for what in BudgetOn]),
        default=BudgetOn.FILE.value,
        show_default=True,
        help="What both count: the model file, its weights, or peak resident memory as it runs.",
    ),
    click.option(
        "--precision",
        type=click.Choice([*(p.value for p in Precision), "auto"]),
        help="Of the weights; auto: the most accurate within the budget.  [default: fp32; with the "
        "native runtime int8]",
    ),
    click.option(
        "--runtime",
        type=click.Choice([runtime.value for runtime in Runtime]),
        default=Runtime.ONNX.value,
        show_default=True,
        help="What runs it on the device: ONNX Runtime, C without dependencies, or either.",
    ),
    click.option(
        "--mcu",
        is_flag=True,
        help="With the native runtime: the model as C source too, for a microcontroller's "
        "firmware.",
    ),
    click.option(
        "--anytime",
        type=float,
        metavar="MAX_DROP",
        help="With integer weights: stop early, after fewer timesteps, where the classes are "
        "clear; so many points of top-1 may be lost by it on the search split.",
    ),
    click.option(
        "--integer-input",
        is_flag=True,
        help="The first layer takes pixels, with integer weights: nothing is normalised in "
        "float32.",
    ),
    click.option("--standard-ops", is_flag=True, help="Integers in standard ONNX operators alone."),
    click.option(
        "--ort-format", is_flag=True, help="Write model.ort too, for memory-mapped weights."
    ),
    click.option(
        "--output",
        type=USER_PATH,
        default=Path("bundle"),
        show_default=True,
        help="The bundle's directory.",
    ),
    click.option("--force", is_flag=True, help="Replace a bundle that stands at --output."),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Measure for some seconds, print what the build will take, and write nothing.",
    ),
    click.option(
        "--sign",
        type=USER_PATH,
        metavar="KEY",
        help="Private key (PEM, elliptic curve) to sign the bundle with; see --trust of run.",
    ),
    click.option("--batch", type=int, help="Fixed batch size.  [default: any]"),
    click.option("--ship-timesteps", type=int, help="T of the shipped model.  [default: its own]"),
    click.option(
        "--held-out-images", type=int, help="Held-out images to report on.  [default: all]"
    ),
    click.option(
        "--finetune-slack",
        type=float,
        default=10.0,
        show_default=True,
        help="Points beyond --max-drop that pruning may lose where --finetune follows.",
    ),
    click.option(
        "--frontier",
        "frontier_path",
        type=USER_PATH,
        help="Answer from what `frontier` wrote there: nothing is searched; policy, recovery, "
        "images and seed are its own. Without a budget: as small as --max-drop allows.",
    ),
)
_OF_SETTINGS = (
    "budget_mb",
    "saving",
    "mcu",
    "anytime",
    "integer_input",
    "standard_ops",
    "ort_format",
    "batch",
    "ship_timesteps",
    "finetune_slack",
    "held_out_images",
)
"""Options that `BuildSettings` takes under the same name."""
_DECIDED_BY_FRONTIER = (
    "policy",
    "recover",
    "rates",
    "channel_multiple",
    "search_images",
    "robustness_images",
    "evaluation_precision",
    "ignore",
    "seed",
)
"""Options that were decided when the frontier was searched."""


@dataclass(frozen=True, kw_only=True)
class BuildChoice:
    """Options of one build, as a command line gives them.

    Args:
        output: the bundle's directory.
        force: replace a bundle that stands there.
        dry_run: tell what the build will take, and end.
        sign: file of a private key to sign it with; None: it is not signed.
        frontier: directory of a frontier to answer from; None: a search decides.
        values: other options by name.
    """

    output: Path
    force: bool
    dry_run: bool
    sign: Path | None
    frontier: Path | None
    values: Mapping[str, Any]

    def settings(
        self,
        search: SearchSettings,
        finetune: FinetuneSettings | None,
        compute: ComputeSettings,
        threads: int,
    ) -> BuildSettings:
        """The settings of the build.

        Raises:
            SettingsError: an option is out of range, or contradicts another.
        """
        if self.frontier is not None:
            _refuse_decided_options()
            if self.dry_run:
                raise SettingsError(
                    "--dry-run tells what a search will take, and with --frontier there is none: "
                    "leave one of them out"
                )
        if finetune is None and _is_given("finetune_slack"):
            raise SettingsError("--finetune-slack needs --finetune EPOCHS: pass both")
        runtime = Runtime(self.values["runtime"])
        no_budget = self.values["budget_mb"] is None and self.values["saving"] is None
        return BuildSettings(
            **{name: self.values[name] for name in _OF_SETTINGS},
            search=search,
            finetune=finetune,
            compute=compute,
            threads=threads,
            runtime=runtime,
            precision=_precision(self.values["precision"], runtime),
            budget_on=BudgetOn(self.values["budget_on"]),
            smallest=self.frontier is not None and no_budget,
        )


def build_options(function: _F) -> _F:
    """Give a command the options of a build; it receives `choice`, a `BuildChoice`."""

    @wraps(function)
    def wrapped(
        *,
        output: Path,
        force: bool,
        dry_run: bool,
        sign: Path | None,
        frontier_path: Path | None,
        **rest: Any,
    ) -> Any:
        own = (*_OF_SETTINGS, "runtime", "precision", "budget_on")
        values = {name: rest.pop(name) for name in own}
        choice = BuildChoice(
            output=output,
            force=force,
            dry_run=dry_run,
            sign=sign,
            frontier=frontier_path,
            values=values,
        )
        return function(choice=choice, **rest)

    return cast(_F, with_options(_OPTIONS, wrapped))


def _precision(given: str | None, runtime: Runtime) -> Precision | None:
    """Precision of the weights; None: the best of all."""
    if given is None:
        return Precision.INT8 if runtime.has_native else Precision.FP32
    return None if given == "auto" else Precision(given)


def _refuse_decided_options() -> None:
    for name in _DECIDED_BY_FRONTIER:
        if _is_given(name):
            raise SettingsError(
                f"--{name.replace('_', '-')} cannot be given with --frontier, which decided it "
                "when it was searched: leave it out, or run `primesvt-deploy frontier` with it"
            )


def _is_given(name: str) -> bool:
    """Whether an option stands on the command line or in a file of settings."""
    source = click.get_current_context().get_parameter_source(name)
    return source in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
