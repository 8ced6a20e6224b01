"""Mistakes that can be known are told before torch is imported, and before anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families.vectors import vector

BUILD = ("build", "--budget-mb", "4")
BARE = ("--checkpoint", "bare.safetensors")
OWN = ("--image-size", "16", "--data", "d.npz")
TOLD = ("--timesteps", "4", "--heads", "2", "--image-size", "16")
DATA = ("--data", "d.npz")

MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    # Where the bundle goes.
    "output exists": ((*BUILD, "--output", "there"), "--force to replace a bundle"),
    "output is a file": ((*BUILD, "--output", "d.npz"), "d.npz is not a directory"),
    "output in a file": ((*BUILD, "--output", "d.npz/b"), "d.npz is not a directory"),
    "output is no bundle": ((*BUILD, "--output", "there", "--force"), "holds what no build wrote"),
    "output in no disk": ((*BUILD, "--output", "/proc/b"), "cannot write at /proc/b.work"),
    "work of another": ((*BUILD, "--output", "taken"), "taken.work exists and is not a build's"),
    # The model.
    "unknown model": (
        (*BUILD, "--model", "spikformer-2-192-cifar"),
        "no model 'spikformer-2-192-cifar', the nearest is spikformer-2-192-cifar10: expected a",
    ),
    "no model directory": ((*BUILD, "--model", "photos"), "neither model.toml nor manifest.json"),
    "described": ((*BUILD, "--heads", "3"), "comes with its own description: drop --heads"),
    "no checkpoint": ((*BUILD, "--checkpoint", "none.pth"), "no checkpoint file at none.pth"),
    "empty": ((*BUILD, "--checkpoint", "empty.pth"), "empty.pth is empty"),
    "web page": ((*BUILD, "--checkpoint", "page.pth"), "no checkpoint of safetensors or torch but"),
    "data as weights": (
        (*BUILD, "--checkpoint", "d.npz"),
        "is it the data set? Pass that as --data",
    ),
    "all that is missing": (
        (*BUILD, *BARE),
        "bare.safetensors: the number of timesteps, the image size and the number of heads cannot "
        "be read from the weights, and a checkpoint comes with no data: pass --timesteps, "
        "--image-size, --heads and --data, an ImageFolder directory or .npz",
    ),
    "of torch's own": (
        (*BUILD, "--checkpoint", "bare.pth", "--timesteps", "4", "--data", "d.npz"),
        "bare.pth: the image size and the number of heads cannot be read from the weights: pass",
    ),
    "frontier's": (("frontier", *BARE), "pass --timesteps, --image-size, --heads and --data"),
    "analyze's": (("analyze", *BARE, "--heads", "2"), "pass --timesteps, --image-size and --data"),
    "no family's": (
        (*BUILD, "--checkpoint", "vgg.safetensors", *TOLD, *DATA),
        "vgg.safetensors: its keys (classifier.0.bias, classifier.0.weight, features.0.bias, ...) "
        "are those of no known family (",
    ),
    "unknown family": (
        (*BUILD, *BARE, "--family", "spikformr"),
        "unknown family 'spikformr', the nearest is spikformer: expected one of",
    ),
    "timesteps": ((*BUILD, *BARE, "--timesteps", "0"), "--timesteps is 0: expected a whole number"),
    "heads": ((*BUILD, *BARE, "--heads", "-1"), "--heads is -1: expected a whole number"),
    "stage heads": ((*BUILD, *BARE, "--stage-heads", "3,0"), "--stage-heads has 0"),
    "tau": ((*BUILD, *BARE, "--tau", "nan"), "--tau: found 'nan', expected a number"),
    "pooling": ((*BUILD, *BARE, "--pooling", "2"), "--pooling is '2': expected a digit"),
    "mean": ((*BUILD, *BARE, "--mean", "1,2"), "--mean has 2 numbers"),
    "resize": ((*BUILD, *BARE, "--resize", "8", "--image-size", "16"), "at least height and width"),
    "interpolation": ((*BUILD, *BARE, "--interpolation", "cubic"), "bilinear or bicubic"),
    "sha256": ((*BUILD, *BARE, "--sha256", "a"), "expected 64 hexadecimal digits"),
    "labels": ((*BUILD, *BARE, "--labels", "none.txt"), "--labels: cannot read none.txt"),
    "no labels": ((*BUILD, *BARE, "--labels", "empty.pth"), "--labels: the file is empty"),
    "two choices": ((*BUILD, *BARE, "--ema", "--key", "a"), "drop --ema"),
    # A class of the user's own.
    "factory's form": ((*BUILD, "--factory", "nets"), "expected MODULE:FUNCTION"),
    "factory's file": (
        (*BUILD, *OWN, "--factory", "nets.py:make"),
        "expected the name of a module, not of a file: pass nets:make",
    ),
    "factory's module": ((*BUILD, *OWN, "--factory", "nots:make"), "there is no module 'nots'"),
    "factory's function": (
        (*BUILD, *OWN, "--factory", "nets:made"),
        "nets.py has no 'made': it has make",
    ),
    "factory's syntax": ((*BUILD, *OWN, "--factory", "torn:make"), "torn.py, line 1: SyntaxError"),
    "factory's size": (
        (*BUILD, "--factory", "nets:make"),
        "pass --image-size and --data, an ImageFolder directory or .npz",
    ),
    "factory's data": (
        (*BUILD, "--factory", "nets:make", "--image-size", "16"),
        "nets:make comes with no data: pass --data",
    ),
    "factory of another": (
        (*BUILD, "--model", "spikformer-2-192-cifar10", "--factory", "nets:make"),
        "drop --fac",
    ),
    # The data.
    "no data": ((*BUILD, "--data", "nowhere"), "no data at nowhere"),
    "text as data": ((*BUILD, "--data", "labels.txt"), "neither a directory of class folders nor"),
    "other classes": ((*BUILD, "--data", "photos"), "classes that spikformer-2-192-cifar10-12epo"),
    "a class without images": (
        (*BUILD, *BARE, *TOLD, "--data", "photos", "--labels", "labels.txt"),
        "photos/bee: no image in it, expected files ending with",
    ),
    "train alone": ((*BUILD, "--data", "alone"), "has train/ and none of val/"),
    "no classes": ((*BUILD, "--data", "there"), "has no class directories"),
    "no arrays": ((*BUILD, *BARE, *TOLD, "--data", "other.npz"), "has no images with labels"),
    "no zip": ((*BUILD, "--data", "torn.npz"), "torn.npz is not a complete .npz"),
    "nothing to train on": (
        (*BUILD, *BARE, *TOLD, *DATA, "--finetune", "1"),
        "d.npz has no images to train on: --finetune needs some; pass an ImageFolder with train/",
    ),
    "nothing to refit on": (
        (*BUILD, *BARE, *TOLD, *DATA, "--recover", "all,head"),
        "d.npz has no images to train on: --recover head needs some",
    ),
    "other size": (
        (*BUILD, "--data", "d.npz"),
        "images is [4, 16, 16, 3], expected [n, 32, 32, 3]",
    ),
    # Settings, frontier and key.
    "held-out images": ((*BUILD, "--held-out-images", "0"), "held-out images are 0: expected 1"),
    "threads": (("analyze", "--threads", "-1"), "threads are -1"),
    "too many threads": ((*BUILD, "--threads", "9999999999"), "expected 0 (automatic) to 1024"),
    "run's threads": (("run", "there", "a.png", "--threads", "-1"), "threads are -1"),
    "too many in run": (("run", "there", "a.png", "--threads", "9999999999"), "to 1024"),
    "too many in verify": (("verify", "there", "--threads", "1025"), "to 1024; change --threads"),
    "too many in frontier": (("frontier", "--threads", "1025"), "to 1024"),
    "too large a batch": ((*BUILD, "--batch", "99999999999"), "expected 1 to 65536"),
    "empty path of data": ((*BUILD, "--data", ""), "--data is empty: expected a path"),
    "empty path of the bundle": ((*BUILD, "--output", ""), "--output is empty: expected a path"),
    "empty path of settings": ((*BUILD, "--config", ""), "--config is empty: expected a path"),
    "empty path in settings": ((*BUILD, "--config", "empty.toml"), "--data is empty: expected a"),
    "empty name": ((*BUILD, "--model", ""), "--model is empty: expected a name"),
    "unknown home": ((*BUILD, "--config", "home.toml"), "no home directory of ~nobody-here"),
    "device": (
        (*BUILD, "--device", "tpu"),
        "device is 'tpu': expected cpu, cuda",
    ),
    "verify's device": (("verify", "there", "--device", "gpu"), "device is 'gpu': expected cpu"),
    "no CUDA": ((*BUILD, "--device", "cuda"), "device is cuda: there is no CUDA device here"),
    "none to verify on": (
        ("verify", "there", "--device", "cuda:1"),
        "device is cuda:1: there is no CUDA device here",
    ),
    "workers": (("frontier", "--workers", "0"), "workers are 0: expected 1 to"),
    "empty cluster": (("analyze", "--ray", ""), "address of the Ray cluster is ''"),
    "closed cluster": (
        ("analyze", "--ray", "127.0.0.1:1"),
        "no Ray cluster answers at 127.0.0.1:1 (connection refused)",
    ),
    "idle workers": (
        (*BUILD, "--workers", "70", "--search-images", "60"),
        "there are 70 workers for 60 search images: expected one image a worker",
    ),
    "idle workers of an analysis": (
        ("analyze", "--workers", "70", "--search-images", "60"),
        "there are 70 workers for 60 search images",
    ),
    "epochs": (
        (*BUILD, "--finetune", "1", "--finetune-timesteps", "1,4"),
        "2 timesteps are given for 1 epoch: one an epoch at most",
    ),
    "more timesteps": (
        (*BUILD, "--ship-timesteps", "9"),
        "ship timesteps are 9: expected 1 to 4, what spikformer-2-192-cifar10",
    ),
    "more than are told": (
        (*BUILD, *BARE, *TOLD, *DATA, "--ship-timesteps", "5"),
        "expected 1 to 4, what bare was",
    ),
    "nothing to ignore": ((*BUILD, "--ignore", ""), "ignore is empty"),
    "no frontier": ((*BUILD, "--frontier", "there"), "there holds no frontier"),
    "key": ((*BUILD, "--sign", "none.pem"), "--sign: no key can be read at none.pem"),
    "text as key": ((*BUILD, "--sign", "labels.txt"), "is no private key of an elliptic curve"),
    "savings": (("frontier", "--savings", "0,10"), "savings are [0.0, 10.0]"),
    "frontier's T": (("frontier", "--ship-timesteps", "0"), "ship timesteps are [0]"),
    "frontier's images": (("frontier", "--held-out-images", "0"), "held-out images are 0"),
    "frontier's place": (("frontier", "--output", "there"), "is not empty and holds no frontier"),
    "frontier's file": (("frontier", "--output", "d.npz"), "d.npz is a file"),
}

PROGRAM = """
import contextlib, io, json, os, sys
from primesvt_deploy.cli import main

