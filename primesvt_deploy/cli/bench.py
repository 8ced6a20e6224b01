"""`primesvt-deploy bench`: measure bundles, here or over SSH; works without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from primesvt_deploy.cli.command import Command
from primesvt_deploy.cli.options.common import (
    USER_PATH,
    any_machine_option,
    json_option,
    require_trusted,
    trust_option,
    whole_numbers,
)
from primesvt_deploy.cli.options.completers import complete_bundles, complete_names
from primesvt_deploy.cli.options.host import host_options
from primesvt_deploy.cli.options.output import quiet_option
from primesvt_deploy.errors import DeployError, SettingsError

if TYPE_CHECKING:
    from primesvt_deploy.devices.ssh.settings import HostSettings
    from primesvt_deploy.edge.bench.comparison import Comparison
    from primesvt_deploy.edge.bench.settings import BenchSettings

__all__ = ["bench"]


@click.command(cls=Command, short_help="Measure latency, throughput and memory, here or over SSH.")
@click.argument(
    "bundles",
    nargs=-1,
    required=True,
    type=USER_PATH,
    metavar="BUNDLE...",
    shell_complete=complete_bundles,
)
@click.option(
    "--runtime",
    metavar="NAME",
    shell_complete=complete_names("onnx", "native", "both"),
    help="onnx, native or both.  [default: each that a bundle is built for]",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_names("latency", "low-memory", "all"),
    help="Session of ONNX Runtime: latency, low-memory, or all; may be repeated.  [default: each "
    "bundle's]",
)
@click.option("--batches", default="1,4", show_default=True, help="Samples a run.")
@click.option("--threads", help="CPU threads, such as 1,4.  [default: 1 and one a physical core]")
@click.option(
    "--seconds", type=float, default=5.0, show_default=True, help="Timed, a configuration."
)
@click.option(
    "--rounds",
    type=int,
    default=20,
    show_default=True,
    help="Blocks that configurations take turns in.",
)
@click.option(
    "--warmup", type=float, default=10.0, show_default=True, help="Seconds at most, until stable."
)
@click.option("--operators", is_flag=True, help="Profile each operator as well.")
@click.option("--output", type=USER_PATH, metavar="FILE", help="Write the result as JSON.")
@click.option(
    "--baseline",
    type=USER_PATH,
    metavar="FILE",
    help="Compare with that result, too.",
)
@click.option(
    "--fail-if-slower",
    metavar="PERCENT",
    help="Exit code 1 if a configuration is slower than in the baseline by more, such as 10%.",
)
@any_machine_option
@trust_option
@host_options
@quiet_option
@json_option
def bench(
    *,
    bundles: tuple[Path, ...],
    runtime: str | None,
    profiles: tuple[str, ...],
    batches: str,
    threads: str | None,
    seconds: float,
    rounds: int,
    warmup: float,
    operators: bool,
    output: Path | None,
    baseline: Path | None,
    fail_if_slower: str | None,
    any_machine: bool,
    trust: Path | None,
    host: HostSettings | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Measure latency, throughput and memory of bundles (or model files), here or over SSH.

    Each configuration (bundle, runtime, profile, batch, threads) runs in a fresh process;
    those of several bundles and runtimes take turns, so that noise affects all alike.
    """
    from primesvt_deploy.cli.tables.bench import print_uncompared
    from primesvt_deploy.edge.bench.comparison import (
        compare_results,
        require_same_machine,
        without_counterpart,
    )
    from primesvt_deploy.edge.bench.machine import fingerprint
    from primesvt_deploy.edge.bench.results import check_target, keep_results, read_results
    from primesvt_deploy.edge.bench.settings import BenchSettings

    limit = _percent(fail_if_slower)
    if limit is not None and baseline is None:
        raise SettingsError("--fail-if-slower needs a result to compare with: pass --baseline FILE")
    settings = BenchSettings(
        runtimes=_runtimes(runtime),
        profiles=profiles,
        batches=whole_numbers(batches, "--batches"),
        threads=whole_numbers(threads, "--threads") if threads else (),
        seconds=seconds,
        rounds=rounds,
        warmup_seconds=warmup,
        operators=operators,
    )
    reference = read_results(baseline) if baseline else None
    if reference is not None and host is None and not any_machine:
        here = {"machine": fingerprint()}
        require_same_machine({str(baseline): reference, "this machine's": here})
    if output is not None:
        check_target(output)
    require_trusted(bundles, trust)
    content = _measured(bundles, settings, host, quiet=quiet)
    # What was measured is shown whatever fails from here on.
    failed: DeployError | None = None
    compared: Sequence[Comparison] = ()
    alone: dict[str, Sequence[str]] = {}
    try:
        if output is not None:
            keep_results(content, output)
        if reference is not None:
            if not any_machine:
                require_same_machine({str(baseline): reference, "this result": content})
            compared = compare_results(content, reference)
            names = without_counterpart(content, reference, compared)
            alone = dict(zip(("this result", str(baseline)), names, strict=True))
    except DeployError as error:
        failed = error
    slower = [c for c in compared if limit is not None and c.slower_than(limit)]
    _show(content, compared, alone, as_json=as_json)
    if failed is not None:
        raise failed
    print_uncompared(alone)
    for comparison in slower:
        click.echo(
            f"slower than {limit:g}% allows: {comparison.one['name']}: {comparison.ratio}", err=True
        )
    return 1 if slower else 0


