"""`primesvt-deploy compare`: compare results of `bench`; works without torch."""

from __future__ import annotations

import json
from pathlib import Path

import click

from primesvt_deploy.cli.command import Command
from primesvt_deploy.cli.options.common import USER_PATH, any_machine_option, json_option
from primesvt_deploy.errors import OutputError, SettingsError

__all__ = ["compare"]


@click.command(cls=Command, short_help="Compare results of `bench`, with intervals.")
@click.argument("results", nargs=-1, required=True, type=USER_PATH, metavar="RESULT...")
@click.option("--plot", type=USER_PATH, metavar="FILE", help="Draw them: .png or .svg.")
@any_machine_option
@json_option
def compare(
    *, results: tuple[Path, ...], plot: Path | None, any_machine: bool, as_json: bool
) -> int:
    """Compare results of `bench`: each with the first, ratios with 95% intervals."""
    from primesvt_deploy.cli.tables.bench import print_comparison, print_uncompared
    from primesvt_deploy.edge.bench.comparison import (
        compare_results,
        require_same_machine,
        without_counterpart,
    )
    from primesvt_deploy.edge.bench.results import read_results
    from primesvt_deploy.edge.whole_file import bundle_around

    if len(results) < 2:
        raise SettingsError("there is one result: name two or more that `bench --output` wrote")
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise SettingsError(f"--plot is {plot.name}: expected a file ending with .png or .svg")
    if plot is not None and not plot.parent.is_dir():
        raise OutputError(f"--plot: there is no directory {plot.parent}: make it")
    if plot is not None and (bundle := bundle_around(plot)):
        raise OutputError(
            f"--plot is {plot}, within the bundle {bundle}, whose files are listed in its "
            "manifest: pass a file elsewhere"
        )
    for path in results:
        if not path.exists():
            raise SettingsError(f"there is no result {path}: `bench --output` writes one")
    if len(set(map(str, results))) < len(results):
        raise SettingsError("a result is named twice: name each once")
    contents = {str(path): read_results(path) for path in results}
    if not any_machine:
        require_same_machine(contents)
    (first, reference), *others = contents.items()
    compared = {name: compare_results(content, reference) for name, content in others}
    if plot is not None:
        from primesvt_deploy.report.bench import draw_results

        draw_results(contents, plot)
    alone = {
        name: dict(
            zip((name, first), without_counterpart(content, reference, compared[name]), strict=True)
        )
        for name, content in others
    }
    if as_json:
        rows = {name: [c.to_dict() for c in found] for name, found in compared.items()}
        found = {"reference": first, "compared": rows, "not_compared": alone}
        click.echo(json.dumps(found, indent=1))
    else:
        print_comparison(first, compared)
        for names in alone.values():
            print_uncompared(names)
        if plot is not None:
            click.echo(f"plot: {plot}")
    return 0
