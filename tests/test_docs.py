"""Code in the documents is run, or says why not; what they name exists; the site builds."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from documents import PAGES, ROOT, Block, blocks, commands, write_stand_ins
from small_models import enliven, primesvt

from primesvt_deploy import adopt, frontier
from primesvt_deploy.cli import cli
from primesvt_deploy.families.recording import KEEPS_CHANNELS
from primesvt_deploy.model import reference_models
from primesvt_deploy.pruning.group_check import prunable_groups
from primesvt_deploy.settings import SearchSettings

SHELL, PYTHON = ("sh",), ("python",)
PROGRAM = "primesvt-deploy"
_FEWER = {"--search-images": "50", "--robustness-images": "50", "--rates": "0.5", "--threads": "1"}
SHORTER = {
    "bench": {"--seconds": "0.1", "--rounds": "5", "--warmup": "0.1", "--batches": "1"},
    "build": {**_FEWER, "--held-out-images": "50", "--train-images": "32", "--max-drop": "off"},
    "frontier": {**_FEWER, "--savings": "20"},
    "analyze": _FEWER,
}
"""Options of a command that have it take less time, added where a page does not give them."""
ENDS = {"--help", "--show-config", "--dry-run"}
"""Options with which a command writes nothing."""
UNTRAINED = (0, 1)
"""Exit codes of a build: the stand-ins are untrained, and a constraint may not be met."""
ALL = [block for page in PAGES for block in blocks(page)]


def test_code_stands_in_fences_that_name_a_language() -> None:
    for page in PAGES:
        text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.S)
        assert not re.search(r"\n\n {4}(?![-*\d ])", text), f"{page}: an indented block"
    for block in ALL:
        assert block.language in (*SHELL, *PYTHON, "text", "toml", "yaml", "c"), block.place


def test_what_is_not_run_says_which_test_covers_it_or_what_it_needs() -> None:
    for block in ALL:
        for path in re.findall(r"tests/[\w/.-]+", block.reason):
            assert (ROOT / path).exists(), f"{block.place}: {path}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_commands_of_the_program(page: str) -> None:
    for block in blocks(page):
        if block.language not in SHELL:
            continue
        for words in commands(block):
            if words[0] == PROGRAM and "--help" not in words:
                parse(_without_redirection(words)[0][1:], block)


def parse(words: list[str], block: Block) -> None:
    """Parse a command as click does, without running it."""
    name, *arguments = words
    context = click.Context(cli, info_name=PROGRAM)
    if name.startswith("-"):
        assert any(name in option.opts for option in cli.params), block.place
        return
    if "--config" in arguments:  # a file that is made when the page is run
        at = arguments.index("--config")
        del arguments[at : at + 2]
    command = cli.get_command(context, name)
    assert command is not None, f"{block.place}: there is no command {name}"
    try:
        command.make_context(name, arguments, parent=context)
    except click.UsageError as error:
        raise AssertionError(f"{block.place}: {error.format_message()}") from error


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with stand-ins for the files that pages name, shared by all of them."""
    directory = tmp_path_factory.mktemp("documents")
    models = write_stand_ins(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference_models, "_CHECKOUT", models)
        patch.syspath_prepend(str(directory))
        yield directory


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(not block.reason for block in blocks(page))]
)
def test_the_code_of_a_page_runs(page: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for name, value in {"rates": (0.5,), "search_images": 50, "robustness_images": 50}.items():
        monkeypatch.setitem(SearchSettings.__init__.__kwdefaults__, name, value)
    monkeypatch.setitem(inspect.unwrap(frontier).__kwdefaults__, "savings", (20.0,))
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        if block.reason:
            continue
        if block.language in PYTHON:
            run_python(block, names, place)
        elif block.language in SHELL:
            for words in commands(block):
                run_shell(words, block, place)


def run_python(block: Block, names: dict[str, object], place: Path) -> None:
    """Run a block; one that begins with a file's name is written to that file, too."""
    file = re.match(r"# (\w+\.py)\n", block.text)
    if file:
        (place / file[1]).write_text(block.text)
    exec(compile(block.text, block.place, "exec"), names)
    if file and "Net" in names:
        import torch

        net = names["Net"]
        assert callable(net)
        torch.save(enliven(net()).state_dict(), place / "w.pth")


_done: set[tuple[str, ...]] = set()


def run_shell(words: list[str], block: Block, place: Path) -> None:
    """Run a command; one that an earlier page has run already made what it makes."""
    words, output = _without_redirection(words)
    if words[0] == "python":
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=place, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block.place}: {done.stderr}"
        return
    assert words[0] == PROGRAM, f"{block.place}: {words[0]} is run by no test: say why not"
    if tuple(words) in _done:
        return
    _done.add(tuple(words))
    builds = words[1] == "build" and not ENDS.intersection(words)
    made = place / (words[words.index("--output") + 1] if "--output" in words else "bundle")
    if builds and "--force" not in words and made.is_dir():
        shutil.rmtree(made)
    ended = primesvt(*shortened(words[1:]), cwd=place)
    allowed = UNTRAINED if builds else (0,)
    assert ended.returncode in allowed, f"{block.place}: {ended.stderr}"
    if builds:
        assert (made / "manifest.json").is_file(), block.place
    if output:
        (place / output).write_text(ended.stdout)


