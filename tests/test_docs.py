"""Code in the documents is run."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from small_models import enliven

from primesvt_deploy import adopt
from primesvt_deploy.families.recording import KEEPS_CHANNELS
from primesvt_deploy.pruning.group_check import prunable_groups

PAGE = Path(__file__).parent.parent / "docs" / "your-own-model.md"


def test_the_model_of_the_page_on_ones_own_model_is_wholly_prunable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "page.py").write_text("\n".join(blocks))
    monkeypatch.syspath_prepend(str(tmp_path))
    page = importlib.import_module("page")
    try:
        found = prunable_groups(adopt(enliven(page.Net()), image_size=16))
        assert {group.name for group in found.groups} == {"stem.conv and 1 more", "fc1.conv"}
        assert not found.left
        assert getattr(page.SortedTokens, KEEPS_CHANNELS) is True
    finally:
        del sys.modules["page"]
