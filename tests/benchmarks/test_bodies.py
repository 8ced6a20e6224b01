"""Benchmark scripts from end to end, on a tiny network and few images."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from small_models import SHALLOW, enliven, make_prunable, write_arrays, write_model_directory

from primesvt_deploy import BuildSettings, SearchSettings, load, open_data
from primesvt_deploy.data import DataSet
from primesvt_deploy.edge.bench.settings import BenchSettings
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.settings import Precision

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SEARCH = SearchSettings(
    max_drop=60.0, rates=(0.3, 0.6), search_images=60, robustness_images=50, recover=()
)
Run = Callable[..., dict[str, Any]]
Script = Callable[[str], ModuleType]
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def model() -> SViT:
    return make_prunable(SHALLOW)


@pytest.fixture(scope="module")
def splits(model: SViT, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Images with a train split beside them."""
    folder = tmp_path_factory.mktemp("data")
    data = open_data(model, write_arrays(folder / "d.npz", model))
    train = open_data(model, write_arrays(folder / "t.npz", model, count=600, seed=3)).search
    return replace(data, train=train)


@pytest.fixture
def script(monkeypatch: Patch) -> Iterator[Script]:
    """Imports a script by its name, for this test alone."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)

    def imported(name: str) -> ModuleType:
        path = str(BENCHMARKS / f"{name}.py")
        if getattr(sys.modules.get(name), "__file__", None) != path:
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None and spec.loader is not None
            # Tests have a package `families` as well.
            monkeypatch.setitem(sys.modules, name, importlib.util.module_from_spec(spec))
            spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    yield imported
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


@pytest.fixture
def run(
    model: SViT,
    splits: DataSet,
    script: Script,
    tmp_path: Path,
    monkeypatch: Patch,
) -> Run:
    """Runs a script's `main` on the tiny model, with some of its constants changed."""
    results = tmp_path / "results"

    def patched(module: ModuleType, **values: object) -> None:
        for name, value in values.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)

    def ran(
        name: str, *arguments: str, parts: dict[str, dict[str, Any]] | None = None, **values: Any
    ) -> dict[str, Any]:
        shared = {
            "RESULTS": results,
            "WORK": tmp_path / "work",
            "load": lambda name=None: model,
            "open_data": lambda *_, **__: splits,
        }
        for part, changed in (parts or {}).items():
            patched(script(part), **{**shared, **changed})
        patched(script("common"), **shared)
        module = script(name)
        patched(module, **{**shared, **values})
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        module.main()
        content: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
        assert content["made"] and content["machine"]["cpu"]
        return content

    return ran


def test_exactness(run: Run) -> None:
    content = run("exactness", IMAGES=32, CALIBRATION=16)
    assert list(content["precisions"]) == ["int8", "int4"]
    for row in content["precisions"].values():
        assert row["images"] == 32
        assert row["spikes_compared"] > 1000
        assert row["flips_behind_float_layers"] == 0
        assert row["standard_operators_equal"]
        assert "stem.0.conv" in row["float_layers"]


def test_models(run: Run, model: SViT, tmp_path: Path) -> None:
    write_model_directory(tmp_path / "tiny", model)
    names = {"model_names": lambda: ("tiny",), "models_root": lambda: tmp_path}
    (row,) = run("models", FIRING_IMAGES=16, **names)["models"].values()
    assert row["digest"] == model.digest
    assert list(row["timesteps"]) == ["1", "2", "3"]
    assert row["timesteps"]["3"]["held_out"]["n"] == 120
    assert 0.0 < row["firing"][0]["rate"] < 1.0
    assert row["weights_bytes"] > 4 * row["parameters"]


def test_saving(run: Run) -> None:
    content = run("saving", SAVINGS=(26.68, 10.0), FAITHFUL=SEARCH)
    first, second = content["points"]
    assert (first["asked_saving_percent"], second["asked_saving_percent"]) == (10.0, 26.68)
    assert first["saved_percent"]["file"] >= 10.0 and second["saved_percent"]["file"] >= 26.68
    assert "dense accuracy" in content["build_seconds"]
    # The second build resumes from the first one's candidates.
    assert "dense accuracy" not in first["seconds"]


