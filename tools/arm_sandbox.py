"""Run Python scripts on an emulated Raspberry Pi, without root and without a board.

    python tools/arm_sandbox.py setup DIR
    python tools/arm_sandbox.py run DIR --cpu cortex-a72 SCRIPT [ARGS...]

It shows that a script runs with the real aarch64 wheels of onnxruntime and numpy, gives the numbers
it gives on x86, and meets no instruction that the CPU lacks. cortex-a72 is the Pi 4, cortex-a76 the
Pi 5. Speed under qemu says nothing about speed on a board.

`setup` writes to DIR alone, from the machine's apt sources and pip's configured index; run it again
after an interruption. Several versions of `--onnxruntime` can be set up; `run` takes the last one.
For a bundle there is `primesvt-deploy verify BUNDLE --arm cortex-a72`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a machine without an install

from primesvt_deploy.devices.emulated_arm.cpus import CPUS
from primesvt_deploy.devices.emulated_arm.sandbox import Sandbox
from primesvt_deploy.errors import EmulationError
from primesvt_deploy.progress.shown import Lines


def main() -> None:
    """Set up the sandbox, or become qemu with the script."""
    options = _options()
    sandbox = Sandbox(options.directory)
    try:
        if options.command == "setup":
            with Lines() as progress:
                sandbox.set_up(onnxruntime=options.onnxruntime, progress=progress)
        else:
            command, environment = sandbox.command(options.cpu)
            os.execve(command[0], [*command, options.script, *options.args], environment)
    except (EmulationError, OSError) as error:
        sys.exit(f"arm_sandbox: {error}")
    except KeyboardInterrupt:
        sys.exit("arm_sandbox: interrupted; the same command goes on")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    setup = commands.add_parser("setup", help="make the sandbox, or go on making it")
    setup.add_argument("directory", type=Path, metavar="DIR")
    setup.add_argument("--onnxruntime", help="version; default: this interpreter's")
    run = commands.add_parser("run", help="run a Python script in it")
    run.add_argument("directory", type=Path, metavar="DIR")
    run.add_argument("--cpu", choices=sorted(CPUS), required=True)
    run.add_argument("script", metavar="SCRIPT")
    run.add_argument("args", nargs=argparse.REMAINDER, metavar="ARGS")
    return parser.parse_args()


if __name__ == "__main__":
    main()
