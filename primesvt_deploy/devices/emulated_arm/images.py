"""Images to compare on: held-out ones of a bundle's data set, or those stored in the bundle."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from primesvt_deploy.edge.bench.samples import stored_images
from primesvt_deploy.edge.runtime.bundle import read_manifest
from primesvt_deploy.edge.runtime.steps import InputSteps, steps_from_dict
from primesvt_deploy.errors import DataError

__all__ = ["Samples", "choose_samples"]


@dataclass(frozen=True)
class Samples:
    """Preprocessed samples and their source.

    Args:
        images: float32 `[n, C, H, W]`, or frames `[n, T, C, H, W]`; uint8 where the model takes
            pixels.
        source: their source in words, such as `held-out images of cifar10`.
    """

    images: npt.NDArray[Any]
    source: str


def choose_samples(
    bundle: str | os.PathLike[str],
    *,
    count: int,
    data: str | os.PathLike[str] | None = None,
    factory: str | None = None,
) -> Samples:
    """Held-out samples where torch and the data set are installed, else the bundle's stored ones.

    Args:
        bundle: its directory.
        count: samples, at most.
        data: a data source; None: the bundled data set it was built with.
        factory: `module:function` that makes the model, if it is of a user's own class.

    Raises:
        BundleError: the bundle is incomplete or altered.
        DataError: `data` is given and cannot be used.
    """
    manifest = read_manifest(bundle)
    steps = steps_from_dict(manifest["model"]["preprocessing"])
    reason = "its data is not here: pass --data"
    if data is not None or manifest["model"].get("data"):
        try:
            return _held_out(bundle, steps, count=count, data=data, factory=factory)
        except ModuleNotFoundError as error:
            reason = f"there is no {error.name} here"
            if data is not None:
                raise DataError(
                    f"--data: {reason}: pip install 'primesvt-deploy[build]', or leave it out to "
                    "compare on the stored images"
                ) from error
    pixels = stored_images(Path(bundle))[:count]
    return Samples(steps.normalise(pixels), f"images stored in the bundle ({reason})")


def _held_out(
    bundle: str | os.PathLike[str],
    steps: InputSteps,
    *,
    count: int,
    data: str | os.PathLike[str] | None,
    factory: str | None,
) -> Samples:
    from primesvt_deploy.data import open_data
    from primesvt_deploy.model.load import load

    opened = open_data(load(bundle, factory=factory), data)
    # The bundle's model may take pixels where the network of its weights takes normalised images.
    chosen = replace(opened.held_out.shuffled(0).first(count), preprocessing=steps)
    return Samples(chosen.inputs(0, len(chosen)), f"held-out images of {opened.name}")
