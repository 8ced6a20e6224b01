"""Everything that reads a file of others, as functions of bytes, with whole files to start from."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from small_models import write_model_directory

from fuzz_inputs.altered import altered_bytes, altered_json
from fuzz_inputs.samples import (
    array_files,
    frontier_files,
    image_files,
    ledger_file,
    small_bundle,
    small_model,
    stored_state,
    whole_results,
)
from primesvt_deploy.bundle.signature import check_signature
from primesvt_deploy.cli import cli
from primesvt_deploy.cli.config.show import settings_in_toml
from primesvt_deploy.data import open_data
from primesvt_deploy.data.check import check_data
from primesvt_deploy.edge.bench.comparison import compare_results, require_same_machine
from primesvt_deploy.edge.bench.results import read_results
from primesvt_deploy.edge.runtime.bundle import SIGNATURE, open_bundle
from primesvt_deploy.edge.runtime.check import check_outputs
from primesvt_deploy.edge.runtime.checked_json import parse_json
from primesvt_deploy.edge.runtime.frames import FrameSteps, read_frames
from primesvt_deploy.edge.runtime.images import decode_image
from primesvt_deploy.edge.runtime.manifest import (
    MANIFEST,
    check_figures,
    manifest_digest,
    read_manifest,
)
from primesvt_deploy.edge.runtime.predict import Classifier
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.errors import BundleError, DeployError
from primesvt_deploy.model.load import load
from primesvt_deploy.model.locate import KnownModel
from primesvt_deploy.model.peek import peek
from primesvt_deploy.pipeline.frontier_files import KnownFrontier
from primesvt_deploy.pruning.search.ledger import Ledger
from primesvt_deploy.report.bundle_report import render_report
from primesvt_deploy.report.content import REPORT_CONTENT, encode_content, read_content
from primesvt_deploy.report.read import check_shown, read_plan

__all__ = ["Target", "Wrong", "make_targets"]

Alter = Callable[[bytes, Any], bytes]


class Wrong(Exception):
    """Something altered was taken for the real thing."""


@dataclass(frozen=True)
class Target:
    """One kind of file, and what reads it.

    Args:
        name: of the kind.
        seeds: whole files.
        use: reads a file of this content; raises DeployError where it refuses it, and Wrong where
            it took for the real thing what is not.
        alter: makes another file of one, with a `random.Random`.
        costly: takes a process, so fewer cases are worth their time.
    """

    name: str
    seeds: tuple[bytes, ...]
    use: Callable[[bytes], object]
    alter: Alter = altered_bytes
    costly: bool = False


def make_targets(folder: Path) -> tuple[Target, ...]:
    """All targets; their files lie in an empty folder."""
    bundle, public_key = small_bundle(folder / "bundle")
    return (
        *_bundle_targets(bundle, public_key),
        *_checkpoint_targets(folder),
        *_data_targets(folder),
        *_json_targets(folder),
        _report_target(bundle, folder / "report.json"),
        _page_target(bundle, folder / "page"),
        _settings_target(folder / "settings.toml"),
    )


def _bundle_targets(bundle: Path, public_key: Path) -> Sequence[Target]:
    names = sorted([*open_bundle(bundle).manifest["files"], MANIFEST])
    whole = {name: (bundle / name).read_bytes() for name in names}
    signature = (bundle / SIGNATURE).read_bytes()
    manifest = open_bundle(bundle).manifest

    def put(name: str, content: bytes) -> None:
        (bundle / name).write_bytes(content)

    def any_file(content: bytes) -> None:
        name, altered = names[content[0] % len(names) if content else 0], content[1:]
        put(name, altered)
        try:
            found = open_bundle(bundle)
        finally:
            put(name, whole[name])
        # Blanks between the tokens of a manifest say nothing.
        if altered != whole[name] and (name != MANIFEST or found.manifest != manifest):
            raise Wrong(f"{name} was altered and the bundle opened")

    def any_file_run_py(content: bytes) -> None:
        name, altered = names[content[0] % len(names) if content else 0], content[1:]
        put(name, altered)
        try:
            ended = subprocess.run(
                [sys.executable, str(bundle / "run.py"), "/dev/null"],
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
        finally:
            put(name, whole[name])
        if name == "run.py":  # it cannot check itself
            return
        lines = [line for line in ended.stderr.splitlines() if not line.startswith("note: ")]
        if ended.returncode != 2 or len(lines) != 1 or not lines[0].startswith("error: "):
            raise AssertionError(f"run.py ended with {ended.returncode}: {ended.stderr[-300:]}")
        if altered != whole[name] and "/dev/null" in lines[0] and name != MANIFEST:
            raise Wrong(f"{name} was altered and run.py went on")

    def forged_manifest(content: bytes) -> None:
        try:
            forged = json.loads(content)
            forged["manifest_sha256"] = manifest_digest(forged)
            content = json.dumps(forged).encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass  # as it is
        put(MANIFEST, content)
        try:
            check_figures(open_bundle(bundle).manifest)
            Classifier(bundle, threads=1)
            load(bundle)
        finally:
            put(MANIFEST, whole[MANIFEST])

    def forged(name: str, use: Callable[[Path], object]) -> Callable[[bytes], None]:
        def body(content: bytes) -> None:
            put(name, content)
            entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            listed = {**manifest, "files": {**manifest["files"], name: entry}}
            listed["manifest_sha256"] = manifest_digest(listed)
            put(MANIFEST, json.dumps(listed).encode())
            try:
                use(bundle)
            finally:
                put(name, whole[name])
                put(MANIFEST, whole[MANIFEST])

        return body

    def altered_signature(content: bytes) -> None:
        put(SIGNATURE, content)
        try:
            check_signature(bundle, public_key)
        finally:
            put(SIGNATURE, signature)
        if _signed(content) != _signed(signature):
            raise Wrong("another signature was taken")

    each = tuple(bytes([number]) + whole[name] for number, name in enumerate(names))
    return (
        Target("a bundle's files", each, any_file, _behind_first(altered_bytes)),
        Target(
            "a bundle's files, read by run.py",
            tuple(seed for seed in each if names[seed[0]].startswith(("runtime/", MANIFEST))),
            any_file_run_py,
            _behind_first(altered_bytes),
            costly=True,
        ),
        Target("forged manifests", (whole[MANIFEST],), forged_manifest, altered_json),
        Target("forged session.json", (whole["session.json"],),
               forged("session.json", lambda b: Classifier(b, threads=1)), altered_json),
        Target("forged check.npz", (whole["check.npz"],), forged("check.npz", check_outputs)),
        Target("forged weights", (whole["weights.safetensors"],),
               forged("weights.safetensors", load)),
        Target("signatures", (signature,), altered_signature),
    )  # fmt: skip


def _signed(content: bytes) -> Any:
    """What of a signature counts: the payload, and the first signature's bytes."""
    try:
        envelope = json.loads(content)["dsseEnvelope"]
        return [
            base64.b64decode(text)
            for text in (envelope["payload"], envelope["signatures"][0]["sig"])
        ]
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def _behind_first(alter: Alter) -> Alter:
    """The first byte stays: it says which file the others are."""
    return lambda content, random: content[:1] + alter(content[1:], random)


