"""`primesvt-deploy inspect`: show a bundle; works without torch."""

from __future__ import annotations

import json
from pathlib import Path

import click

from primesvt_deploy.cli.command import Command
from primesvt_deploy.cli.options.common import bundle_argument, json_option

__all__ = ["inspect"]


@click.command(cls=Command)
@bundle_argument
@json_option
def inspect(bundle: Path, as_json: bool) -> int:
    """Show what a bundle holds and what was measured of it."""
    from primesvt_deploy.cli.tables.build import print_bundle
    from primesvt_deploy.edge.runtime.bundle import open_bundle
    from primesvt_deploy.edge.runtime.manifest import check_figures

    manifest = open_bundle(bundle).manifest
    if as_json:
        click.echo(json.dumps(manifest, indent=1))
    else:
        check_figures(manifest)
        print_bundle(manifest)
    return 0
