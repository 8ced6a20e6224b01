"""One search for many budgets, and answers from it without another."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from html_fragments import read_fragment
from html_page import Page
from recorded_progress import Recorded
from small_models import SHALLOW, make_model, make_prunable

from primesvt_deploy import BuildSettings, SearchSettings, build
from primesvt_deploy.data import DataSet
from primesvt_deploy.errors import ModelError, OutputError, SettingsError
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.frontier import FrontierResult, frontier
from primesvt_deploy.pipeline.frontier_files import KnownFrontier
from primesvt_deploy.pruning.plan import Plan
from primesvt_deploy.pruning.search.evaluator import Evaluator
from primesvt_deploy.report.frontier import draw_frontier

pytestmark = pytest.mark.slow

SEARCH = SearchSettings(max_drop=None, policy="uniform", recover=("refit", "norms"))
SAVINGS = (10.0, 30.0, 50.0)


@pytest.fixture(scope="module")
def told() -> Recorded:
    return Recorded()


@pytest.fixture(scope="module")
def made(
    model: SViT, data: DataSet, told: Recorded, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, FrontierResult]:
    output = tmp_path_factory.mktemp("frontier") / "f"
    return output, frontier(
        model,
        output,
        SEARCH,
        data=data,
        savings=SAVINGS,
        timesteps=(1,),
        held_out_images=60,
        progress=told,
    )


def test_its_stages_were_planned_and_add_up(
    made: tuple[Path, FrontierResult], told: Recorded
) -> None:
    assert made[1]["points"]
    ahead = {name for plan in told.plans for name in plan}
    assert ahead <= {stage.name for stage in told.stages}, "a stage that never came"
    assert [stage.name for stage in told.stages if not stage.planned] == []
    ended_early = {stage.name for stage in told.stages if not stage.is_done}
    assert ended_early <= {"uniform policy"}
    assert told["held-out, 10% saved"].last == (60, 60, "images")
    assert told["latency, dense"].last == (50, 50, "rounds")


@pytest.fixture
def no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluator, "outcome", lambda *_, **__: pytest.fail("evaluated"))


def test_a_point_for_each_saving(made: tuple[Path, dict[str, Any]]) -> None:
    output, content = made
    assert json.loads((output / "frontier.json").read_text()) == content
    assert [p["asked_saving_percent"] for p in content["points"]] == list(SAVINGS)
    for point in content["points"]:
        assert point["met"]
        assert point["asked_saving_percent"] <= point["saved_percent"]
        assert point["saved_percent"] < point["asked_saving_percent"] + 8.0
        assert point["held_out"]["n"] == point["drop"]["n"] == 60
        assert point["search"]["n"] == 120
        assert point["cost"]["evaluations"] >= 2
    sizes = [p["weight_bytes"] for p in content["points"]]
    assert sizes == sorted(sizes, reverse=True)
    assert content["points"][-1]["pareto"], "nothing is smaller"


def test_a_frontier_shows_its_points(made: tuple[Path, FrontierResult]) -> None:
    output, content = made
    title, dense, *points = repr(content).splitlines()
    assert title.startswith("FrontierResult of tiny, policy uniform, held-out top-1 on ")
    assert dense.split()[0] == "dense" and len(points) == len(SAVINGS)
    assert f"{content['points'][0]['saved_percent']:.1f}% saved" in points[0]
    fragment = read_fragment(content._repr_html_())
    assert {"dense", "weights, MB", "held-out top-1, %"} <= set(fragment.drawn)
    known = KnownFrontier.read(output)
    assert repr(known).startswith(f"KnownFrontier {output} of tiny, policy uniform")
    assert read_fragment(known._repr_html_()).values == fragment.values


def test_pareto_points_are_those_no_other_betters(made: tuple[Path, dict[str, Any]]) -> None:
    points = made[1]["points"]
    for point in points:
        bettered = any(
            other["weight_bytes"] <= point["weight_bytes"]
            and other["search"]["points"] <= point["search"]["points"]
            and other is not point
            for other in points
        )
        assert point["pareto"] == (not bettered)


def test_fewer_timesteps_are_reported_with_their_latency(
    made: tuple[Path, dict[str, Any]],
) -> None:
    (row,) = made[1]["points"][0]["timesteps"]
    assert row["T"] == 1
    assert row["held_out"]["n"] == 60
    assert row["latency"]["median_ms"] > 0.0
    (dense,) = made[1]["dense"]["timesteps"]
    assert dense["T"] == 1 and dense["held_out"]["n"] == 60


def test_asked_again_it_knows_everything(
    made: tuple[Path, dict[str, Any]], model: SViT, data: DataSet, no_evaluation: None
) -> None:
    output, content = made
    again = frontier(
        model, output, SEARCH, data=data, savings=SAVINGS, timesteps=(1,), held_out_images=60
    )
    assert again["points"] == content["points"]
    assert again["dense"] == content["dense"], "latencies too: they were not measured anew"


def test_more_savings_are_added_to_those_that_are_known(
    model: SViT, data: DataSet, tmp_path: Path
) -> None:
    first = frontier(model, tmp_path / "f", SEARCH, data=data, savings=(10.0, 40.0))
    more = frontier(model, tmp_path / "f", SEARCH, data=data, savings=(25.0,))
    assert [p["asked_saving_percent"] for p in more["points"]] == [10.0, 25.0, 40.0]
    assert more["points"][0] | {"pareto": 0} == first["points"][0] | {"pareto": 0}
    with pytest.raises(OutputError, match="policy"):
        frontier(
            model, tmp_path / "f", replace(SEARCH, policy="random"), data=data, savings=(10.0,)
        )


def test_a_frontier_in_use_is_refused(
    made: tuple[Path, dict[str, Any]], model: SViT, data: DataSet
) -> None:
    import fcntl

    with (made[0] / "ledger.jsonl").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another frontier is writing"):
            frontier(model, made[0], SEARCH, data=data, savings=(10.0,))


def test_what_a_call_left_before_its_first_word_is_taken_up(
    model: SViT, data: DataSet, tmp_path: Path
) -> None:
    (tmp_path / "ledger.jsonl").touch()
    (tmp_path / "frontier.json.partial").write_text('{"sch')
    assert frontier(model, tmp_path, SEARCH, data=data, savings=(10.0,))["points"]


def test_a_frontier_of_something_else_is_left_alone(
    made: tuple[Path, dict[str, Any]], model: SViT, data: DataSet, tmp_path: Path
) -> None:
    output, _ = made
    before = (output / "frontier.json").read_text()
    with pytest.raises(OutputError, match="another model, data, settings"):
        frontier(model, output, replace(SEARCH, recover=()), data=data, savings=(10.0,))
    assert (output / "frontier.json").read_text() == before
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        frontier(model, tmp_path, SEARCH, data=data, savings=(10.0,))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(OutputError, match="is a file: pass a directory"):
        frontier(model, tmp_path / "thesis.txt", SEARCH, data=data, savings=(10.0,))


@pytest.mark.parametrize("savings", [(), (0.0,), (100.0,), (50.0, 120.0)])
def test_savings_that_cannot_be(
    savings: tuple[float, ...], model: SViT, data: DataSet, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="savings"):
        frontier(model, tmp_path / "f", SEARCH, data=data, savings=savings)
    assert not (tmp_path / "f").exists()


def test_timesteps_that_cannot_be(model: SViT, data: DataSet, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="timesteps are 9"):
        frontier(model, tmp_path / "f", SEARCH, data=data, savings=(10.0,), timesteps=(9,))
    assert not (tmp_path / "f").exists()


def test_the_policy_that_needs_a_constraint_gets_the_strictest_that_fits(
    model: SViT, data: DataSet, tmp_path: Path
) -> None:
    search = replace(SEARCH, policy="prioritized", rates=(0.25, 0.5, 0.75), robustness_images=60)
    content = frontier(model, tmp_path / "f", search, data=data, savings=(10.0, 60.0))
    gentle, deep = content["points"]
    assert gentle["met"]
    assert gentle["search"]["points"] <= 1.0
    assert deep["saved_percent"] > gentle["saved_percent"]


def test_the_plot_shows_it(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    draw_frontier(made[1], tmp_path)
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "frontier.svg").read_text()


class TestBuildFromAFrontier:
    def settings(self, **values: Any) -> BuildSettings:
        return BuildSettings(verify_images=20, **values)

    def test_a_budget_is_answered_without_evaluation(
        self,
        made: tuple[Path, dict[str, Any]],
        model: SViT,
        data: DataSet,
        tmp_path: Path,
        no_evaluation: None,
    ) -> None:
        output, content = made
        settings = self.settings(saving=25.0, search=SearchSettings(max_drop=None))
        found = build(model, tmp_path / "b", settings, data=data, known=KnownFrontier.read(output))
        assert found.met
        plan = json.loads((tmp_path / "b" / "plan.json").read_text())
        known = [Plan.from_packed(p["channels"]).to_dict()["kept"] for p in content["points"]]
        assert plan["kept"] in known
        assert found.manifest["size"]["saved_percent"]["file"] >= 25.0
        assert found.manifest["policy"]["name"] == "uniform"
        report = Page((tmp_path / "b" / "report.html").read_text()).text
        kept = plan["widths"]["blocks.0.mlp"]
        assert re.search(rf"blocks\.0\.mlp 96 {kept} [\d.]+%", report)

    def test_points_alone_give_the_smallest(
        self,
        made: tuple[Path, dict[str, Any]],
        model: SViT,
        data: DataSet,
        tmp_path: Path,
        no_evaluation: None,
    ) -> None:
        output, content = made
        limit = max(p["search"]["points"] for p in content["points"]) + 1e-3  # they are rounded
        settings = self.settings(smallest=True, search=SearchSettings(max_drop=limit))
        found = build(model, tmp_path / "b", settings, data=data, known=KnownFrontier.read(output))
        assert found.met
        smallest = min(content["points"], key=lambda p: p["weight_bytes"])
        plan = json.loads((tmp_path / "b" / "plan.json").read_text())
        assert plan["widths"] == smallest["widths"]

    def test_a_frontier_of_another_model_is_refused(
        self, made: tuple[Path, dict[str, Any]], data: DataSet, tmp_path: Path
    ) -> None:
        other = make_model(make_prunable(SHALLOW).config, seed=9)
        with pytest.raises(SettingsError, match="model, data or version differ"):
            build(
                other,
                tmp_path / "b",
                self.settings(saving=25.0),
                data=data,
                known=KnownFrontier.read(made[0]),
            )
        assert not (tmp_path / "b").exists()

    def test_a_directory_without_one_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="holds no frontier"):
            KnownFrontier.read(tmp_path)
        (tmp_path / "frontier.json").write_text('{"schema": 99}')
        with pytest.raises(SettingsError, match="schema 99"):
            KnownFrontier.read(tmp_path)
        (tmp_path / "frontier.json").write_text('{"schema": 1, "points": []}')
        with pytest.raises(SettingsError, match="not whole"):
            KnownFrontier.read(tmp_path)
        (tmp_path / "frontier.json").write_text("[]")
        with pytest.raises(SettingsError, match="damaged"):
            KnownFrontier.read(tmp_path)


class TestFinetunedBuild:
    def test_the_shipped_model_is_the_trained_one(
        self, model: SViT, data: DataSet, tmp_path: Path
    ) -> None:
        from primesvt_deploy import FinetuneSettings, load

        trained = DataSet(
            name=data.name, digest=data.digest, train=data.search, search=data.search,
            held_out=data.held_out,
        )  # fmt: skip
        search = SearchSettings(policy="uniform", max_drop=50.0, recover=("refit", "norms"))
        recipe = FinetuneSettings(epochs=1, batch_size=16)
        plain = BuildSettings(saving=30.0, search=search, verify_images=20)
        one = build(model, tmp_path / "plain", plain, data=trained)
        two = build(model, tmp_path / "tuned", replace(plain, finetune=recipe), data=trained)
        assert one.manifest["finetune"] is None
        facts = two.manifest["finetune"]
        assert facts["epochs"] == len(facts["losses"]) == 1
        assert facts["images_seen"] == 112
        weights = [load(tmp_path / name).module.state_dict() for name in ("plain", "tuned")]
        assert weights[0].keys() == weights[1].keys()
        assert not torch.equal(weights[0]["head.weight"], weights[1]["head.weight"])
        lost = [r.manifest["accuracy"]["search"]["drop_points"] for r in (one, two)]
        assert lost[0] != lost[1], "the trained model is judged, not the one before"
        assert not (tmp_path / "tuned.work").exists()

    def test_no_train_split_is_refused_before_any_work(
        self, model: SViT, data: DataSet, tmp_path: Path
    ) -> None:
        from primesvt_deploy import FinetuneSettings
        from primesvt_deploy.errors import DataError

        settings = BuildSettings(saving=30.0, finetune=FinetuneSettings())
        with pytest.raises(DataError, match="to train on"):
            build(model, tmp_path / "b", settings, data=data)
        assert not (tmp_path / "b").exists()
        assert not list((tmp_path / "b.work").glob("ledger*"))


def test_fewer_timesteps_are_shipped(model: SViT, data: DataSet, tmp_path: Path) -> None:
    from primesvt_deploy import load

    search = SearchSettings(policy="uniform", max_drop=100.0, recover=("refit", "norms"))
    settings = BuildSettings(saving=20.0, search=search, ship_timesteps=1, verify_images=20)
    found = build(model, tmp_path / "b", settings, data=data)
    assert found.manifest["model"]["arguments"]["timesteps"] == 1
    assert load(tmp_path / "b").timesteps == 1
    assert found.manifest["accuracy"]["search"] is not None
    with pytest.raises(ModelError, match="timesteps are 7"):
        build(model, tmp_path / "c", replace(settings, ship_timesteps=7), data=data)
