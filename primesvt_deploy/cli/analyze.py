"""`primesvt-deploy analyze`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from primesvt_deploy.cli.command import Command
from primesvt_deploy.cli.options.common import (
    check_threads,
    json_option,
    set_threads,
    threads_option,
)
from primesvt_deploy.cli.options.compute import compute_options
from primesvt_deploy.cli.options.model import model_options
from primesvt_deploy.cli.options.output import output_options, progress_of
from primesvt_deploy.cli.options.search import search_options
from primesvt_deploy.progress.choose import Verbosity
from primesvt_deploy.settings import ComputeSettings, SearchSettings

if TYPE_CHECKING:
    from primesvt_deploy.cli.options.model_choice import ModelChoice
    from primesvt_deploy.pipeline.cost import ExpectedCost

__all__ = ["analyze"]


@click.command(cls=Command, short_help="What can be pruned, what it costs, how often neurons fire.")
@click.option(
    "--cost",
    is_flag=True,
    help="Measure for some seconds, print what the analysis will take, and end.",
)
@model_options
@partial(search_options, policies=False)
@compute_options
@threads_option
@output_options
@json_option
def analyze(
    *,
    model: ModelChoice,
    search: SearchSettings,
    compute: ComputeSettings,
    data: Path | None,
    threads: int,
    verbosity: Verbosity,
    cost: bool,
    as_json: bool,
) -> int:
    """Layer sizes, robustness to pruning at each rate, firing rates, energy estimate."""
    check_threads(threads)
    compute.check_images(search.search_images)
    model.check(data)
    with progress_of(verbosity) as progress:
        progress.stage("reading the model", 1)  # mistakes are told before: imports take seconds
        from primesvt_deploy.cli.tables.analysis import print_analysis
        from primesvt_deploy.data import open_data
        from primesvt_deploy.pipeline.analyze import analyze as analyze_model
        from primesvt_deploy.pipeline.cost import estimate
        from primesvt_deploy.pipeline.workers import driver_device

        driver_device(compute)  # before the model is read
        loaded = model.load(data)
        set_threads(threads)
        splits = open_data(loaded, data, seed=search.seed)
        progress.step(loaded.name)
        if cost:
            expected = estimate(loaded, search, data=splits, compute=compute, progress=progress)
        else:
            found = analyze_model(loaded, search, data=splits, compute=compute, progress=progress)
    if cost:
        _print_expected(expected, as_json=as_json)
    elif as_json:
        content = {
            "model": loaded.name,
            "data": splits.name,
            "cost": found.cost.to_dict(),
            "dense_search_accuracy": found.dense.to_dict(),
            "layers": [curve.to_dict() for curve in found.curves],
            "firing_rates": [layer.to_dict() for layer in found.firing],
            "energy": found.energy.to_dict(),
            "notes": list(loaded.all_notes),
            "left_unpruned": dict(found.left),
            "settings": search.to_dict(),
        }
        click.echo(json.dumps(content, indent=1))
    else:
        print_analysis(loaded, found, search)
    return 0


def _print_expected(expected: ExpectedCost, *, as_json: bool) -> None:
    from primesvt_deploy.cli.tables.cost import print_cost

    if as_json:
        click.echo(json.dumps(expected.to_dict(), indent=1))
    else:
        print_cost(expected)