def test_frontier(run: Run) -> None:
    small = {
        "SAVINGS": (30.0, 60.0),
        "DEEPER_SAVINGS": (),
        "SEARCH_IMAGES": 60,
        "OTHERS_SEARCH_IMAGES": 60,
        "OTHERS_HELD_OUT": 60,
    }
    parts = {
        "frontier_series": small,
        "frontier_parts": {"OTHERS_HELD_OUT": 60},
        "frontier_plot": {},
    }
    wanted = ("greedy/all", "uniform/all", "recovery", "free")
    content = run("frontier", *wanted, parts=parts)
    assert {row["policy"] for row in content["series"]} == {"greedy", "uniform"}
    for row in content["series"]:
        sizes = [point["weight_bytes"] for point in row["points"]]
        assert len(sizes) == 2 and sizes[0] > sizes[1]
    assert len(content["recovery"]) == 14
    assert content["free"][0]["free_channels"] >= 72, "as many never spike"


def test_answers(run: Run, script: Script) -> None:
    anything = replace(SEARCH, max_drop=None, policy="greedy")
    answered = BuildSettings(saving=20.0, search=anything, verify_images=8)
    asked = {"--saving 20": answered}
    content = run("answers", SEARCH=anything, SAVINGS=(30.0, 60.0), HELD_OUT=60, ASKED=asked)
    (answer,) = content["answers"]
    assert answer["met"] and answer["saved_percent"] > 0.0
    after = [answer["stages"][name] for name in ("verification", "held-out accuracy")]
    assert 0.0 < answer["seconds_until_plan"] < answer["seconds"] - sum(after) + 0.1
    table = script("answers_table").answers_table(content)
    assert f"| `--saving 20` | {answer['saved_percent']:.1f}% " in table


def test_frontier_models(run: Run) -> None:
    small = {"SEARCH_IMAGES": 60, "OTHERS_SEARCH_IMAGES": 60, "OTHERS_HELD_OUT": 60}
    content = run(
        "frontier_models",
        parts={"frontier_series": small},
        SIZES=(30.0,),
        model_names=lambda: ("tiny",),
    )
    assert content["models"]["tiny"]["points"][0]["saved_percent"] >= 30.0


def test_precision(run: Run, model: SViT) -> None:
    use = SimpleNamespace(peak=3, anonymous=2, imported=1)
    builds = {
        "int8": BuildSettings(saving=10.0, precision=Precision.INT8, search=SEARCH, verify_images=8)
    }
    values = {
        "BUILDS": builds,
        "RUNS": 3,
        "network": lambda name: model,
        "measure_memory": lambda *_, **__: use,
    }
    content = run("precision", "reference", "tiny", **values)
    row = content["reference"]["builds"]["int8"]
    assert row["integer_layers"] == 10
    assert row["accuracy"]["shipped"]["n"] == 120
    assert content["reference"]["memory"]["int8"]["latency"]["peak_bytes"] == 3
    wide = content["widths"]["tiny"]
    assert wide["file_bytes"]["int8"] < wide["file_bytes"]["fp32"]
    assert wide["latency_by_threads"]["1"]["runs"] == 3


def test_families(model: SViT, script: Script, tmp_path: Path, monkeypatch: Patch) -> None:
    module = script("families")
    monkeypatch.setattr(module, "network", lambda name: model)
    monkeypatch.setattr(module, "random_images", lambda path: write_arrays(path, model))
    row = module.measured("tiny")
    assert row["met"] and row["size"]["saved_percent"]["file"] >= 30.0
    assert row["verification"]["passed"] and row["verification"]["n"] == 8
    assert set(row["stages_seconds"]) >= {"export, fp32", "verification"}


def test_alternatives(run: Run) -> None:
    shapes = {
        "CONVOLUTIONS": {"3x3, 4 to 8 channels, 4x4": (4, 8, 4, 3)},
        "NEURONS": {"8 channels": (4, 8)},
    }
    content = run("alternatives", RUNS=2, WARMUP=1, **shapes)
    assert all(content[key] for key in content)


