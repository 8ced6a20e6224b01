"""`primesvt-deploy models`."""

from __future__ import annotations

import json

import click

from primesvt_deploy.cli.command import Command
from primesvt_deploy.cli.options.common import json_option
from primesvt_deploy.errors import ModelError

__all__ = ["models"]


@click.command(cls=Command, short_help="The reference models, and the families that can be loaded.")
@json_option
def models(*, as_json: bool) -> int:
    """The reference models, and the families whose checkpoints can be loaded."""
    from primesvt_deploy.families import FAMILIES
    from primesvt_deploy.families.adopted import ADOPTED
    from primesvt_deploy.model.reference_models import DEFAULT_MODEL, model_names

    try:
        names, missing = model_names(), ""
    except ModelError as error:
        names, missing = (), str(error)
    families = (*FAMILIES, ADOPTED)
    if as_json:
        rows = [
            {"name": f.name, "title": f.title, "flags": f.flags, "note": f.note} for f in families
        ]
        click.echo(json.dumps({"models": list(names), "families": rows}, indent=1))
        return 0
    click.echo("Reference models (--model NAME):")
    if missing:
        click.echo(f"  none: {missing}")
    for name in names:
        click.echo(f"  {name}{'  (the default)' if name == DEFAULT_MODEL else ''}")
    click.echo(
        "\nFamilies (--checkpoint FILE, recognised by its keys; --family NAME to insist), and what "
        "to pass\nwhere the file does not tell it:"
    )
    width = max(len(family.name) for family in families)
    for family in families:
        click.echo(f"  {family.name:{width}}  {family.title}")
        click.echo(f"  {'':{width}}  {family.flags}")
    return 0
