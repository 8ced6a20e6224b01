from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import primesvt_deploy

PUBLIC = [
    "BuildResult", "BuildSettings", "Classifier", "ComputeSettings", "DeployError",
    "FinetuneSettings", "KnownFrontier", "SViT", "SearchSettings",
    "__version__",
    "adopt", "analyze", "build", "check_signature", "estimate", "export", "finetune", "frontier",
    "load", "load_signing_key", "open_data", "prune",
]  # fmt: skip


def test_the_public_surface_is_what_it_was_decided_to_be() -> None:
    assert primesvt_deploy.__all__ == PUBLIC
    assert all(hasattr(primesvt_deploy, name) for name in PUBLIC)


def test_no_module_takes_the_place_of_a_public_name() -> None:
    for info in pkgutil.walk_packages(primesvt_deploy.__path__, "primesvt_deploy."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
    for name in PUBLIC:
        assert not isinstance(getattr(primesvt_deploy, name), types.ModuleType), name


def test_every_module_says_what_it_offers() -> None:
    for info in pkgutil.walk_packages(primesvt_deploy.__path__, "primesvt_deploy."):
        if info.ispkg or info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        assert module.__doc__, info.name
        missing = [n for n in getattr(module, "__all__", ()) if not hasattr(module, n)]
        assert not missing, (info.name, missing)


def test_importing_the_package_does_not_import_torch() -> None:
    script = (
        "import sys, primesvt_deploy, primesvt_deploy.cli, primesvt_deploy.edge.runtime.predict\n"
        "heavy = {'torch', 'spikingjelly', 'onnx', 'torch_pruning'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_edge_install_says_what_to_install() -> None:
    """Modules of the build extra are kept from being imported, as if they were not installed."""
    script = (
        "import sys\n"
        "from primesvt_deploy.errors import BUILD_PACKAGES\n"
        "sys.modules.update(dict.fromkeys(BUILD_PACKAGES))\n"
        "import primesvt_deploy as svit\n"
        "for name in svit.__all__:\n"
        "    try:\n"
        "        getattr(svit, name)\n"
        "    except svit.DeployError as error:\n"
        "        assert isinstance(error, ImportError)\n"
        "        print(name, error, sep='\\t')\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    messages = dict(line.split("\t") for line in found.stdout.splitlines())
    there = {"BuildSettings", "Classifier", "ComputeSettings", "DeployError"}
    there |= {"FinetuneSettings", "SearchSettings"}
    there |= {"__version__", "check_signature", "load_signing_key", "open_data"}
    assert set(messages) == set(PUBLIC) - there
    for name, message in messages.items():
        assert message.startswith(f"primesvt_deploy.{name} needs "), message
        assert message.endswith(": pip install 'primesvt-deploy[build]'"), message


def test_no_committed_file_names_a_place_of_this_machine() -> None:
    root = Path(primesvt_deploy.__file__).parent.parent
    if not (root / "pyproject.toml").is_file():
        return
    for path in [*root.glob("*.md"), *(root / "primesvt_deploy").rglob("*.py")]:
        assert str(root) not in path.read_text(encoding="utf-8"), path
