"""`primesvt-deploy doctor`: what is installed, and what is missing for what."""

from __future__ import annotations

import itertools
import json
import os
import platform
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from primesvt_deploy.cli.command import Command
from primesvt_deploy.cli.options.common import json_option
from primesvt_deploy.version import __version__

if TYPE_CHECKING:
    from primesvt_deploy.cli.health.finding import Finding

__all__ = ["doctor"]

_COLORS = {"ok": "green", "missing": "yellow", "broken": "red"}


@click.command(cls=Command, short_help="What this machine can do, and what mends the rest.")
@json_option
def doctor(*, as_json: bool) -> int:
    """Look at what is installed here: what is missing, for what, and the command that mends it.

    Nothing is changed. Exit code 1: something that is installed is broken, or the edge install
    lacks a package. What is missing for some commands alone is no failure.
    """
    findings = list(_findings())
    failures = [finding for finding in findings if finding.is_failure]
    if as_json:
        content = {
            "version": __version__,
            "python": platform.python_version(),
            "works": not failures,
            "findings": [finding.to_dict() for finding in findings],
        }
        click.echo(json.dumps(content, indent=1))
    else:
        _print(findings)
    return 1 if failures else 0


def _findings() -> Iterator[Finding]:
    from primesvt_deploy.cli.health import belongings, machine, packages, programs

    # These take seconds: they run while the rest is looked at.
    imports, torch = packages.start_edge_imports(), packages.start_torch()
    quick = list(packages.check_packages())
    rest = [
        *programs.check_compilers(),
        *programs.check_emulators(),
        *belongings.check_ssh(),
        *belongings.check_models(),
        *machine.check_machine(),
        *machine.check_places(),
    ]
    found = [*quick, *packages.check_imports(imports), *packages.check_torch(torch), *rest]
    areas = list(dict.fromkeys(finding.area for finding in found))
    yield from sorted(found, key=lambda finding: areas.index(finding.area))


def _print(findings: Sequence[Finding]) -> None:
    # By click alone: rich is one of the packages that may be missing.
    color = False if os.environ.get("NO_COLOR") else None
    for area, group in itertools.groupby(findings, key=lambda finding: finding.area):
        click.echo(click.style(area, bold=True), color=color)
        for state, first, *lines in _entries(list(group)):
            mark = click.style(f"{state:9}", fg=_COLORS[state])
            below = [f"           {line}" for line in lines]
            click.echo("\n".join([f"  {mark}{first}", *below]), color=color)
    click.echo(f"\n{_summary(findings)}")


def _entries(findings: Sequence[Finding]) -> Iterator[list[str]]:
    """State, line, and lines below it, of an area's findings; packages of a state share one."""
    fine = [f"{f.name} {f.found}".strip() for f in findings if f.state == "ok" and _is_package(f)]
    if fine:
        yield ["ok", ", ".join(fine)]
    absent = [f for f in findings if f.state == "missing" and not f.found and _is_package(f)]
    if absent:
        names = ", ".join(f.name for f in absent)
        mends = " && ".join(dict.fromkeys(f.mend for f in absent))
        yield ["missing", names, f"needed for: {absent[0].needed_for}", f"mend: {mends}"]
    for finding in findings:
        if _is_package(finding) and (finding.state == "ok" or finding in absent):
            continue
        entry = f"{finding.name}: {finding.found}" if finding.found else finding.name
        below = [f"needed for: {finding.needed_for}", f"mend: {finding.mend}"]
        yield [finding.state, entry, *(below if finding.state != "ok" else ())]


def _is_package(finding: Finding) -> bool:
    return finding.area.split(":")[0].endswith((" install", " extra"))


def _summary(findings: Sequence[Finding]) -> str:
    failures = [finding.name for finding in findings if finding.is_failure]
    if failures:
        return f"Mend first: {', '.join(failures)}."
    missing = [
        f"the {f.area.partition(':')[0].lower()}" if _is_package(f) and not f.found else f.name
        for f in findings
        if f.state == "missing"
    ]
    if not missing:
        return "Everything is there."
    names = ", ".join(dict.fromkeys(missing))
    return f"What is installed works. Missing, for some commands alone: {names}."
