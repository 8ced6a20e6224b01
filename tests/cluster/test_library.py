"""Ray is asked for by those alone that need it."""

from __future__ import annotations

import sys

import pytest

from primesvt_deploy.cluster.session import RaySession
from primesvt_deploy.errors import NotInstalledError
from primesvt_deploy.settings import ComputeSettings


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NotInstalledError, match=r"pip install 'primesvt-deploy\[cluster\]'"):
        RaySession(ComputeSettings(workers=2))