@pytest.fixture
def theirs(tmp_path: Path) -> dict[str, Any]:
    """Values that make `load` and `open_data` give SpikingJelly's class with its weights."""
    from safetensors.torch import save_file
    from spikingjelly.activation_based.model.spikformer import Spikformer

    theirs = enliven(
        Spikformer(
            T=2, img_size_h=16, img_size_w=16, patch_size=4, num_classes=5, embed_dims=16,
            num_heads=2, depths=1,
        )
    )  # fmt: skip
    config = replace(SHALLOW, timesteps=2, mlp_ratio=4.0)
    directory = write_model_directory(
        tmp_path / "tiny", replace(make_prunable(SHALLOW), config=config)
    )
    save_file(dict(theirs.state_dict()), directory / "weights.safetensors")
    model = load(directory)
    data = open_data(model, write_arrays(tmp_path / "d.npz", model))
    return {
        "load": lambda _: model,
        "open_data": lambda _: data,
        "models_root": lambda: tmp_path,
        "RUNS": 3,
        "WARMUP": 1,
    }


def test_latency(run: Run, theirs: dict[str, Any]) -> None:
    content = run("latency", pruned_as_measured=lambda model: model, **theirs)
    assert [row["threads"] for row in content["by_threads"]] == [1, 2]
    for row in content["by_threads"]:
        assert row["naive"]["median_ms"] > 0.0
        assert row["times_faster"]["dense_than_naive"] > 0.0


def test_the_best_of_each_is_compared_with_the_best_of_the_other(script: Script) -> None:
    tables = script("latency_tables")
    content = json.loads((BENCHMARKS / "results" / "latency.json").read_text())
    slowed, best = tables.latency_table(content), tables.best_by_threads
    rows = [
        {"threads": 1, "eager": {"median_ms": 30.0}, "ours": {"median_ms": 12.0}},
        {"threads": 2, "eager": {"median_ms": 60.0}, "ours": {"median_ms": 10.0}},
    ]
    assert best(rows, ("eager", "ours", "gone")) == {"eager": (30.0, 1), "ours": (10.0, 2)}
    (row,) = [line for line in slowed.splitlines() if line.startswith("| best |")]
    medians = {
        name: min(row[name]["median_ms"] for row in content["by_threads"])
        for name in ("spikingjelly_eager", "dense")
    }
    assert f"| {medians['spikingjelly_eager'] / medians['dense']:.2f}x faster |" in row
    for row in content["by_threads"]:
        row["spikingjelly_eager"]["median_ms"] = 40.0 - row["threads"]
    assert "times as long at" in slowed
    assert "times as long at" not in tables.latency_table(content)


def test_what_flips_where_is_told_apart(script: Script) -> None:
    tables = script("precision_tables")
    row = {
        "images": 256,
        "spikes_compared": 377_000_000,
        "flipped_spikes": 18_240,
        "flips_by_layer": {"stem.0": 2, "stem.1": 12, "head": 0},
        "flips_behind_float_layers": 0,
        "top1_disagreements": 3,
        "float_layers": {"stem.0.conv": "its input is real", "head": "its input is beyond 255"},
        "standard_operators_equal": True,
        "arm": None,
    }
    assert tables.flips_in_float_layers(row) == 2
    table = tables.exactness_table({"precisions": {"int8": row}, "machine": {"cpu": "x"}})
    cells = "| int8 | 2 | 18240 of 377 M | 0 | 253 of 256 images | bit-identical | not run |"
    assert cells in table and "256 images of the held-out split" in table


def test_no_flips_on_some_images_are_not_called_none_at_all(script: Script) -> None:
    tables = script("precision_tables")
    content = json.loads((BENCHMARKS / "results" / "precision.json").read_text())
    assert "on other images some does" in tables.precision_table(content)
    next(iter(content["reference"]["builds"].values()))["verification"]["flipped_spikes"] = 1
    assert "on other images some does" not in tables.precision_table(content)


