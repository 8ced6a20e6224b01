"""Versions on the nodes of a cluster, which must be those of the driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from primesvt_deploy.errors import ClusterError

__all__ = ["check_versions", "make_report"]

Versions = Mapping[str, str | None]
"""Version by name of a program or package; None: it is not installed."""


def make_report() -> Callable[[], dict[str, str | None]]:
    """Function that reports the versions where it runs, and needs nothing but Python there.

    It is made here, and not a function of the module: such a one is sent by its name, and a node
    without this package could not say so.
    """

    def report() -> dict[str, str | None]:
        import platform
        from importlib import import_module, metadata

        def installed(name: str) -> str | None:
            try:
                return metadata.version(name)
            except metadata.PackageNotFoundError:
                return None

        found = {name: installed(name) for name in ("ray", "torch", "numpy", "spikingjelly")}
        try:
            # Not of its metadata: it may run from its sources.
            ours = import_module("primesvt_deploy.version").__version__
        except ImportError:
            ours = None
        return {"primesvt-deploy": ours, "Python": platform.python_version(), **found}

    return report


def check_versions(here: Versions, there: Mapping[str, Versions]) -> None:
    """Refuse a node on which another version of something would compute.

    Args:
        here: versions of the driver.
        there: versions of each node, by its name.

    Raises:
        ClusterError: one is missing, or another.
    """
    for node, versions in there.items():
        for name, version in here.items():
            found = versions.get(name)
            if found == version:
                continue
            what = f"no {name}" if found is None else f"{name} {found}"
            raise ClusterError(
                f"node {node} has {what}, and this process {name} {version or 'none'}: expected "
                "the same everywhere; install the same primesvt-deploy[build,cluster] on all nodes"
            )
