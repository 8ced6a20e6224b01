"""A node with another version of something is refused before work."""

from __future__ import annotations

import platform

import pytest
import torch

from primesvt_deploy.cluster.versions import check_versions, make_report
from primesvt_deploy.errors import ClusterError
from primesvt_deploy.version import __version__


def test_it_reports_what_runs_here() -> None:
    found = make_report()()
    assert found["Python"] == platform.python_version()
    assert found["primesvt-deploy"] == __version__
    assert str(found["torch"]).split("+")[0] == torch.__version__.split("+")[0]
    check_versions(found, {"n1": dict(found), "n2": dict(found)})


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("torch", "2.0.1", "node n2 has torch 2.0.1, and this process torch 2"),
        ("primesvt-deploy", None, "node n2 has no primesvt-deploy, and this process"),
        ("Python", "3.14.0", r"node n2 has Python 3\.14\.0"),
    ],
)
def test_another_version(name: str, version: str | None, message: str) -> None:
    found = make_report()()
    with pytest.raises(ClusterError, match=message):
        check_versions(found, {"n1": dict(found), "n2": {**found, name: version}})
