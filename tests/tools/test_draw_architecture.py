from __future__ import annotations

import draw_architecture as drawing


def test_the_picture_is_that_of_the_code() -> None:
    assert drawing.PICTURE.read_text() == drawing.draw(), "run python tools/draw_architecture.py"


def test_stages_are_read_from_the_functions_that_call_them() -> None:
    found = list(drawing.stages())
    outer = [stage.name for stage in found if stage.depth == 0]
    assert outer.index("export_dense") < outer.index("make_variant") < outer.index("best")
    assert outer[-1] == "place"
    results = {stage.name: stage.result for stage in found}
    assert results["apply_plan"] == "AppliedPlan" and results["export_onnx"] == "Artifact"
    assert {stage.depth for stage in found} == {0, 1, 2, 3}
    assert all((drawing.PACKAGE / stage.file).is_file() for stage in found)


def test_an_import_that_follows_from_others_is_left_out() -> None:
    arrows = drawing.imports()
    assert arrows["cli"] == {"pipeline", "devices"}
    assert arrows["lowering"] == {"edge", "families"}
    assert not any(others & drawing.EVERYWHERE for others in arrows.values())
