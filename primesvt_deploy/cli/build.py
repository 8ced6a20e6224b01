"""`primesvt-deploy build`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from primesvt_deploy.cli.command import Command
from primesvt_deploy.cli.options.build import BuildChoice, build_options
from primesvt_deploy.cli.options.common import json_option, set_threads, threads_option
from primesvt_deploy.cli.options.compute import compute_options
from primesvt_deploy.cli.options.finetune import finetune_options
from primesvt_deploy.cli.options.model import model_options
from primesvt_deploy.cli.options.output import output_options, progress_of
from primesvt_deploy.cli.options.repeat import repeated
from primesvt_deploy.cli.options.search import search_options
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.progress.choose import Verbosity
from primesvt_deploy.settings import (
    HEAD,
    BuildSettings,
    ComputeSettings,
    FinetuneSettings,
    SearchSettings,
)

if TYPE_CHECKING:
    from primesvt_deploy.bundle.signature import SigningKey
    from primesvt_deploy.cli.options.model_choice import ModelChoice
    from primesvt_deploy.model.locate import KnownModel
    from primesvt_deploy.pipeline.build import BuildResult
    from primesvt_deploy.pipeline.frontier_files import KnownFrontier
    from primesvt_deploy.pipeline.outlook import Outlook
    from primesvt_deploy.progress import Progress

__all__ = ["build"]


@click.command(cls=Command, short_help="Shrink a trained model and write a verified bundle.")
@build_options
@model_options
@search_options
@finetune_options
@compute_options
@threads_option
@output_options
@json_option
def build(
    *,
    choice: BuildChoice,
    model: ModelChoice,
    search: SearchSettings,
    finetune: FinetuneSettings | None,
    compute: ComputeSettings,
    data: Path | None,
    threads: int,
    verbosity: Verbosity,
    as_json: bool,
) -> int:
    """Shrink a trained SViT to a memory budget and write a verified bundle.

    With no --model or --checkpoint it builds the reference model. A build that is interrupted
    resumes when the same command is run again. Exit code 1: the constraints cannot be met; the
    best bundle found is written all the same, and says so. With --dry-run: the budget is out of
    reach by size alone.
    """
    settings = choice.settings(search, finetune, compute, threads)
    key, known = _checked(choice, model, settings, data)
    if choice.dry_run:
        return _foretold(choice, model, settings, data, verbosity=verbosity, as_json=as_json)
    with progress_of(verbosity) as progress:
        progress.stage("reading the model", 1)
        result, following = _built(
            choice, model, settings, data=data, key=key, known=known, progress=progress
        )
    from primesvt_deploy.cli.tables.build import print_build

    if as_json:
        click.echo(json.dumps({"bundle": str(result.path), **result.manifest}, indent=1))
    else:
        print_build(result.manifest, choice.output)
        if key is not None:
            click.echo(f"signed with {key.path}: whoever has its public key can pass it as --trust")
    if not result.met:
        click.echo(explain_unmet(result.manifest, choice.output), err=True)
    if following is not None and not as_json:
        click.echo(following)
    return 0 if result.met else 1


def _foretold(
    choice: BuildChoice,
    model: ModelChoice,
    settings: BuildSettings,
    data: Path | None,
    *,
    verbosity: Verbosity,
    as_json: bool,
) -> int:
    """Print what the build would take; the exit code."""
    with progress_of(verbosity) as progress:
        progress.stage("reading the model", 1)
        from primesvt_deploy.bundle.workspace import pending_ledger
        from primesvt_deploy.cli.tables.cost import print_cost
        from primesvt_deploy.data import open_data
        from primesvt_deploy.pipeline.build import check_build
        from primesvt_deploy.pipeline.cost import estimate
        from primesvt_deploy.pipeline.image_sets import search_key
        from primesvt_deploy.pruning.search.ledger import Ledger
        from primesvt_deploy.training.finetune import check_finetune

        loaded = model.load(data)
        set_threads(settings.threads)
        check_build(loaded, settings)
        splits = open_data(loaded, data, seed=settings.search.seed)
        if settings.finetune is not None:
            check_finetune(
                loaded, splits.train, settings.finetune, splits.name, compute=settings.compute
            )
        progress.step(loaded.name)
        key = search_key(loaded, splits, settings.pruning)
        ledger = Ledger(pending_ledger(choice.output, key))
        cost = estimate(loaded, settings, data=splits, ledger=ledger, progress=progress)
    if as_json:
        click.echo(json.dumps(cost.to_dict(), indent=1))
    else:
        print_cost(cost)
    return 0 if cost.reachable else 1


def _checked(
    choice: BuildChoice, model: ModelChoice, settings: BuildSettings, data: Path | None
) -> tuple[SigningKey | None, KnownFrontier | None]:
    """Key and frontier, read; refuses all that can be known to be wrong without torch."""
    from primesvt_deploy.bundle.workspace import check_place
    from primesvt_deploy.data.check import check_train

    known: KnownFrontier | None = None
    if choice.frontier is not None:
        from primesvt_deploy.pipeline.frontier_files import KnownFrontier

        known = KnownFrontier.read(choice.frontier)
    _check_timesteps(settings.ship_timesteps, model.check(data))
    if data is not None and settings.finetune is not None:
        check_train(data, "--finetune")
    if data is not None and HEAD in settings.search.recover:
        check_train(data, f"--recover {HEAD}")
    if not choice.dry_run:  # which writes nothing
        check_place(choice.output, force=choice.force)
    if choice.sign is None:
        return None, known
    from primesvt_deploy.bundle.signature import load_signing_key

    return load_signing_key(choice.sign), known


def _check_timesteps(wanted: int | None, known: KnownModel) -> None:
    """Refuse more timesteps than a model was trained with."""
    if wanted is not None and known.timesteps is not None and wanted > known.timesteps:
        raise SettingsError(
            f"ship timesteps are {wanted}: expected 1 to {known.timesteps}, what {known.name} was "
            "trained with; change --ship-timesteps"
        )


def _built(
    choice: BuildChoice,
    model: ModelChoice,
    settings: BuildSettings,
    *,
    data: Path | None,
    key: SigningKey | None,
    known: KnownFrontier | None,
    progress: Progress,
) -> tuple[BuildResult, str | None]:
    """The finished build, and what to type next where sizes alone decided it.

    From here on torch is needed, which takes seconds to import.
    """
    from primesvt_deploy.cli.tables.outlook import next_line, next_options, outlook_lines
    from primesvt_deploy.data import open_data
    from primesvt_deploy.pipeline.build import build as build_bundle
    from primesvt_deploy.pipeline.workers import driver_device

    driver_device(settings.compute)  # before the model is read

    typed = click.get_current_context()
    following: str | None = None

    def foresee(outlook: Outlook) -> None:
        nonlocal following
        if outlook.decided:
            command = repeated(typed, next_options(outlook, settings.search.max_drop))
            following = next_line(outlook, command)
            progress.message(*outlook_lines(outlook, command))

    loaded = model.load(data)
    set_threads(settings.threads)
    splits = open_data(loaded, data, seed=known.search.seed if known else settings.search.seed)
    progress.step(loaded.name)
    result = build_bundle(
        loaded,
        choice.output,
        settings,
        data=splits,
        force=choice.force,
        known=known,
        sign=key,
        progress=progress,
        foresee=foresee if known is None else None,
        command=repeated(typed, {}),
    )
    # It was said before the long stages, far above by now.
    return result, following


def explain_unmet(manifest: dict[str, Any], output: Path) -> str:
    """A paragraph on the best point reached, what stopped the search, what to change."""
    from primesvt_deploy.measure.megabytes import millions
    from primesvt_deploy.summary.words import points_lost

    wanted = manifest["constraints"]
    asked, found = millions(wanted["budget_bytes"], wanted["used_bytes"])
    search = manifest["accuracy"]["search"]
    lost = f"{points_lost(search['drop_points'])} on the search split" if search else "no search"
    most = wanted["max_drop_points"]
    allowed = "any loss" if most is None else f"a loss of {most:g}"
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
        f"The constraints are not met: {asked} MB were asked for, the "
        f"best plan found has {found} MB ({lost}; {allowed} is allowed). "
        f"What stopped it: {wanted['stopped_by']}. {advice} The best bundle found is kept in "
        f"{output}, marked as not meeting the constraints."
    )