def run(arguments):
    out, err, before = io.StringIO(), io.StringIO(), "torch" in sys.modules
    sys.argv = ["primesvt-deploy", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(),
            "torch": "torch" in sys.modules and not before}

print(json.dumps({name: run(arguments) for name, arguments in json.load(sys.stdin).items()}))
"""


def write_header(path: Path, keys: list[str]) -> None:
    """A safetensors file of these tensors, of one number each."""
    entries = {
        key: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i, key in enumerate(keys)
    }
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4 * len(keys)))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each mistake is told, all in one process."""
    import torch

    place = tmp_path_factory.mktemp("mistakes")
    state = vector("spikformer_cifar")["state_dict"]
    write_header(place / "bare.safetensors", list(state))
    layers = (*(f"features.{i}" for i in range(9)), "classifier.0")
    write_header(
        place / "vgg.safetensors", [f"{n}.{p}" for n in layers for p in ("weight", "bias")]
    )
    torch.save({"module." + key: tensor for key, tensor in state.items()}, place / "bare.pth")
    (place / "empty.pth").touch()
    (place / "page.pth").write_text("<!doctype html>")
    (place / "labels.txt").write_text("ant\nbee\n")
    (place / "nets.py").write_text("def make(): ...\n")
    (place / "empty.toml").write_text("[build]\ndata = ''\n")
    (place / "home.toml").write_text("[build]\ndata = '~nobody-here/d.npz'\n")
    (place / "torn.py").write_text("def make(:\n")
    (place / "torn.npz").write_bytes(b"PK\x03\x04")
    np.savez(place / "d.npz", images=np.zeros((4, 16, 16, 3), np.uint8), labels=np.zeros(4, int))
    np.savez(place / "other.npz", labels=np.zeros(4, int))
    for folder in ("photos/ant", "photos/bee", "alone/train/ant", "there", "taken.work"):
        (place / folder).mkdir(parents=True)
    for file in ("photos/ant/0.png", "photos/bee/0.txt", "there/mine.txt", "taken.work/mine.txt"):
        (place / file).touch()
    before = sorted(place.rglob("*"))
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps({name: given for name, (given, _) in MISTAKES.items()}),
        capture_output=True,
        text=True,
        cwd=place,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert sorted(place.rglob("*")) == before, "nothing is written"
    found: dict[str, dict[str, Any]] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_before_torch_is_imported(
    name: str, told: dict[str, dict[str, Any]]
) -> None:
    found, said = told[name], MISTAKES[name][1]
    assert said in found["err"]
    assert found["err"].startswith("error: ") and found["err"].count("\n") == 1, found["err"]
    assert (found["code"], found["out"]) == (2, "")
    assert not found["torch"]