def _refusal(check: Callable[[], object]) -> DeployError | None:
    """Why a check refuses a file; None: it does not."""
    try:
        check()
    except DeployError as error:
        return error
    return None


def _checkpoint_targets(folder: Path) -> Sequence[Target]:
    model = small_model()
    state = model.module.state_dict()
    directories = {name: folder / name for name in ("model.pth", "model.safetensors")}
    for name, directory in directories.items():
        description = write_model_directory(directory, model) / "model.toml"
        text = description.read_text().replace("weights.safetensors", name)
        description.write_text(text)

    def use(name: str, *, exact: bool) -> Callable[[bytes], None]:
        def body(content: bytes) -> None:
            (directories[name] / name).write_bytes(content)
            refused = _refusal(lambda: peek(directories[name] / name))
            found = load(directories[name]).module.state_dict()
            if refused is not None:
                raise Wrong(f"a checkpoint that can be loaded was refused: {refused}")
            if exact and not all(torch.equal(found[key], state[key]) for key in state):
                raise Wrong("another model was loaded from altered bytes")

        return body

    return (
        Target("zip .pth", (stored_state(state, "zip"),), use("model.pth", exact=True)),
        Target("legacy .pth", (stored_state(state, "legacy"),), use("model.pth", exact=False)),
        Target(
            "safetensors",
            (stored_state(state, "safetensors"),),
            use("model.safetensors", exact=False),
        ),
    )


def _data_targets(folder: Path) -> Sequence[Target]:
    steps = Preprocessing(16, 16, 16, "bilinear", (0.5,) * 3, (0.25,) * 3)
    frame_steps = FrameSteps(3, 2, 8, 8)
    model = small_model()
    known = KnownModel(name="tiny", labels=model.labels, preprocessing=model.preprocessing)

    def image(content: bytes) -> None:
        found = steps.apply(decode_image(content, upright=True))
        if found.shape != (3, 16, 16) or not np.isfinite(found).all():
            raise Wrong(f"an image became {found.shape}")

    def frames(content: bytes) -> None:
        (folder / "frames.npz").write_bytes(content)
        frame_steps.apply(read_frames(folder / "frames.npz"))

    def data_set(content: bytes) -> None:
        (folder / "data.npz").write_bytes(content)
        refused = _refusal(lambda: check_data(folder / "data.npz", known))
        found = open_data(model, folder / "data.npz")
        if refused is not None:
            raise Wrong(f"data that can be opened were refused: {refused}")
        found.search.inputs(0, 2)

    of_frames, of_data = array_files()
    return (
        Target("images", image_files(), image),
        Target("event frames", of_frames, frames),
        Target("data sets", of_data, data_set),
    )