def shortened(words: list[str]) -> list[str]:
    """A command that takes less time."""
    options = dict(SHORTER.get(words[0], {}))
    if "--frontier" in words:  # it decided most of them
        options = {"--threads": "1", "--held-out-images": "50"}
    if "--finetune" not in words:
        options.pop("--train-images", None)
    if ENDS.intersection(words):
        options = {}
    added = ((name, value) for name, value in options.items() if name not in words)
    return [*words, *(word for pair in added for word in pair)]


def _without_redirection(words: list[str]) -> tuple[list[str], str]:
    """Words, and the file that standard output goes to."""
    if ">" in words:
        at = words.index(">")
        return words[:at], words[at + 1]
    return words, ""


def test_the_model_of_the_page_on_ones_own_model_is_wholly_prunable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = [b.text for b in blocks("docs/your-own-model.md") if b.language in PYTHON]
    (tmp_path / "page.py").write_text("\n".join(code))
    monkeypatch.syspath_prepend(str(tmp_path))
    page = importlib.import_module("page")
    try:
        found = prunable_groups(adopt(enliven(page.Net()), image_size=16))
        assert {group.name for group in found.groups} == {"stem.conv and 1 more", "fc1.conv"}
        assert not found.left
        assert getattr(page.SortedTokens, KEEPS_CHANNELS) is True
    finally:
        del sys.modules["page"]


def test_messages_that_are_explained_are_messages_of_the_program() -> None:
    said = messages()
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = re.findall(r"^\| `(.+?)` \|", page, re.M)
    assert len(rows) >= 30
    for row in rows:
        parts = [part.strip(" ()") for part in row.split("...")]
        assert any(all(part in text for part in parts) for text in said), row


def messages() -> list[str]:
    """Every text in the package, with `{}` for what is put into it."""
    found = []
    for path in (ROOT / "primesvt_deploy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_the_page_on_commands_lists_each_of_them() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    listed = re.findall(r"^\| `([\w-]+)` \|", text, re.M)
    assert set(cli.list_commands(click.Context(cli))) <= set(listed)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning of mkdocs, such as a link that leads nowhere, is an error."""
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", directory],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.slow
def test_the_site_has_every_option_and_every_public_name(site: Path) -> None:
    import primesvt_deploy

    commands_page = (site / "commands.html").read_text()
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[0] in commands_page, f"{name} {parameter.opts[0]}"
    api = (site / "api.html").read_text()
    for name in set(primesvt_deploy.__all__) - {"__version__"}:
        assert f'id="primesvt_deploy.{name}"' in api, name


@pytest.mark.slow
def test_the_site_fetches_nothing(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text()
        fetched = re.findall(r'(?:src|<link [^>]*href)="(?:https?:)?//[^"]+"', text)
        assert not fetched, f"{page.name}: {fetched[0]}"
        assert "::: " not in text and "<!-- api" not in text, page.name
        for picture in re.findall(r'<img [^>]*src="([^"]+)"', text):
            assert (site / picture).is_file(), f"{page.name}: {picture}"
