"""`primesvt-deploy verify`: check a bundle; without torch by its stored outputs alone."""

from __future__ import annotations

import json
from pathlib import Path

import click

from primesvt_deploy.cli.options.common import (
    bundle_argument,
    json_option,
    profile_option,
    threads_option,
)

__all__ = ["verify"]


@click.command()
@bundle_argument
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
@profile_option
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

    cpus: tuple[str, ...] = ()
    if arm is not None:
        from primesvt_deploy.devices.emulated_arm.cpus import parse_cpus

        cpus = parse_cpus(arm)
    stored = check_outputs(bundle, threads=threads, profile=profile)
    outcome: dict[str, object] = {"files": "intact", "stored_outputs": stored.to_dict()}
    lines = ["files: intact", f"stored outputs: {stored}"]
    if not quick:
        try:
            from primesvt_deploy.verification.bundle import verify_bundle
        except ModuleNotFoundError as missing:
            lines.append(f"against the torch model: not compared, there is no {missing.name} here")
        else:
            verification = verify_bundle(
                bundle, data=data, images=images, threads=threads, factory=factory
            )
            outcome["verification"] = verification.to_dict()
            lines.append(f"against the torch model: {verification}")
    if cpus:
        from primesvt_deploy.devices.emulated_arm.check import ArmSettings, verify_on_arm

        outcomes = verify_on_arm(
            bundle,
            ArmSettings(cpus=cpus, sandbox=arm_sandbox, threads=threads, profile=profile),
            data=data,
            factory=factory,
            tell=lambda line: click.echo(line, err=True),
        )
        outcome["arm"] = [found.to_dict() for found in outcomes]
        lines += [f"{found.cpu}: {found}" for found in outcomes]
    click.echo(json.dumps(outcome, indent=1) if as_json else "\n".join(lines))
    return 0
