"""`primesvt-deploy run`: classify images with a bundle; works without torch."""

from __future__ import annotations

from pathlib import Path

import click

from primesvt_deploy.cli.command import Command
from primesvt_deploy.cli.options.common import (
    bundle_argument,
    check_threads,
    json_option,
    profile_option,
    require_trusted,
    runtime_option,
    threads_option,
    trust_option,
)

__all__ = ["run"]


@click.command(cls=Command, short_help="Classify images with a bundle; torch is not needed.")
@bundle_argument
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Labels.")
@profile_option
@threads_option
@runtime_option
@trust_option
@json_option
def run(
    bundle: Path,
    images: tuple[str, ...],
    top: int,
    profile: str | None,
    threads: int,
    runtime: str | None,
    trust: Path | None,
    as_json: bool,
) -> int:
    """Classify images (or .npy/.npz event frames) with a bundle; torch is not needed."""
    check_threads(threads)
    from primesvt_deploy.edge.runtime.main import classify_and_print

    require_trusted([bundle], trust)
    classify_and_print(
        bundle,
        images,
        top=top,
        threads=threads,
        profile=profile,
        runtime=runtime,
        as_json=as_json,
    )
    return 0
