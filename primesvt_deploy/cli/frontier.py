"""`primesvt-deploy frontier`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from primesvt_deploy.cli.command import Command
from primesvt_deploy.cli.options.common import (
    USER_PATH,
    check_threads,
    json_option,
    numbers,
    set_threads,
    threads_option,
    whole_numbers,
)
from primesvt_deploy.cli.options.compute import compute_options
from primesvt_deploy.cli.options.model import model_options
from primesvt_deploy.cli.options.output import output_options, progress_of
from primesvt_deploy.cli.options.search import search_options
from primesvt_deploy.progress.choose import Verbosity
from primesvt_deploy.settings import ComputeSettings, SearchSettings

if TYPE_CHECKING:
    from primesvt_deploy.cli.options.model_choice import ModelChoice

__all__ = ["frontier"]


@click.command(cls=Command)
@click.option(
    "--output",
    type=USER_PATH,
    default=Path("frontier"),
    show_default=True,
    help="Where frontier.json, its plot and the ledger go.",
)
@click.option(
    "--savings",
    default="10,20,30,40,50,60,70,80",
    show_default=True,
    help="Percents of the weights to save, a point each.",
)
@click.option("--ship-timesteps", help="Report each point at these T as well, such as 1,2,4.")
@click.option("--held-out-images", type=int, help="Held-out images to report on.  [default: all]")
@model_options
@partial(search_options, max_drop="off")
@compute_options
@threads_option
@output_options
@json_option
def frontier(
    *,
    model: ModelChoice,
    search: SearchSettings,
    compute: ComputeSettings,
    output: Path,
    savings: str,
    ship_timesteps: str | None,
    held_out_images: int | None,
    data: Path | None,
    threads: int,
    verbosity: Verbosity,
    as_json: bool,
) -> int:
    """Accuracy against size over many budgets, from one search.

    Then `build --frontier DIR --budget-mb 3`, or `--max-drop 1` alone, takes its best plan
    without searching again. An interrupted frontier goes on when the same command is run.
    With --max-drop the search ends where more would be lost.
    """
    wanted = numbers(savings, "--savings")
    steps = whole_numbers(ship_timesteps, "--ship-timesteps") if ship_timesteps else ()
    from primesvt_deploy.pipeline.frontier_files import check_frontier

    check_threads(threads)
    compute.check_images(search.search_images)
    check_frontier(output, wanted, steps, held_out_images)
    model.check(data)
    with progress_of(verbosity) as progress:
        progress.stage("reading the model", 1)  # mistakes are told before: imports take seconds
        from primesvt_deploy.cli.tables.frontier import print_frontier
        from primesvt_deploy.data import open_data
        from primesvt_deploy.pipeline.frontier import frontier as find_frontier
        from primesvt_deploy.pipeline.workers import driver_device
        from primesvt_deploy.report.frontier import draw_frontier

        driver_device(compute)  # before the model is read
        loaded = model.load(data)
        set_threads(threads)
        splits = open_data(loaded, data, seed=search.seed)
        progress.step(loaded.name)
        found = find_frontier(
            loaded,
            output,
            search,
            data=splits,
            savings=wanted,
            timesteps=steps,
            held_out_images=held_out_images,
            compute=compute,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        print_frontier(found, output)
    draw_frontier(found, output)  # last: a full disk takes the plot alone
    return 0
