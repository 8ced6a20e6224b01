"""Layers that the user names keep their channels."""

from __future__ import annotations

import pytest
from idioms import network_in
from recorded_progress import Recorded
from small_models import TINY, make_model

from primesvt_deploy import SearchSettings, adopt
from primesvt_deploy.errors import SettingsError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.open_context import search_context
from primesvt_deploy.pruning.group_check import prunable_groups
from primesvt_deploy.pruning.ignored_layers import idle_patterns, without_ignored


def left_whole(model: SViT, *patterns: str) -> set[str]:
    """Groups that `patterns` take out."""
    found = prunable_groups(model)
    kept = without_ignored(model.module, found, patterns)
    gone = {group.name for group in found.groups} - {group.name for group in kept.groups}
    assert gone == kept.left.keys() - found.left.keys()
    return gone


@pytest.mark.parametrize(
    ("patterns", "groups"),
    [
        ((), set()),
        (("blocks.0.mlp",), {"blocks.0.mlp"}),
        (("blocks.0.mlp.fc1.conv",), {"blocks.0.mlp"}),
        (("blocks.*.mlp.fc1",), {"blocks.0.mlp", "blocks.1.mlp"}),
        (("*.mlp",), {"blocks.0.mlp", "blocks.1.mlp"}),
        (("blocks.1",), {"blocks.1.attn.qk", "blocks.1.attn.v", "blocks.1.mlp", "residual"}),
        (("stem.0", "*.attn.v"), {"stem.0", "blocks.0.attn.v", "blocks.1.attn.v"}),
        (("residual",), {"residual"}),
        (("head",), set()),
    ],
)
def test_a_layer_keeps_its_channels_and_so_does_its_group(
    patterns: tuple[str, ...], groups: set[str]
) -> None:
    assert left_whole(make_model(TINY), *patterns) == groups


def test_a_pattern_that_changes_nothing_is_found() -> None:
    model = make_model(TINY)
    found = prunable_groups(model)
    patterns = ["blocks.0.mlp", "head", "stem.*", "he*d", "residual"]
    assert idle_patterns(model.module, found, patterns) == ["head", "he*d"]


def test_a_search_remarks_on_it() -> None:
    recorded = Recorded()
    settings = SearchSettings(ignore=("head", "blocks.0.mlp"))
    search_context(make_model(TINY), settings, None, progress=recorded)
    assert recorded.messages == [
        "note: --ignore head changes nothing: no channels could leave what it names"
    ]


def test_the_reason_is_told() -> None:
    model = make_model(TINY)
    kept = without_ignored(model.module, prunable_groups(model), ["*.mlp"])
    assert kept.left["blocks.0.mlp"] == "--ignore *.mlp"


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("blocks.0.mpl", "blocks.0.mlp"), ("block.0.mlp.fc1", "blocks.0.mlp.fc1"), ("*.nowhere*", "")],
)
def test_a_layer_that_does_not_exist_gets_the_nearest_names(pattern: str, near: str) -> None:
    model = make_model(TINY)
    with pytest.raises(SettingsError, match="there is no layer") as caught:
        without_ignored(model.module, prunable_groups(model), [pattern])
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_a_users_own_module_are_its_own() -> None:
    model = adopt(network_in("qkv, chunk"), image_size=16)
    assert left_whole(model, "attn.qkv.linear[0:32]") == {"attn.qkv.linear[0:32]"}
    assert left_whole(model, "attn.qkv") == {"attn.qkv.linear[0:32]", "attn.qkv.linear[32:48]"}
    assert left_whole(model, "stem.?") >= {"stem.0.conv", "stem.1.conv", "stem.2.conv"}


def test_settings_hold_the_patterns() -> None:
    assert SearchSettings(ignore=("stem.*",)).to_dict()["ignore"] == ["stem.*"]
