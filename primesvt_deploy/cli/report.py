"""`primesvt-deploy report`: the page of a bundle, or several bundles side by side."""

from __future__ import annotations

from pathlib import Path

import click

from primesvt_deploy.cli.command import Command
from primesvt_deploy.cli.options.common import USER_PATH
from primesvt_deploy.errors import OutputError, SettingsError

__all__ = ["report"]


@click.command(cls=Command, short_help="Draw a bundle's report, or set several side by side.")
@click.argument("bundles", nargs=-1, required=True, type=USER_PATH, metavar="BUNDLE...")
@click.option(
    "--output",
    type=USER_PATH,
    metavar="FILE",
    default=Path("report.html"),
    show_default=True,
    help="The page, replaced if it is there.",
)
def report(bundles: tuple[Path, ...], output: Path) -> int:
    """Draw a bundle's report as one HTML file, or set several bundles side by side.

    The page opens without a network. A bundle has a report.html of its own from when it was built;
    this draws it anew, with this version's figures and the bundle's path in its commands.
    """
    named = [path.resolve() for path in bundles]
    if len(set(named)) < len(named):
        raise SettingsError("a bundle is named twice: name each once")
    _check_page(output, named)
    from primesvt_deploy.report.read import read_bundle

    found = [read_bundle(path) for path in bundles]
    # These take a second: mistakes are told before.
    from primesvt_deploy.report.bundle_report import render_report
    from primesvt_deploy.report.comparison import render_comparison

    if len(found) == 1:
        only = found[0]
        page = render_report(only.manifest, only.plan, only.content, bundle=only.path)
    else:
        page = render_comparison(found)
    from primesvt_deploy.edge.whole_file import write_whole

    try:
        write_whole(output, page)
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror}") from error
    click.echo(f"report: {output} ({len(page.encode()) / 1e6:.1f} MB); open it in a browser")
    return 0


def _check_page(output: Path, bundles: list[Path]) -> None:
    """Refuse a path where no page can be written, or where it would spoil a bundle.

    Raises:
        SettingsError: it is no file, has no directory, or lies within a bundle.
    """
    from primesvt_deploy.edge.whole_file import bundle_around

    target = output.resolve()
    inside = next((path for path in bundles if target.is_relative_to(path)), None)
    if bundle := inside or bundle_around(target):
        raise SettingsError(
            f"--output is {output}, within the bundle {bundle}, whose files are listed in its "
            "manifest: write the page elsewhere"
        )
    if target.is_dir():
        raise SettingsError(f"--output is {output}, a directory: expected a file")
    if target.exists() and not target.is_file():
        # Opening a pipe would wait for a reader.
        raise SettingsError(f"--output is {output}, no regular file: pass another file")
    if not target.parent.is_dir():
        raise SettingsError(f"--output is {output}: there is no directory {target.parent}")