def test_native(run: Run, theirs: dict[str, Any]) -> None:
    small = {"IMAGES": 4, "CALIBRATION": 32, "COMPARED": 16, "COUNTED": 4, "STARTS": 1}
    small["LIMITED"] = ("AVX-512 without VNNI", "AVX2")
    content = run("native", parts={"latency": theirs}, **theirs, **small)
    for kind, timing in content["timings"].items():
        for row in timing["by_threads"]:
            assert row["native_int8"]["median_ms"] > 0.0
            assert row["times_faster"]["native_int8"]["onnx_int8"] > 0.0
            assert ("spikingjelly_eager" in row) == (kind == "as it is")
    assert content["timings"]["AVX2"]["kernels"] != "avx512"
    for row in content["agreement"].values():
        assert row["flips_where_the_float_layer_agrees"] == 0
        assert row["spikes_compared"] > 1000
    for row in content["memory"].values():
        assert row["weights_bytes"] < row["parameters_bytes"] < row["native_file_bytes"]
        assert 0.0 < row["first_result_ms"] < row["whole_process_ms"]
    whole = content["operations"]["an_image"]
    assert whole["grouped_additions"] < whole["synaptic_operations"] < whole["dense_operations"]
    for row in content["integer_input"].values():
        assert row["pixels"]["n"] == row["normalised"]["n"] == 120


def test_headline(run: Run, theirs: dict[str, Any]) -> None:
    use = SimpleNamespace(peak=3)
    small = {"IMAGES": 4, "PROCESSES": 1, "measure_memory": lambda *_, **__: use}
    part = {"STARTS": 1, "CALIBRATION": 32, "measure_memory": lambda *_, **__: use}
    content = run(
        "headline",
        parts={"latency": theirs, "native": part},
        widths_of_greedy=dict,
        with_widths=lambda model, _: model,
        _eager_peak=lambda model, folder: 9,
        **theirs,
        **small,
    )
    forms = {"spikingjelly_eager", "naive", "fp32", "pruned", "int8", "native"}
    for key in ("file_bytes", "peak_bytes", "latency", "times_faster_than_eager"):
        assert set(content[key]) == forms, key
    assert content["times_faster_than_eager"]["spikingjelly_eager"] == 1.0
    assert content["peak_bytes"]["native"] > 1e5


def test_robustness(run: Run) -> None:
    content = run("robustness", SETTINGS={"bare": SEARCH, "recovered": SEARCH})
    for curves in content["layers"].values():
        assert all(1 <= len(curve["curve"]) <= 2 for curve in curves)
    assert content["images"] == 50 and 0.0 <= content["firing_rates"][0]["rate"] <= 1.0


def test_operations_are_counted(script: Script) -> None:
    operations = script("native_operations")
    layer = torch.nn.Conv2d(2, 3, 3, padding=1)
    spikes = (torch.rand(2, 1, 2, 4, 4) < 0.5).float()
    outputs = torch.nn.functional.conv2d(spikes[:, 0], torch.ones(3, 2, 3, 3), padding=1)
    assert operations._fan_out(layer, spikes.sum(dim=0)) == float(outputs.sum())
    counts = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.0, 1.0]).reshape(6, 1, 1)
    assert operations._grouped(counts).item() == 3.0, "2 in the first four timesteps, 1 behind"


def test_native_large(run: Run, model: SViT, script: Script) -> None:
    large = script("native_large")
    content = run(
        "native_large",
        LIMITED=("AVX-512 without VNNI",),
        NETWORKS=("tiny",),
        PASSES=6,
        CALIBRATION=8,
        IMAGES=2,
        RUNS=2,
        WARMUP=1,
        network=lambda name: make_prunable(SHALLOW),
        samples=lambda model, start, stop: torch.randn(
            stop - start, *model.config.input_shape
        ).numpy(),
        in_own_process=large.measured,
    )
    row = content["models"]["tiny"]
    assert 0.03 < row["density"]["median"] < 0.3, "near the reference's"
    (limited,) = row["timings"]["AVX-512 without VNNI"]["by_threads"]
    assert limited["native_int8"]["median_ms"] > 0.0
    assert row["timings"]["two_threads_times_faster_than_one"] > 0.0


