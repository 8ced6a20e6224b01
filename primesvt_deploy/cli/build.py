"""`primesvt-deploy build`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from primesvt_deploy.cli.command import Command
from primesvt_deploy.cli.options.common import USER_PATH, json_option, set_threads, threads_option
from primesvt_deploy.cli.options.finetune import finetune_options
from primesvt_deploy.cli.options.model import model_options
from primesvt_deploy.cli.options.output import output_options, progress_of
from primesvt_deploy.cli.options.search import search_options
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.progress.choose import Verbosity
from primesvt_deploy.settings import (
    BudgetOn,
    BuildSettings,
    FinetuneSettings,
    Precision,
    Runtime,
    SearchSettings,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from primesvt_deploy.model.svit import SViT

__all__ = ["build"]

_DECIDED_BY_FRONTIER = (
    "policy",
    "recover",
    "rates",
    "channel_multiple",
    "search_images",
    "robustness_images",
    "ignore",
    "seed",
)
"""Options that were decided when the frontier was searched."""


@click.command(cls=Command, short_help="Shrink a trained model and write a verified bundle.")
@click.option("--budget-mb", type=float, help="Megabytes (10^6 bytes) the model may have.")
@click.option("--saving", type=float, help="Percent of the dense float32 model to save.")
@click.option(
    "--budget-on",
    type=click.Choice([what.value for what in BudgetOn]),
    default=BudgetOn.FILE.value,
    show_default=True,
    help="What both count: the model file, its weights, or peak resident memory as it runs.",
)
@click.option(
    "--precision",
    type=click.Choice([*(p.value for p in Precision), "auto"]),
    help="Of the weights; auto: the most accurate within the budget.  [default: fp32; with the "
    "native runtime int8]",
)
@click.option(
    "--runtime",
    type=click.Choice([runtime.value for runtime in Runtime]),
    default=Runtime.ONNX.value,
    show_default=True,
    help="What runs it on the device: ONNX Runtime, C without dependencies, or either.",
)
@click.option(
    "--mcu",
    is_flag=True,
    help="With the native runtime: the model as C source too, for a microcontroller's firmware.",
)
@click.option(
    "--anytime",
    type=float,
    metavar="MAX_DROP",
    help="With integer weights: stop early, after fewer timesteps, where the classes are clear; so "
    "many points of top-1 may be lost by it on the search split.",
)
@click.option(
    "--integer-input",
    is_flag=True,
    help="The first layer takes pixels, with integer weights: nothing is normalised in float32.",
)
@click.option("--standard-ops", is_flag=True, help="Integers in standard ONNX operators alone.")
@click.option("--ort-format", is_flag=True, help="Write model.ort too, for memory-mapped weights.")
@click.option(
    "--output",
    type=USER_PATH,
    default=Path("bundle"),
    show_default=True,
    help="The bundle's directory.",
)
@click.option("--force", is_flag=True, help="Replace a bundle that stands at --output.")
@click.option(
    "--sign",
    type=USER_PATH,
    metavar="KEY",
    help="Private key (PEM, elliptic curve) to sign the bundle with; see --trust of run.",
)
@click.option("--batch", type=int, help="Fixed batch size.  [default: any]")
@click.option("--ship-timesteps", type=int, help="T of the shipped model.  [default: its own]")
@click.option(
    "--finetune-slack",
    type=float,
    default=10.0,
    show_default=True,
    help="Points beyond --max-drop that pruning may lose where --finetune follows.",
)
@click.option(
    "--frontier",
    "frontier_path",
    type=USER_PATH,
    help="Answer from what `frontier` wrote there: nothing is searched; policy, recovery, images "
    "and seed are its own. Without a budget: as small as --max-drop allows.",
)
@model_options
@search_options
@finetune_options
@threads_option
@output_options
@json_option
def build(
    *,
    load_model: Callable[[], SViT],
    search: SearchSettings,
    budget_mb: float | None,
    saving: float | None,
    budget_on: str,
    precision: str | None,
    runtime: str,
    mcu: bool,
    anytime: float | None,
    integer_input: bool,
    standard_ops: bool,
    ort_format: bool,
    output: Path,
    force: bool,
    sign: Path | None,
    batch: int | None,
    ship_timesteps: int | None,
    finetune: FinetuneSettings | None,
    finetune_slack: float,
    frontier_path: Path | None,
    data: Path | None,
    threads: int,
    verbosity: Verbosity,
    as_json: bool,
) -> int:
    """Shrink a trained SViT to a memory budget and write a verified bundle.

    With no --model or --checkpoint it builds the reference model. A build that is interrupted
    resumes when the same command is run again. Exit code 1: the constraints cannot be met; the
    best bundle found is written all the same, and says so.
    """
    if frontier_path is not None:
        _refuse_decided_options()
    settings = BuildSettings(
        budget_mb=budget_mb,
        saving=saving,
        search=search,
        batch=batch,
        threads=threads,
        precision=_precision(precision, Runtime(runtime)),
        runtime=Runtime(runtime),
        mcu=mcu,
        anytime=anytime,
        integer_input=integer_input,
        budget_on=BudgetOn(budget_on),
        standard_ops=standard_ops,
        ort_format=ort_format,
        ship_timesteps=ship_timesteps,
        finetune=finetune,
        finetune_slack=finetune_slack,
        smallest=frontier_path is not None and budget_mb is None and saving is None,
    )
    with progress_of(verbosity) as progress:
        progress.stage("reading the model", 1)  # mistakes are told before: imports take seconds
        from primesvt_deploy.bundle.signature import load_signing_key
        from primesvt_deploy.cli.tables.build import print_build
        from primesvt_deploy.data import open_data
        from primesvt_deploy.pipeline.build import build as build_bundle
        from primesvt_deploy.pipeline.frontier_files import KnownFrontier

        key = load_signing_key(sign) if sign else None
        known = KnownFrontier.read(frontier_path) if frontier_path else None
        model = load_model()
        set_threads(threads)
        splits = open_data(model, data, seed=known.search.seed if known else search.seed)
        progress.step(model.name)
        result = build_bundle(
            model,
            output,
            settings,
            data=splits,
            force=force,
            known=known,
            sign=key,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps({"bundle": str(result.path), **result.manifest}, indent=1))
    else:
        print_build(result.manifest, output)
        if key is not None:
            click.echo(f"signed with {key.path}: whoever has its public key can pass it as --trust")
    if not result.met:
        click.echo(explain_unmet(result.manifest, output), err=True)
    return 0 if result.met else 1


def _precision(given: str | None, runtime: Runtime) -> Precision | None:
    """Precision of the weights; None: the best of all."""
    if given is None:
        return Precision.INT8 if runtime.has_native else Precision.FP32
    return None if given == "auto" else Precision(given)


def _refuse_decided_options() -> None:
    source = click.get_current_context().get_parameter_source
    for name in _DECIDED_BY_FRONTIER:
        if source(name) in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP):
            raise SettingsError(
                f"--{name.replace('_', '-')} cannot be given with --frontier, which decided it "
                "when it was searched: leave it out, or run `primesvt-deploy frontier` with it"
            )


def explain_unmet(manifest: dict[str, Any], output: Path) -> str:
    """A paragraph on the best point reached, what stopped the search, what to change."""
    wanted = manifest["constraints"]
    size = wanted["used_bytes"]
    search = manifest["accuracy"]["search"]
    lost = f"{search['drop_points']:.2f} points lost on the search split" if search else "no search"
    most = wanted["max_drop_points"]
    allowed = "any loss" if most is None else f"{most:g}"
    # Where any loss is allowed, only what makes the model smaller still helps.
    advice = (
        "Raise the budget, or try --policy greedy, higher --rates or another --precision."
        if most is None
        else "Relax --max-drop or the budget, or try --policy greedy, --finetune EPOCHS or another "
        "--precision."
    )
    if any(reason.startswith("--ignore") for reason in manifest.get("left_unpruned", {}).values()):
        advice += " Or ignore fewer layers (--ignore)."
    return (
        f"The constraints are not met: {wanted['budget_bytes'] / 1e6:.2f} MB were asked for, the "
        f"best plan found has {size / 1e6:.2f} MB ({lost}, {allowed} allowed). "
        f"What stopped it: {wanted['stopped_by']}. {advice} The best bundle found is kept in "
        f"{output}, marked as not meeting the constraints."
    )