def _measured(
    bundles: Sequence[Path], settings: BenchSettings, host: HostSettings | None, *, quiet: bool
) -> dict[str, Any]:
    from primesvt_deploy.edge.bench.configurations import (
        configurations_of,
        labels_of,
        open_subject,
    )
    from primesvt_deploy.edge.bench.job import run_bench
    from primesvt_deploy.edge.runtime.profiles import read_session
    from primesvt_deploy.edge.runtime.runtimes import ONNX, RUNTIMES

    def tell(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    named = replace(settings, labels=settings.labels or labels_of(bundles))
    if host is None:
        return run_bench(bundles, named, tell=tell)
    from primesvt_deploy.devices.ssh.run_on_host import run_on_host

    subjects = [
        open_subject(path, label) for path, label in zip(bundles, named.labels, strict=True)
    ]
    chosen = configurations_of(subjects, settings, cores=1)  # refused here, not over there
    runtimes = tuple(name for name in RUNTIMES if any(one.runtime == name for one in chosen))
    requires: dict[str, str] = {}
    for one in chosen:
        if one.runtime == ONNX and one.subject.bundle is not None:
            requires |= read_session(one.subject.bundle).requires
    content = run_on_host(
        host, bundles, named.to_dict(), requires=requires, runtimes=runtimes, tell=tell
    )
    return {**content, "host": host.destination}


def _show(
    content: Mapping[str, Any],
    compared: Sequence[Comparison],
    alone: Mapping[str, Sequence[str]],
    *,
    as_json: bool,
) -> None:
    if as_json:
        against = [comparison.to_dict() for comparison in compared]
        found = {**content, "against_baseline": against, "not_compared": alone}
        click.echo(json.dumps(found, indent=1))
        return
    from primesvt_deploy.cli.tables.bench import print_comparison, print_result

    print_result(content)
    if compared:
        print_comparison("the baseline", {"this result": compared})


def _runtimes(name: str | None) -> tuple[str, ...]:
    """The runtimes of `--runtime`; empty: each that a bundle is built for."""
    from primesvt_deploy.edge.runtime.runtimes import RUNTIMES

    if name is None:
        return ()
    return RUNTIMES if name == "both" else (name,)


def _percent(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError as error:
        raise SettingsError(f"--fail-if-slower is {text!r}: expected percent, such as 10%") from (
            error
        )
    if not 0.0 <= value < float("inf"):
        raise SettingsError(f"--fail-if-slower is {text!r}: expected 0% or more")
    return value
