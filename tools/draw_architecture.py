"""Draw `docs/architecture.svg` from the code: the stages of a build, and what each package imports.

    python tools/draw_architecture.py

Stages and their results are read from the functions that call them; packages, imports and the order
of layers from the package and `pyproject.toml`. `tests/tools/test_draw_architecture.py` holds the
picture to the code.
"""

from __future__ import annotations

import ast
import functools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import ascii_lowercase

from primesvt_deploy.edge.whole_file import write_whole

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "primesvt_deploy"
PICTURE = ROOT / "docs" / "architecture.svg"

ENTRY = ("pipeline/build.py", "build")
EXPANDED = {
    "make_variant": ("pipeline/variant.py", "_pruned"),
    "ship": ("pipeline/ship.py", "ship"),
    "export_onnx": ("lowering/passes.py", "lower_to_graph"),
}
"""Stages whose own steps are shown, and the function that calls these."""
EVERYWHERE = {"errors", "progress", "settings", "version"}
"""Modules that most packages import: no arrows."""


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline.

    Args:
        name: the function that does it.
        file: where that function is, below the package.
        result: type of what it returns; empty for none.
        depth: of the function that calls it, below `build`.
    """

    name: str
    file: str
    result: str
    depth: int


def stages(
    file: str = ENTRY[0], function: str = ENTRY[1], depth: int = 0, parent: str = ""
) -> Iterator[Stage]:
    """The stages that a function calls, in order, each followed by its own if it is expanded.

    Args:
        file: of the function, below the package.
        function: its name.
        depth: of the function below `build`.
        parent: type of what the function returns; a call that returns it only puts it together.
    """
    seen: set[str] = set()
    for name, home, target in _calls(file, function):
        result = _result(home, name)
        private = name.startswith("_") and not (result[:1].isupper() and result != parent)
        if private or (target or name) in seen:
            continue
        seen.add(target or name)
        yield Stage(name, home, result, depth)
        if name in EXPANDED:
            yield from stages(*EXPANDED[name], depth + 1, result)


def layers() -> list[list[str]]:
    """Packages and modules by layer, the highest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = next(c for c in project["tool"]["importlinter"]["contracts"] if c.get("containers"))
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def imports() -> dict[str, set[str]]:
    """The packages that each package imports, without those it imports through another one.

    Those that everything may use are left out.
    """
    names = {name for layer in layers() for name in layer} - EVERYWHERE
    found: dict[str, set[str]] = {}
    for name in names:
        path = PACKAGE / name
        files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
        found[name] = {m for file in files for m in _packages(ast.parse(file.read_text()))}
        found[name] &= names - {name}

    @functools.cache
    def below(name: str) -> frozenset[str]:
        return frozenset().union(*({other} | below(other) for other in found[name]))

    return {
        name: {o for o in others if not any(o in below(p) for p in others - {o})}
        for name, others in found.items()
    }


def subpackages(name: str) -> list[str]:
    """Names of the packages in a package."""
    folders = (PACKAGE / name).glob("*/__init__.py")
    return sorted(file.parent.name for file in folders)


@functools.cache
def _tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text())


def _function(tree: ast.Module, name: str) -> ast.FunctionDef:
    """The function or method of that name."""
    return next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)


def _homes(file: str) -> dict[str, str]:
    """The file of each function and class that a module defines, or imports from this package."""
    found = {}
    for node in _tree(file).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = file
        elif isinstance(node, ast.ImportFrom) and node.module:
            home = node.module.removeprefix(PACKAGE.name + ".").replace(".", "/") + ".py"
            if (PACKAGE / home).is_file():
                found |= {alias.name: home for alias in node.names}
    return found


def _calls(file: str, function: str) -> list[tuple[str, str, str]]:
    """Calls whose results are named, or that stand alone: function, its file, the result's name.

    Of methods, those of context managers count, such as `workspace.place(...)`.
    """
    homes, found = _homes(file), []
    opened: dict[str, str] = {}
    for node in ast.walk(_function(_tree(file), function)):
        if isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            made = ast.unparse(node.context_expr).partition("(")[0]
            opened[node.optional_vars.id] = homes.get(made, "")
        if not isinstance(node, ast.Assign | ast.Expr):
            continue
        value = node.value
        if isinstance(value, ast.ListComp):
            value = value.elt
        if isinstance(value, ast.IfExp):
            value = value.body
        if not isinstance(value, ast.Call):
            continue
        is_pass = isinstance(value.func, ast.Call)  # `Pass(...)(graph)`
        function_node = value.func.func if isinstance(value.func, ast.Call) else value.func
        owner, _, name = ast.unparse(function_node).rpartition(".")
        home = opened.get(owner, "") if owner else homes.get(name, "")
        if home and (is_pass or name[0] in ascii_lowercase + "_"):
            target = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ""
            found.append((node.lineno, name, home, target))
    return [call[1:] for call in sorted(found)]


