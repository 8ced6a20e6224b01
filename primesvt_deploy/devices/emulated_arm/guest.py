"""The program that runs on the emulated CPU; the same functions run here, to compare with.

Copied to a folder with the package's `edge/runtime`: it needs numpy and onnxruntime alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from primesvt_deploy.edge.runtime.bundle import open_bundle
from primesvt_deploy.edge.runtime.errors import DeployError
from primesvt_deploy.edge.runtime.session import OnnxModel

__all__ = ["REFUSED", "logits", "main", "output_digests", "run_marked"]

REFUSED = 3
"""Exit status where onnxruntime refuses the model; the reason is on standard error."""


def logits(
    model: OnnxModel, images: npt.NDArray[np.float32], *, batch: int
) -> npt.NDArray[np.float32]:
    """Logits `[n, K]` of preprocessed samples, a few at a time.

    Args:
        model: the artifact.
        images: `[n, C, H, W]`, or sequences of frames `[n, T, C, H, W]`.
        batch: samples at a time.
    """
    starts = range(0, len(images), batch)
    return np.concatenate([model.logits(images[i : i + batch]) for i in starts])


def run_marked(model: OnnxModel, images: npt.NDArray[np.float32]) -> None:
    """Run an image, set a mark, run the others one by one, set a mark; see `instructions.c`."""
    model.logits(images[:1])
    os.getpriority(os.PRIO_PROCESS, 0)
    for i in range(1, len(images)):
        model.logits(images[i : i + 1])
    os.getpriority(os.PRIO_PROCESS, 0)


def output_digests(path: Path, inputs: Path) -> dict[str, str]:
    """SHA-256 of every output of a model, by its name.

    Args:
        path: the model.
        inputs: `.npz` with its inputs by name.
    """
    session = OnnxModel(path, threads=1).session
    names = [output.name for output in session.get_outputs()]
    with np.load(inputs) as arrays:
        found: list[Any] = session.run(names, dict(arrays))
    return {
        name: hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        for name, value in zip(names, found, strict=True)
    }


def main() -> int:
    """Run a bundle on images, and an integer part if one is given; JSON on the last line.

    Without a file for the logits, the runs are marked so that their instructions are counted.
    """
    options = _options()
    answer: dict[str, Any] = {"onnxruntime": ort.__version__}
    try:
        if options.bundle:
            model = OnnxModel.of_bundle(
                open_bundle(options.bundle), threads=options.threads, profile=options.profile
            )
            images = np.load(options.images)
            if options.logits:
                np.save(options.logits, logits(model, images, batch=options.batch))
            else:
                run_marked(model, images)
        if options.part:
            answer["digests"] = output_digests(options.part, options.inputs)
    except DeployError as error:
        print(error, file=sys.stderr)
        return REFUSED
    print(json.dumps(answer))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--logits", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile")
    parser.add_argument("--part", type=Path)
    parser.add_argument("--inputs", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