def _json_targets(folder: Path) -> Sequence[Target]:
    results = whole_results()
    reference = folder / "reference.json"
    reference.write_bytes(results)
    first = read_results(reference)

    def result(content: bytes) -> None:
        (folder / "result.json").write_bytes(content)
        found = read_results(folder / "result.json")
        require_same_machine({"a": first, "b": found})
        for one, other in ((found, first), (first, found), (found, found)):
            compared = compare_results(one, other)
            json.dumps([each.to_dict() for each in compared], allow_nan=False)

    def ledger(content: bytes) -> None:
        path = folder / "ledger.jsonl"
        path.write_bytes(content)
        for candidate in Ledger(path):
            json.dumps([candidate.drop.points, candidate.accuracy.percent], allow_nan=False)
            if not 0 <= candidate.correct <= candidate.n or not candidate.plan:
                raise Wrong(f"a candidate has {candidate.correct} of {candidate.n}")

    known = frontier_files(folder / "frontier")

    def frontier(content: bytes) -> None:
        (folder / "frontier" / "frontier.json").write_bytes(content)
        KnownFrontier.read(folder / "frontier").search  # noqa: B018  # it may refuse

    return (
        Target("results of bench", (results,), result, altered_json),
        Target("ledgers", (ledger_file(),), ledger, _one_line_altered),
        Target("frontiers", (known,), frontier, altered_json),
    )


def _report_target(bundle: Path, path: Path) -> Target:
    def content_of_report(content: bytes) -> None:
        path.write_bytes(content)
        found = read_content(path)
        path.write_bytes(encode_content(found))
        if read_content(path) != found:
            raise Wrong("what was read is not what is written again")

    whole = (bundle / REPORT_CONTENT).read_bytes()
    return Target("contents of reports", (whole,), content_of_report, altered_json)


def _page_target(bundle: Path, folder: Path) -> Target:
    """Pages of bundles whose manifest, plan and content are altered, and listed as they are."""
    folder.mkdir()
    names = (MANIFEST, "plan.json", REPORT_CONTENT)

    def page(content: bytes) -> None:
        try:
            manifest, plan, found = (parse_json(content)[name] for name in names)
            manifest["manifest_sha256"] = manifest_digest(manifest)
        except (LookupError, TypeError, ValueError):
            raise BundleError("these are no parts of a bundle") from None
        for name, part in zip(names, (manifest, plan, found), strict=True):
            (folder / name).write_text(json.dumps(part))
        manifest = read_manifest(folder)
        check_shown(manifest, folder)
        shown = read_plan(folder / "plan.json"), read_content(folder / REPORT_CONTENT)
        if not render_report(manifest, *shown).startswith("<!DOCTYPE html>"):
            raise Wrong("this is no page")

    whole = json.dumps({name: json.loads((bundle / name).read_text()) for name in names})
    return Target("pages of reports", (whole.encode(),), page, altered_json, costly=True)


def _settings_target(path: Path) -> Target:
    def settings(content: bytes) -> None:
        path.write_bytes(content)
        shown = _shown_settings(path)
        path.write_text(shown)
        if _shown_settings(path) != shown:
            raise Wrong("settings are others when they are read again")

    whole = (
        b'seed = 3\nmodel = "tiny"\n[build]\nbudget-mb = 4.2\nrates = [0.2, 0.5]\n'
        b'max-drop = "off"\noutput = "../b"\nforce = true\nimages = true\nignore = ["head"]\n'
        b'[bench]\nthreads = [1, 2]\nprofile = ["all"]\n[run]\ntop = 3\n'
    )
    return Target("settings", (whole,), settings)


def _shown_settings(path: Path) -> str:
    words = ["--config", str(path), "--show-config"]
    with cli.commands["build"].make_context("build", words, parent=click.Context(cli)) as context:
        return settings_in_toml(context)


def _one_line_altered(content: bytes, random: Any) -> bytes:
    """A ledger with one line altered as JSON, or altered anywhere."""
    lines = content.split(b"\n")
    if random.random() < 0.3 or len(lines) < 2:
        return altered_bytes(content, random)
    number = random.randrange(len(lines) - 1)
    lines[number] = altered_json(lines[number], random)
    return b"\n".join(lines)