def test_native_density(run: Run) -> None:
    layers = {"1x1": (8, 4, 1, 16, 3), "3x3": (8, 4, 3, 16, 1)}
    small = {"RUNS": 3, "DENSITIES": (0.0, 0.2, 0.9), "OPTIMIZE": "-O0"}
    flags = Path("/proc/cpuinfo").read_text()
    if " avx2 " not in flags or " bmi2 " not in flags:
        pytest.skip("this processor has no AVX2: the engine has no products to time here")
    content = run("native_density", LAYERS=layers, **small)
    for row in content["layers"].values():
        for kind in ("independent", "static"):
            assert len(row["as it is"][kind]["rows_ms"]) == 3
            assert row["AVX2"][kind]["chosen"][0] == "rows", "nothing fires"
        assert (row["AVX2"]["kernels"], row["AVX2"]["products"]) == ("avx2", "avx2")
        assert row["AVX-512 without VNNI"]["products"] != "avx512vnni"
    for over in content["choice_over_faster"].values():
        assert over["most"] >= over["mean"] >= 1.0


def test_the_density_of_a_crossover_lies_between_measured_ones(
    script: Script, monkeypatch: Patch
) -> None:
    density = script("native_density")
    monkeypatch.setattr(density, "DENSITIES", (0.0, 0.2, 0.6))
    assert density.crossover([1.0, 2.0, 4.0], [3.0, 3.0, 3.0]) == 0.4
    assert density.crossover([1.0, 2.0, 4.0], [5.0, 5.0, 5.0]) is None


def test_a_choice_is_set_against_the_faster_way(script: Script) -> None:
    density = script("native_density")
    same = {"rows_ms": [1.0, 4.0], "products_ms": [2.0, 2.0], "chosen": ["rows", "rows"]}
    better = {**same, "chosen": ["rows", "products"]}
    assert density.regret([{"independent": same, "static": better}])["most"] == 2.0
    assert density.regret([{"independent": better, "static": better}]) == {"mean": 1.0, "most": 1.0}


def test_native_arm(run: Run, model: SViT, script: Script) -> None:
    arm = script("native_arm")
    if any(shutil.which(tool) is None for tool in arm.TOOLS):
        pytest.skip("there is no cross compiler or emulator")
    outcome = SimpleNamespace(cpu="cortex-a72", to_dict=lambda: {"instruction_ratio": 5.0})
    settings: list[Any] = []

    def verified(path: Path, arm: Any, progress: Any) -> list[Any]:
        assert (path / "model.svit").is_file() and (path / "model.onnx").is_file()
        settings.append(arm)
        return [outcome]

    content = run(
        "native_arm",
        ARM_IMAGES=4,
        PRECISIONS=(Precision.INT8,),
        CORES=("m7",),
        verify_on_arm=verified,
    )
    assert content["precisions"]["int8"]["cortex-a72"]["instruction_ratio"] == 5.0
    assert settings[0].images == 4 and "cortex-a76" in settings[0].cpus
    core = content["microcontrollers"]["cores"]["m7"]
    assert core["same_logits"]
    assert core["flash_bytes_without_images"] > content["microcontrollers"]["model_bytes"]


def test_bench_agreement(run: Run) -> None:
    quick = BenchSettings(
        batches=(1,), seconds=0.1, rounds=5, warmup_seconds=0.1, power_seconds=0.0
    )
    content = run("bench_agreement", REPETITIONS=1, RUNS=3, SETTINGS=quick)
    measured = [(row["artifact"], row["threads"]) for row in content["rows"]]
    assert measured == [("fp32", 1), ("fp32", 2), ("int8", 1), ("int8", 2)]
    for row in content["rows"]:
        assert row["ratio_least"] == row["ratio"] == row["ratio_most"], "of one repetition"
        assert row["ratio"] == pytest.approx(row["bench_ms"] / row["perf_test_ms"], rel=1e-2)
        assert 0.1 < row["ratio"] < 10.0


