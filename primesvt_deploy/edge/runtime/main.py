"""The command that a bundle's `run.py` and `primesvt-deploy run` share."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Sequence

from .errors import DeployError, on_one_line, print_whatever_names
from .predict import Classifier

__all__ = ["classify_and_print", "main"]


def main(bundle: str | os.PathLike[str], arguments: Sequence[str] | None = None) -> int:
    """Classify the images named on the command line; the exit code: 0, or 2 with one line."""
    parser = argparse.ArgumentParser(description="Classify images with this bundle.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image file; frames: .npy, .npz")
    parser.add_argument("--top", type=int, default=3, help="labels to print (default 3)")
    parser.add_argument("--threads", type=int, default=0, help="0: one a physical core")
    parser.add_argument("--profile", help="latency or low-memory (default: the bundle's)")
    parser.add_argument("--runtime", help="onnx or native (default: onnx, if the bundle has it)")
    parser.add_argument("--json", action="store_true", help="one JSON object an image")
    print_whatever_names()
    options = parser.parse_args(arguments)
    try:
        classify_and_print(
            bundle,
            options.images,
            top=options.top,
            threads=options.threads,
            profile=options.profile,
            runtime=options.runtime,
            as_json=options.json,
        )
        sys.stdout.flush()
    except DeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: cannot write the result: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def classify_and_print(
    bundle: str | os.PathLike[str],
    images: Iterable[str],
    *,
    top: int,
    threads: int,
    profile: str | None,
    runtime: str | None = None,
    as_json: bool,
) -> None:
    """Print one line an image: its path, then labels and probabilities.

    Raises:
        DeployError: the bundle or an image cannot be used.
    """
    classifier = Classifier(bundle, threads=threads, profile=profile, runtime=runtime)
    if not classifier.meets_constraints:
        print("note: this bundle does not meet the constraints it was built for", file=sys.stderr)
    for prediction in classifier.classify(images, top=top):
        if as_json:
            print(json.dumps(prediction.to_dict()))
        else:
            labels = ", ".join(f"{label} {share:.1%}" for label, share in prediction.top)
            took = prediction.timesteps
            print(on_one_line(f"{prediction.image}: {labels}") + (f"; T = {took}" if took else ""))
