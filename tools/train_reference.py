r"""Train an SViT of any supported family on an ImageFolder, from a recipe.

    python tools/train_reference.py tools/recipes/spikformer-4-384-cifar10.toml \
        --data CIFAR10_FOLDER --output RUN
    torchrun --nproc-per-node 4 tools/train_reference.py ...     # several GPUs

The same command resumes a run that was cut off; Ctrl-C, SIGTERM and --minutes end it with a
checkpoint and exit code 3 (0 under torchrun, which takes any other code for a crash). It needs
torch, torchvision, SpikingJelly and numpy alone (to start from an existing model: safetensors as
well).
`tools/ship_reference.py` makes a model directory of a run.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a machine without an install

from reference.execution import Execution, Processes
from reference.recipe import Recipe
from reference.run import Run

from primesvt_deploy.data import open_data
from primesvt_deploy.errors import DeployError

_STOPPED = 3


def main() -> int:
    """Train; exit code 3: it was stopped, run it again."""
    options = _options()
    try:
        recipe = Recipe.read(options.recipe)
        execution = _execution(options, Processes.from_environment())
        torch.manual_seed(recipe.training.seed)
        model = recipe.build_model()
        initial = model.digest if "initial" in recipe.model else ""
        data = open_data(model, options.data)
        run = Run(model, data, recipe.training, options.output, execution, initial=initial)
        done = run.go()
    except DeployError as error:
        # An error of a loading process contains its traceback, with the message last.
        last = str(error.args[0]).strip().splitlines()[-1]
        print(f"error: {last.removeprefix(_qualified(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    if done:
        return 0
    if execution.rank == 0:
        print("stopped: run the same command to go on")
    return _STOPPED if execution.devices == 1 else 0


def _qualified(error: DeployError) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}: "


def _at_least(least: float, kind: type[int] | type[float]) -> Callable[[str], float]:
    def parsed(text: str) -> float:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text}: expected {least:g} or more")
        return value

    return parsed


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    whole, some = _at_least(1, int), _at_least(0, float)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="ImageFolder: train/ and test/")
    parser.add_argument("--output", type=Path, required=True, help="directory of this run")
    parser.add_argument("--minutes", type=some, help="stop after so many")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=whole, help="CPU threads")
    parser.add_argument(
        "--workers",
        type=_at_least(0, int),
        help="loading processes; default: cores, 0 on a CPU",
    )
    parser.add_argument(
        "--precision", choices=("bf16", "fp32"), help="default: bf16 on CUDA, fp32 on a CPU"
    )
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on CUDA")
    parser.add_argument("--save-seconds", type=some, default=300.0, help="between checkpoints")
    parser.add_argument("--log-steps", type=whole, default=50)
    return parser.parse_args()


def _execution(options: argparse.Namespace, processes: Processes) -> Execution:
    """Execution that follows from the options, torchrun and the machine."""
    device = processes.device(options.device)
    cuda = device.type == "cuda"
    if options.threads:
        torch.set_num_threads(options.threads)
    if cuda:
        torch.set_float32_matmul_precision("high")
    processes.join(device)
    cores = len(os.sched_getaffinity(0)) // processes.local_count if cuda else 0
    return Execution(
        device=device,
        rank=processes.rank,
        devices=processes.count,
        workers=cores if options.workers is None else options.workers,
        mixed_precision=options.precision == "bf16" if options.precision else cuda,
        compiled=cuda if options.compile is None else options.compile,
        save_seconds=options.save_seconds,
        log_steps=options.log_steps,
        seconds=None if options.minutes is None else 60.0 * options.minutes,
        stop=_stopped_by_signals(),
    )


def _stopped_by_signals() -> Callable[[], bool]:
    """Handle SIGINT and SIGTERM: a function says whether one came; a second SIGINT ends at once."""
    received: list[int] = []
    here = os.getpid()

    def handle(number: int, _: object) -> None:
        if os.getpid() != here:  # a loading process, which the terminal signals, too
            if number == signal.SIGTERM:
                os._exit(1)
        elif received and number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            received.append(number)

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return lambda: bool(received)


if __name__ == "__main__":
    sys.exit(main())
