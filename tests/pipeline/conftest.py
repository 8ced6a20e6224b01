"""The models of tests of whole jobs."""

from __future__ import annotations

import pytest
from small_models import SHALLOW, make_model, make_prunable

from primesvt_deploy.model.svit import SViT


@pytest.fixture(scope="module")
def model() -> SViT:
    return make_prunable(SHALLOW)


@pytest.fixture
def tiny() -> SViT:
    return make_model(SHALLOW)