def _result(file: str, name: str) -> str:
    """Type of a function's result, without module and None; empty for a class."""
    if any(isinstance(n, ast.ClassDef) and n.name == name for n in _tree(file).body):
        return ""
    returns = _function(_tree(file), name).returns
    text = "" if returns is None else ast.unparse(returns).removesuffix(" | None")
    return "" if text == "None" else text


def _packages(tree: ast.Module) -> Iterator[str]:
    """The packages and modules at the top that a file imports, here or in its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == PACKAGE.name:
                yield rest.partition(".")[0]


WIDTH, MARGIN, TOP = 1240, 24, 84
STAGE_WIDTH, STAGE_HEIGHT, STAGE_GAP, INDENT = 450, 34, 6, 26
LEFT, LAYER_HEIGHT, BOX_WIDTH, BOX_HEIGHT, LINE_WIDTH = 520, 74, 150, 40, 8
STYLE = """
text { font-family: Helvetica, Arial, "DejaVu Sans", sans-serif; font-size: 13px; fill: #1b2430 }
.title { font-size: 17px; font-weight: bold }
.name { font-weight: bold }
.small { font-size: 11px; fill: #56616f }
.result { font-size: 12px; fill: #0b5c8e }
rect { fill: #ffffff; stroke: #8895a5; rx: 5px }
.depth0 { fill: #e9f1f8 }
.depth1 { fill: #f2f6ea }
.depth2 { fill: #fdf4e3 }
.depth3 { fill: #f8ecf1 }
.row { fill: #f5f7f9; stroke: none }
.everywhere { fill: #eceff2 }
.edge { fill: #e6f4ea }
path { fill: none; stroke: #8a97a8; stroke-width: 1.3 }
marker path { fill: #8a97a8; stroke: none }
"""


@dataclass(frozen=True)
class _Place:
    """A box in a row, or the gap that a line to a lower row goes through.

    Args:
        name: of the package.
        row: 0 is the highest.
        box: False: a gap on the way to that package.
    """

    name: str
    row: int
    box: bool


def draw() -> str:
    """The picture, as SVG."""
    rows, listed = layers(), list(stages())
    heights = len(listed) * (STAGE_HEIGHT + STAGE_GAP), len(rows) * LAYER_HEIGHT
    height = TOP + max(heights) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="Stages of a build, and the '
        'packages by layer">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
        f'<rect x="-6" y="-6" width="{WIDTH + 12}" height="{height + 12}"/>',
        _text(MARGIN, 36, "A build, stage by stage", "title"),
        _text(
            MARGIN,
            56,
            "Functions in the order of their calls, the file of each, and what it",
            "small",
        ),
        _text(MARGIN, 70, "returns. Indented: the steps of the stage above.", "small"),
        _text(LEFT, 36, "Packages by layer", "title"),
        _text(
            LEFT,
            56,
            "A package imports only packages below it. An arrow leads to an import;",
            "small",
        ),
        _text(
            LEFT,
            70,
            "one that follows from other arrows is left out. Grey: used everywhere.",
            "small",
        ),
        *_stage_boxes(listed),
        *_layer_boxes(rows, imports()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _stage_boxes(listed: Sequence[Stage]) -> Iterator[str]:
    for i, stage in enumerate(listed):
        x, y = MARGIN + INDENT * stage.depth, TOP + i * (STAGE_HEIGHT + STAGE_GAP)
        width = STAGE_WIDTH - INDENT * stage.depth
        yield _box(x, y, width, STAGE_HEIGHT, f"depth{stage.depth}")
        yield _text(x + 10, y + 14, stage.name.lstrip("_"), "name")
        yield _text(x + 10, y + 28, stage.file, "small")
        yield _text(x + width - 10, y + 21, stage.result.lstrip("_"), "result", anchor="end")


def _layer_boxes(rows: Sequence[Sequence[str]], arrows: Mapping[str, set[str]]) -> Iterator[str]:
    links = _links(rows, arrows)
    centres = _centres(_ordered(rows, links))
    for i in range(len(rows)):
        y = TOP + i * LAYER_HEIGHT
        yield _box(LEFT, y, WIDTH - MARGIN - LEFT, LAYER_HEIGHT - 14, "row")
    for start, end in links:
        yield _line(start, end, _spread(start, end, links, centres))
    for place, x in centres.items():
        if not place.box:
            continue
        y = _upper(place)
        kind = "everywhere" if place.name in EVERYWHERE else place.name
        yield _box(x - BOX_WIDTH / 2, y, BOX_WIDTH, BOX_HEIGHT, kind)
        inner = subpackages(place.name)
        yield _text(x, y + (17 if inner else 25), place.name, "name", anchor="middle")
        yield _text(x, y + 32, ", ".join(inner), "small", anchor="middle")


def _links(
    rows: Sequence[Sequence[str]], arrows: Mapping[str, set[str]]
) -> list[tuple[_Place, _Place]]:
    """Lines from each row to the next; those to one package share their gaps."""
    row_of = {name: i for i, row in enumerate(rows) for name in row}
    found: set[tuple[_Place, _Place]] = set()
    for name, others in arrows.items():
        for other in others:
            at = _Place(name, row_of[name], box=True)
            for row in range(at.row + 1, row_of[other] + 1):
                after = _Place(other, row, box=row == row_of[other])
                found.add((at, after))
                at = after
    return sorted(found, key=lambda link: [(p.row, p.name) for p in link])


def _ordered(
    rows: Sequence[Sequence[str]], links: Sequence[tuple[_Place, _Place]]
) -> list[list[_Place]]:
    """Places by row, from left to right, each near those that it is linked to."""
    gaps = sorted({p for link in links for p in link if not p.box}, key=lambda p: p.name)
    order = [
        [*(_Place(name, i, box=True) for name in row), *(p for p in gaps if p.row == i)]
        for i, row in enumerate(rows)
    ]
    for sweep in range(16):
        ends = (1, 0) if sweep % 2 == 0 else (0, 1)
        for row in order if sweep % 2 == 0 else reversed(order):
            at = _centres(order)
            row.sort(key=functools.partial(_barycentre, links=links, ends=ends, at=at))
    return order


def _barycentre(
    place: _Place,
    *,
    links: Sequence[tuple[_Place, _Place]],
    ends: tuple[int, int],
    at: Mapping[_Place, float],
) -> float:
    """Mean position of what a place is linked to, above or below it; its own if that is nothing."""
    others = [at[link[ends[1]]] for link in links if link[ends[0]] == place]
    return sum(others) / len(others) if others else at[place]


def _centres(order: Sequence[Sequence[_Place]]) -> dict[_Place, float]:
    """Horizontal middle of every place: each row is spread over the whole width."""
    found = {}
    for row in order:
        widths = [BOX_WIDTH if place.box else LINE_WIDTH for place in row]
        gap = (WIDTH - MARGIN - LEFT - sum(widths)) / (len(row) + 1)
        x = LEFT + gap
        for place, width in zip(row, widths, strict=True):
            found[place] = x + width / 2
            x += width + gap
    return found


def _spread(
    start: _Place,
    end: _Place,
    links: Sequence[tuple[_Place, _Place]],
    centres: Mapping[_Place, float],
) -> tuple[float, float]:
    """Where a line leaves and enters: lines at one box stand side by side."""
    leaving = sorted((b for a, b in links if a == start), key=lambda p: centres[p])
    entering = sorted((a for a, b in links if b == end), key=lambda p: centres[p])
    x1, x2 = centres[start], centres[end]
    if start.box:
        x1 += BOX_WIDTH * ((leaving.index(end) + 1) / (len(leaving) + 1) - 0.5) * 0.8
    if end.box:
        x2 += BOX_WIDTH * ((entering.index(start) + 1) / (len(entering) + 1) - 0.5) * 0.8
    return x1, x2


def _line(start: _Place, end: _Place, spread: tuple[float, float]) -> str:
    """A curve from a row to the next; through a gap it goes straight on."""
    (x1, x2), y1 = spread, _upper(start) + BOX_HEIGHT
    y2 = _upper(end) - (2 if end.box else 0)
    bend = (y2 - y1) / 2
    path = f"M{x1:.0f},{y1} C{x1:.0f},{y1 + bend:.0f} {x2:.0f},{y2 - bend:.0f} {x2:.0f},{y2}"
    if end.box:
        return f'<path d="{path}" marker-end="url(#tip)"/>'
    return f'<path d="{path} V{y2 + BOX_HEIGHT}"/>'


def _upper(place: _Place) -> int:
    """Vertical position of the upper side of a place."""
    return TOP + place.row * LAYER_HEIGHT + (LAYER_HEIGHT - 14 - BOX_HEIGHT) // 2


def _box(x: float, y: float, width: float, height: float, kind: str = "") -> str:
    return (
        f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}"/>'
    )


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def main() -> None:
    """Write the picture."""
    write_whole(PICTURE, draw())


if __name__ == "__main__":
    main()
