"""The command line, one file a command; commands import torch when they run: `--help` is fast."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import sys
from typing import NoReturn

import click

from primesvt_deploy.cli.analyze import analyze
from primesvt_deploy.cli.bench import bench
from primesvt_deploy.cli.broken import broken_package
from primesvt_deploy.cli.build import build
from primesvt_deploy.cli.command import Commands, print_schema
from primesvt_deploy.cli.compare import compare
from primesvt_deploy.cli.completion import PROGRAM, completion, prepare_completion
from primesvt_deploy.cli.doctor import doctor
from primesvt_deploy.cli.frontier import frontier
from primesvt_deploy.cli.here import NO_DIRECTORY, has_working_directory
from primesvt_deploy.cli.inspect import inspect
from primesvt_deploy.cli.interrupt import lost_interrupts_repeated
from primesvt_deploy.cli.mistakes import usage_line
from primesvt_deploy.cli.models import models
from primesvt_deploy.cli.report import report
from primesvt_deploy.cli.run import run
from primesvt_deploy.cli.verify import verify
from primesvt_deploy.edge.runtime.errors import on_one_line, print_whatever_names
from primesvt_deploy.errors import DeployError, OutputError, not_installed
from primesvt_deploy.version import __version__

__all__ = ["cli", "main"]

_SIGNALLED = 128
"""Above are the exit codes of commands that a signal ended: this, and the signal's number."""
_INTERRUPTED = 130
_READER_LEFT = 141
"""As of a program that SIGPIPE ends."""


@click.group(
    cls=Commands,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="primesvt-deploy")
@click.option(
    "--config-schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_schema,
    help="Print the JSON schema of --config files, for editors, and exit.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Prune a trained Spiking Vision Transformer and ship it to an edge device.

    `COMMAND --help` lists a command's options; a file can hold them (--config FILE). Exit codes: 0
    good, 1 a constraint was not met or an artifact is not its model, 2 usage or input, 130
    interrupted.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


_COMMANDS = (
    build,
    frontier,
    analyze,
    models,
    verify,
    run,
    inspect,
    report,
    bench,
    compare,
    doctor,
    completion,
)
for _command in _COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Run a command and end the process with its exit code."""
    code = exit_code()
    if code > _SIGNALLED and "ray" in sys.modules:
        _end_at_once(code)
    sys.exit(code)


def exit_code() -> int:
    """Run the command of `sys.argv`: a user's error is one line, never a traceback."""
    # Torch reads these as it loads. Threads that spin while they wait make a machine that does
    # something else as well several times slower; threads that never do, short products.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    print_whatever_names()
    prepare_completion()
    output = sys.stdout
    try:
        with lost_interrupts_repeated():
            code = cli.main(prog_name=PROGRAM, standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        goes_on = sys.argv[1:2] in (["build"], ["frontier"]) and "--dry-run" not in sys.argv
        _say(f"interrupted{'; it goes on where it was when run again' if goes_on else ''}")
        code = _INTERRUPTED
    except SystemExit as end:
        # The reader has gone, as `head` does: rich ends the process, click replaces the output.
        left = isinstance(end.__context__, BrokenPipeError) or sys.stdout is not output
        if not left and isinstance(end.code, str):  # a reason: Python prints it, and ends with 1
            raise
        code = _READER_LEFT if left else end.code
    except Exception as error:
        code = _explain(error)
    return code if isinstance(code, int) else 0


def _end_at_once(code: int) -> NoReturn:
    """End without unloading modules: threads of Ray that were interrupted as they started crash."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError, ValueError):
            stream.flush()
    os._exit(code)


def _explain(error: Exception) -> int:
    """Say an error on one line; its exit code. One that nobody foresaw is raised again."""
    if isinstance(error, click.ClickException):
        _say(f"error: {usage_line(error)}")
        return error.exit_code
    told = error if isinstance(error, DeployError) else broken_package(error)
    if told is None and isinstance(error, ModuleNotFoundError):
        told = not_installed(error, "this command")
    if told is None and isinstance(error, OSError):
        told = _of_system(error)
    if told is None:
        raise error
    _say(f"error: {told}")
    return told.exit_code


def _say(text: str) -> None:
    """Write a line to stderr, if it can be written to: the exit code says the rest."""
    try:
        click.echo(text, err=True)
    except OSError:
        sys.stderr = None  # Python would flush it at its end, and end with a code of its own


def _of_system(error: OSError) -> DeployError | None:
    if error.errno == errno.ENOENT and not has_working_directory():
        return OutputError(NO_DIRECTORY)
    full = error.errno in (
        errno.ENOSPC,
        errno.EACCES,
        errno.EROFS,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
    )
    if not full and not isinstance(error.filename, str | bytes):
        return None
    where = on_one_line(os.fsdecode(error.filename)) if error.filename else "while writing"
    return OutputError(f"{error.strerror}: {where}")
