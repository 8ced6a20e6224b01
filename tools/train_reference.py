r"""Train an SViT of any supported family on an ImageFolder, from a recipe.

    python tools/train_reference.py tools/recipes/spikformer-4-384-cifar10.toml \
        --data CIFAR10_FOLDER --output RUN
    torchrun --nproc-per-node 4 tools/train_reference.py ...     # several GPUs

The same command goes on where a run was cut off. It needs torch, torchvision, SpikingJelly and
numpy alone (to go on from a model that exists: safetensors as well). `tools/ship_reference.py`
makes a model directory of a run.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a machine without an install

from reference.recipe import Recipe
from reference.run import Means, Run

from primesvt_deploy.data import open_data
from primesvt_deploy.errors import DeployError


def main() -> int:
    """Train; exit code 3: its time is over, run it again."""
    options = _options()
    try:
        recipe = Recipe.read(options.recipe)
        torch.manual_seed(recipe.training.seed)
        model = recipe.fresh()
        data = open_data(model, options.data)
        means = _means(options)
        done = Run(model, data, recipe.training, options.output, means).go()
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    if not done:
        print(f"stopped after {options.minutes:g} minutes: run the same command to go on")
    return 0 if done else 3


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="ImageFolder: train/ and test/")
    parser.add_argument("--output", type=Path, required=True, help="directory of this run")
    parser.add_argument("--minutes", type=float, help="stop after so many, with a checkpoint")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--workers", type=int, help="loading processes; default: cores, 0 on a CPU")
    parser.add_argument(
        "--precision", choices=("bf16", "fp32"), help="default: bf16 on CUDA, fp32 on a CPU"
    )
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on CUDA")
    parser.add_argument("--save-seconds", type=float, default=300.0)
    parser.add_argument("--log-steps", type=int, default=50)
    return parser.parse_args()


def _means(options: argparse.Namespace) -> Means:
    """What torchrun and the machine give."""
    cuda = torch.cuda.is_available() if options.device == "auto" else options.device == "cuda"
    if options.threads:
        torch.set_num_threads(options.threads)
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if devices > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    if cuda:
        torch.cuda.set_device(local)
        torch.set_float32_matmul_precision("high")
    cores = len(os.sched_getaffinity(0)) // devices if cuda else 0
    return Means(
        device=torch.device("cuda", local) if cuda else torch.device("cpu"),
        rank=int(os.environ.get("RANK", "0")),
        devices=devices,
        workers=cores if options.workers is None else options.workers,
        mixed_precision=options.precision == "bf16" if options.precision else cuda,
        compiled=cuda if options.compile is None else options.compile,
        save_seconds=options.save_seconds,
        log_steps=options.log_steps,
        seconds=options.minutes and 60.0 * options.minutes,
    )


if __name__ == "__main__":
    sys.exit(main())