def test_memory_layout(run: Run, model: SViT, script: Script) -> None:

    def in_this_process(part: str, instructions: str) -> Any:
        return getattr(script("memory_layout"), part)()

    content = run(
        "memory_layout",
        SIZES=(8,),
        CHANNELS=(16,),
        WAYS={"channels-last, subsampled": ("--subsampled",)},
        ROUNDS=2,
        WARMUP=1,
        THREADS=1,
        IMAGES=4,
        BATCHES=2,
        INSTRUCTIONS=("DEFAULT",),
        LAYOUTS=("contiguous", "channels-last"),
        in_own_process=in_this_process,
        networks=lambda: {"tiny": (model.module, (4, 3, 16, 16))},
    )
    (fault,) = content["fault"]["DEFAULT"]
    assert fault["size"] == 8 and fault["channels-last, subsampled, 1 threads"] < 1e-5
    speed = content["speed"]["DEFAULT"]["tiny"]
    assert speed["batch"] == 4
    assert speed["training_step"]["contiguous"]["times_as_fast"] == 1.0
    assert speed["evaluation"]["channels-last"]["seconds"] > 0.0
    first, second = content["gradients"]["DEFAULT"]["batches"]
    assert first != second, "of other images"
    for way in first.values():
        assert way["spikes"] > 1000
        assert way["spikes_given"] < 1e-4, "with the same spikes, rounding alone"
        assert way["as_it_comes"] < 1.0


def test_memory_layout_sees_other_spikes(model: SViT, splits: DataSet, script: Script) -> None:
    layout = script("memory_layout")
    assert splits.train is not None
    x = torch.from_numpy(splits.train.inputs(0, 4))
    labels = torch.from_numpy(splits.train.labels[:4])
    recorded = layout.RecordedSpikes()
    options = layout.StepOptions(double=True)
    own = layout.step_gradients(model.module, x, labels, options, recorded)
    first = next(iter(recorded.spikes))
    recorded.spikes[first] = 1.0 - recorded.spikes[first]
    imposed = layout.ImposedSpikes(recorded.spikes)
    other = layout.step_gradients(model.module, x, labels, options, imposed)
    assert imposed.flips >= recorded.spikes[first].numel()
    assert layout.distance(other, own) > 1e-2


