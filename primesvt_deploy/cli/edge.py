"""`primesvt-deploy run`, `inspect` and `verify`: what works without torch."""

from __future__ import annotations

import json
from pathlib import Path

import click

from primesvt_deploy.cli.options import json_option, threads_option

__all__ = ["inspect", "run", "verify"]

_PROFILE = click.option(
    "--profile", metavar="NAME", help="Session: latency or low-memory.  [default: the bundle's]"
)
_BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))


@click.command()
@_BUNDLE
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Labels.")
@_PROFILE
@threads_option
@json_option
def run(
    bundle: Path,
    images: tuple[str, ...],
    top: int,
    profile: str | None,
    threads: int,
    as_json: bool,
) -> int:
    """Classify images (or .npy/.npz event frames) with a bundle, on numpy and onnxruntime alone."""
    from primesvt_deploy.edge.runtime.main import classify_and_print

    classify_and_print(bundle, images, top=top, threads=threads, profile=profile, as_json=as_json)
    return 0


@click.command()
@_BUNDLE
@json_option
def inspect(bundle: Path, as_json: bool) -> int:
    """Show what a bundle holds and what was measured of it."""
    from primesvt_deploy.cli.tables import print_bundle
    from primesvt_deploy.edge.runtime.bundle import check_files, read_manifest

    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    if as_json:
        click.echo(json.dumps(manifest, indent=1))
    else:
        print_bundle(manifest)
    return 0


@click.command()
@_BUNDLE
@click.option("--data", type=click.Path(path_type=Path), help="ImageFolder directory or .npz.")
@click.option(
    "--images", type=click.IntRange(min=1), default=256, show_default=True, help="To compare on."
)
@click.option("--factory", metavar="MODULE:FUNCTION", help="Of a bundle of your own class.")
@click.option("--quick", is_flag=True, help="Files and stored check only, as without torch.")
@click.option("--arm", metavar="CPU[,CPU]", help="Also on emulated cortex-a72 (Pi 4), cortex-a76.")
@click.option(
    "--arm-sandbox",
    type=click.Path(path_type=Path),
    help="Where the emulated machine is, or is set up.  [default: the user's cache]",
)
@_PROFILE
@threads_option
@json_option
def verify(
    bundle: Path,
    data: Path | None,
    images: int,
    factory: str | None,
    quick: bool,
    arm: str | None,
    arm_sandbox: Path | None,
    profile: str | None,
    threads: int,
    as_json: bool,
) -> int:
    """Check a bundle's files and that its artifact computes what its model computes.

    Where torch is installed the artifact is compared with the pruned model on real images;
    elsewhere with the outputs that were stored when the bundle was built. With --arm it also runs
    in the aarch64 onnxruntime under qemu, on up to 64 images; that needs apt, not a board.
    """
    from primesvt_deploy.edge.runtime.check import check_outputs

    if arm is not None:
        from primesvt_deploy.devices.emulated_arm.cpus import known_cpus

        known_cpus(arm)
    stored = check_outputs(bundle, threads=threads, profile=profile)
    outcome: dict[str, object] = {"files": "intact", "stored_outputs": stored.to_dict()}
    lines = ["files: intact", f"stored outputs: {stored}"]
    if not quick:
        try:
            from primesvt_deploy.verification.bundle import reverify
        except ModuleNotFoundError as missing:
            lines.append(f"against the torch model: not compared, there is no {missing.name} here")
        else:
            verification = reverify(
                bundle, data=data, images=images, threads=threads, factory=factory
            )
            outcome["verification"] = verification.to_dict()
            lines.append(f"against the torch model: {verification}")
    if arm is not None:
        from primesvt_deploy.devices.emulated_arm.check import verify_on_arm

        outcomes = verify_on_arm(
            bundle,
            arm,
            sandbox=arm_sandbox,
            data=data,
            factory=factory,
            threads=threads,
            profile=profile,
            tell=lambda line: click.echo(line, err=True),
        )
        outcome["arm"] = [found.to_dict() for found in outcomes]
        lines += [f"{found.cpu}: {found}" for found in outcomes]
    click.echo(json.dumps(outcome, indent=1) if as_json else "\n".join(lines))
    return 0
