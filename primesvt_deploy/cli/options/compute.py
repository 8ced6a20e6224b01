"""Options of where a command computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import click

from primesvt_deploy.cli.options.common import with_options
from primesvt_deploy.cli.options.completers import complete_names
from primesvt_deploy.cluster.reach import check_listens
from primesvt_deploy.compute.cuda_driver import check_driver
from primesvt_deploy.settings import ComputeSettings

__all__ = ["compute_options", "device_option"]

_F = TypeVar("_F", bound=Callable[..., Any])

_DEVICE_OPTION = click.option(
    "--device",
    default=ComputeSettings.device,
    show_default=True,
    shell_complete=complete_names("auto", "cpu", "cuda"),
    help="Computes there: cpu, cuda, cuda:1 or auto (CUDA where there is one).",
)
_OPTIONS = (
    _DEVICE_OPTION,
    click.option(
        "--workers",
        type=int,
        metavar="N",
        help="Processes that evaluate, started by Ray.  [default: none, this one does; with --ray "
        "one a GPU]",
    ),
    click.option(
        "--ray",
        metavar="ADDRESS",
        help="Workers of a Ray cluster: HOST:PORT, or auto for this machine's.",
    ),
)


def compute_options(function: _F) -> _F:
    """Give a command the options of where it computes; it receives `compute`, `ComputeSettings`."""

    @wraps(function)
    def wrapped(*, device: str, workers: int | None, ray: str | None, **rest: Any) -> Any:
        compute = ComputeSettings(device=device, workers=workers, ray=ray)
        if ray is None:  # devices of a cluster are not this machine's
            check_driver(device)
        elif ray != "auto":
            check_listens(ray)
        return function(compute=compute, **rest)

    return cast(_F, with_options(_OPTIONS, wrapped))


def device_option(function: _F) -> _F:
    """Give a command the device that it computes on; it receives `device`, a name."""

    @wraps(function)
    def wrapped(*, device: str, **rest: Any) -> Any:
        ComputeSettings(device=device)
        check_driver(device)
        return function(device=device, **rest)

    return cast(_F, with_options((_DEVICE_OPTION,), wrapped))