def test_strided_pointwise(
    script: Script, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    strided = script("strided_pointwise")
    x, weight = torch.randn(2, 3, 8, 8).double(), torch.randn(4, 3, 1, 1).double()
    outputs = torch.einsum("oc,nchw->nohw", weight[..., 0, 0], x[..., ::2, ::2])
    right = torch.einsum("nohw,nchw->oc", outputs, x[..., ::2, ::2])[..., None, None]
    for subsampled in (False, True):
        torch.testing.assert_close(strided.gradient(x, weight, subsampled=subsampled), right)
    line = ["strided_pointwise.py", "4", "16", "--layout", "contiguous_format"]
    monkeypatch.setattr(sys, "argv", line)
    strided.main()
    assert 0.0 < float(capsys.readouterr().out) < 1e-5, "float32 against float64"


def test_tables_follow_the_results(script: Script, tmp_path: Path, monkeypatch: Patch) -> None:
    tables = script("tables")
    results = tmp_path / "results"
    shutil.copytree(BENCHMARKS / "results", results)
    saving = json.loads((results / "saving.json").read_text())
    saving["points"][0]["file_bytes"] = 123_456_789
    (results / "saving.json").write_text(json.dumps(saving))
    page = tmp_path / "policies.md"
    shutil.copy(tables.ROOT / "docs" / "policies.md", page)
    before = page.read_text()
    monkeypatch.setattr(tables, "RESULTS", results)
    monkeypatch.setattr(tables, "texts", lambda: [page])
    tables.main()
    after = page.read_text()
    assert "123.46 MB" not in before and "123.46 MB" in after
    changed = [
        pair
        for pair in zip(before.splitlines(), after.splitlines(), strict=True)
        if len(set(pair)) > 1
    ]
    assert len(changed) == 1, "the row of that build, and nothing else"


def test_run_makes_every_result_and_then_the_tables(script: Script, monkeypatch: Patch) -> None:
    everything = script("run")
    made: list[str] = []

    def noted(command: list[str], *, check: bool) -> None:
        assert command[0] == sys.executable and check
        assert Path(command[1]).is_file()
        made.append(Path(command[1]).stem)

    monkeypatch.setattr(everything.subprocess, "run", noted)
    everything.main()
    results = {path.stem for path in (BENCHMARKS / "results").glob("*.json")}
    assert set(made) - {"tables"} == results
    assert made[-1] == "tables"


def test_anytime(run: Run, script: Script, model: SViT) -> None:
    settings = script("anytime").PRUNED
    brief = replace(settings.finetune, epochs=1, timesteps=(), batch_size=4, images=8)
    pruned = replace(
        settings, saving=10.0, search=SEARCH, finetune=brief, verify_images=8, anytime=10.0
    )
    content = run(
        "anytime",
        RUNS=6,
        WARMUP=1,
        IMAGES=5,
        CALIBRATION=16,
        SEARCH_IMAGES=60,
        HELD_OUT_IMAGES=60,
        DROPS=(20.0,),
        PRUNED=pruned,
        WITH_PRUNED=True,
        spikingjelly_model=lambda model: model.module,
        MeanOverTime=lambda network: network,
    )
    rows = content["rows"]
    fixed = {f"{kind}_T{t}" for kind in ("native", "onnx") for t in range(1, model.timesteps + 1)}
    early = {"native_anytime_20", "onnx_anytime_20", "native_pruned_anytime"}
    assert set(rows) == {"spikingjelly_eager", *fixed, *early}
    for name, row in rows.items():
        assert row["mean_ms"] > 0.0 and row["times_faster_than_eager"] > 0.0
        assert name == "spikingjelly_eager" or row["held_out"]["n"] >= 60
    assert rows["native_anytime_20"]["search_drop_points"] <= 20.0
    assert rows[f"native_T{model.timesteps}"]["drop"]["points"] == 0.0


def test_fuzz_counts_what_is_not_clean(
    script: Script, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz = script("fuzz")
    from fuzz_inputs.targets import Target, Wrong

    def take_wrongly(content: bytes) -> None:
        raise Wrong("another was taken")

    def crash(content: bytes) -> None:
        raise KeyError("images")

    uses = {"good": len, "wrong": take_wrongly, "bad": crash}
    targets = [Target(name, (b"content",), use, costly=name == "bad") for name, use in uses.items()]
    killed = {"kind": "killed builds", "cases": 9, "clean": 9, "wrong": 0, "crash": 0, "seconds": 1}
    written: dict[str, Any] = {}
    monkeypatch.setattr(fuzz, "make_targets", lambda folder: targets)
    monkeypatch.setattr(fuzz, "_killed_builds", lambda: killed)
    monkeypatch.setattr(fuzz, "write", lambda name, content: written.update({name: content}))
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--cases", "40"])
    assert fuzz.main() == 1
    kinds = {row["kind"]: row for row in written["fuzz"]["kinds"]}
    counts = {name: (row["clean"], row["wrong"], row["crash"]) for name, row in kinds.items()}
    assert counts == {
        "good": (40, 0, 0), "wrong": (0, 40, 0), "bad": (0, 0, 2), "killed builds": (9, 0, 0),
    }  # fmt: skip
    assert written["fuzz"]["cases"] == 91
    table = script("tables").fuzz_table({**written["fuzz"], "machine": script("common").machine()})
    assert "| wrong | 40 | 0 | 40 | 0 |" in table and "91 cases, seed 0" in table


def test_sequential_simulation(script: Script) -> None:
    """Rules on recorded hits: the two-sided ones need a part of the images of the one before."""
    simulation = script("sequential_simulation")
    found = simulation.simulated(3.0, 1)
    assert list(found) == list(simulation.RULES)
    before, now = (found[name]["images"] for name in list(found)[:2])
    assert now < 0.6 * before
    for rule in found.values():
        assert 32 <= rule["images"] <= 1024
        assert 0 <= rule["wrong_percent"] < 10
