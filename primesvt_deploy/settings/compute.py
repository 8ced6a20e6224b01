"""Device and workers of a search."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from primesvt_deploy.errors import SettingsError
from primesvt_deploy.settings.base import Brief
from primesvt_deploy.settings.limits import MOST_WORKERS

__all__ = ["DEVICES", "ComputeSettings", "host_and_port"]

DEVICES = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
_HEAD = re.compile(r"\[?([\w.:-]+?)\]?:(\d{1,5})")


@dataclass(frozen=True, kw_only=True, repr=False)
class ComputeSettings(Brief):
    """Device and workers of a search.

    Plans do not depend on it, but for spikes that flip by rounding between kinds of devices.

    Args:
        device: `cpu`, `cuda` (the first), `cuda:N`, or `auto`: CUDA where there is one. Of workers
            each takes one such device.
        workers: processes that evaluate, started by Ray; None: this one alone, or with `ray` one a
            GPU, or a node where there are none.
        ray: address of a Ray cluster, or `auto` for the one that this machine belongs to; None:
            workers are of this machine.

    Raises:
        SettingsError: a value is out of range, or of another type.
    """

    device: str = "auto"
    workers: int | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        self.check_types()
        if not DEVICES.fullmatch(self.device):
            raise SettingsError(
                f"device is {self.device!r:.60}: expected cpu, cuda, cuda:0 (or another number) or "
                "auto; change --device"
            )
        if self.workers is not None and not 1 <= self.workers <= MOST_WORKERS:
            raise SettingsError(
                f"workers are {self.workers}: expected 1 to {MOST_WORKERS}; change --workers, or "
                "leave it out to evaluate in this process"
            )
        if self.ray not in (None, "auto"):
            host_and_port(self.ray)

    @property
    def distributed(self) -> bool:
        """Whether workers evaluate, and not this process."""
        return self.workers is not None or self.ray is not None

    def check_images(self, images: int | None) -> None:
        """Refuse more workers than search images; None: it is not known yet how many there are.

        Raises:
            SettingsError: there are more.
        """
        if images is not None and self.workers is not None and self.workers > images:
            raise SettingsError(
                f"there are {self.workers} workers for {images} search images: expected one image "
                "a worker at least; pass fewer --workers"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def host_and_port(address: str) -> tuple[str, int]:
    """Host and port of the head of a Ray cluster.

    Raises:
        SettingsError: the address has another form.
    """
    matched = _HEAD.fullmatch(address)
    if matched is None or not 0 < int(matched[2]) < 65536:
        raise SettingsError(
            f"the address of the Ray cluster is {address!r:.80}: expected HOST:PORT of its head, "
            "such as 10.0.0.1:6379, or auto; change --ray"
        )
    return matched[1], int(matched[2])
