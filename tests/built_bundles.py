"""A bundle that the real build wrote, once in a process; copy it before it is altered."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import SHALLOW, make_model, write_arrays

from primesvt_deploy import BuildSettings, build, open_data

_built: list[Path] = []


def built_bundle(factory: pytest.TempPathFactory) -> Path:
    """The bundle of a small float32 model; `factory` makes its directory."""
    if not _built:
        directory = factory.mktemp("built")
        model = make_model(SHALLOW)
        data = open_data(model, write_arrays(directory / "d.npz", model))
        wanted = BuildSettings(budget_mb=20.0, verify_images=20)
        _built.append(build(model, directory / "bundle", wanted, data=data).path)
    return _built[0]
