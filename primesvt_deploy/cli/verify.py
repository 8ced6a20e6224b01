"""`primesvt-deploy verify`: check a bundle; without torch by its stored outputs alone."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import click

from primesvt_deploy.cli.command import Command
from primesvt_deploy.cli.options.common import (
    USER_PATH,
    bundle_argument,
    check_threads,
    json_option,
    profile_option,
    require_trusted,
    threads_option,
    trust_option,
)
from primesvt_deploy.cli.options.completers import complete_names_with_commas
from primesvt_deploy.cli.options.compute import device_option
from primesvt_deploy.cli.options.output import output_options, progress_of
from primesvt_deploy.edge.whole_file import bundle_around
from primesvt_deploy.errors import DataError, SettingsError
from primesvt_deploy.progress.choose import Verbosity

__all__ = ["verify"]


@click.command(cls=Command, short_help="Check that a bundle computes what its model computes.")
@bundle_argument
@click.option("--data", type=USER_PATH, help="ImageFolder directory or .npz.")
@click.option(
    "--images", type=click.IntRange(min=1), default=256, show_default=True, help="To compare on."
)
@click.option("--factory", metavar="MODULE:FUNCTION", help="Of a bundle of your own class.")
@click.option("--quick", is_flag=True, help="Files and stored check only, as without torch.")
@click.option(
    "--arm",
    metavar="CPU[,CPU]",
    shell_complete=complete_names_with_commas("cortex-a72", "cortex-a76"),
    help="Also on emulated cortex-a72 (Pi 4), cortex-a76.",
)
@click.option(
    "--arm-sandbox",
    type=USER_PATH,
    help="Where the emulated machine is, or is set up.  [default: the user's cache]",
)
@profile_option
@device_option
@threads_option
@trust_option
@output_options
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
    device: str,
    threads: int,
    trust: Path | None,
    verbosity: Verbosity,
    as_json: bool,
) -> int:
    """Check a bundle's files and that its artifact computes what its model computes.

    Where torch is installed the artifact is compared with the pruned model on real images;
    elsewhere with the outputs that were stored when the bundle was built. With --arm it also runs
    under qemu, on up to 64 images: in the aarch64 onnxruntime, which needs apt, not a board, and in
    the native runtime, which needs gcc-aarch64-linux-gnu.
    """
    check_threads(threads)
    if arm_sandbox is not None and (around := bundle_around(arm_sandbox / "sandbox")):
        raise SettingsError(
            f"--arm-sandbox is {arm_sandbox}, within the bundle {around}, whose files are listed "
            "in its manifest: pass another directory"
        )
    from primesvt_deploy.edge.runtime.bundle import open_bundle
    from primesvt_deploy.edge.runtime.check import check_outputs
    from primesvt_deploy.edge.runtime.profiles import read_session
    from primesvt_deploy.edge.runtime.runtimes import ONNX, runtimes_of

    require_trusted([bundle], trust)
    cpus: tuple[str, ...] = ()
    if arm is not None:
        from primesvt_deploy.devices.emulated_arm.cpus import parse_cpus

        cpus = parse_cpus(arm)
    opened = open_bundle(bundle)
    runtimes = runtimes_of(opened.manifest)
    if profile is not None and ONNX in runtimes:
        read_session(opened).profile(profile)  # refuses one that is not there
    if not quick:
        _check_comparison(bundle, data, factory)
    lines: list[str] = ["files: intact"]
    found: dict[str, dict[str, object]] = {}
    if trust is not None:
        lines.append(f"signature: of the owner of {trust}")
    for runtime in runtimes:
        mark = f"{runtime}, " if len(runtimes) > 1 else ""
        # Session profiles are ONNX Runtime's.
        chosen = profile if runtime == ONNX or len(runtimes) == 1 else None
        stored = check_outputs(bundle, threads=threads, profile=chosen, runtime=runtime)
        found[runtime] = {"stored_outputs": stored.to_dict()}
        lines.append(f"{mark}stored outputs: {stored}")
        if quick:
            continue
        try:
            from primesvt_deploy.verification.bundle import verify_bundle_stages
        except ModuleNotFoundError as missing:
            lines.append(f"against the torch model: not compared, there is no {missing.name} here")
            break
        with progress_of(verbosity) as progress:
            stages = verify_bundle_stages(
                bundle,
                data=data,
                images=images,
                threads=threads,
                factory=factory,
                runtime=runtime,
                device=device,
                progress=progress,
            )
        found[runtime]["verification"] = stages[max(stages)].to_dict()
        if len(stages) > 1:
            found[runtime]["stages"] = [
                {"timesteps": t, "verification": stage.to_dict()} for t, stage in stages.items()
            ]
        for timesteps, verification in stages.items():
            stage = f"T = {timesteps}, " if len(stages) > 1 else ""
            lines.append(f"{mark}{stage}against the torch model: {verification}")
    first, *others = runtimes
    outcome: dict[str, object] = {"files": "intact", **found[first]}
    if trust is not None:
        outcome["signature"] = "trusted"
    outcome |= {name: found[name] for name in others if name in found}
    if cpus:
        from primesvt_deploy.devices.emulated_arm.check import ArmSettings, verify_on_arm

        with progress_of(verbosity) as progress:
            outcomes = verify_on_arm(
                bundle,
                ArmSettings(cpus=cpus, sandbox=arm_sandbox, threads=threads, profile=profile),
                data=data,
                factory=factory,
                progress=progress,
            )
        outcome["arm"] = [found.to_dict() for found in outcomes]
        lines += [f"{found.cpu}: {found}" for found in outcomes]
    click.echo(json.dumps(outcome, indent=1) if as_json else "\n".join(lines))
    return 0


def _check_comparison(bundle: Path, data: Path | None, factory: str | None) -> None:
    """Refuse what a comparison with the torch model cannot be made with, before torch is imported.

    Raises:
        DeployError: data that are missing or of other classes, or a factory that is not there.
    """
    try:
        if find_spec("torch") is None:
            return  # the stored outputs alone are compared
    except ModuleNotFoundError:
        return
    from primesvt_deploy.data.check import check_data
    from primesvt_deploy.model.find_factory import find_factory
    from primesvt_deploy.model.locate import known_model

    known = known_model(bundle, factory)
    if factory is not None:
        find_factory(factory)
    if data is not None:
        check_data(data, known)
    elif known.data is None:
        raise DataError(
            f"{known.name} comes with no data: pass --data, an ImageFolder directory or .npz, or "
            "--quick"
        )
