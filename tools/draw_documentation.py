"""Draw the pictures of the documentation, `docs/images/*.svg`.

    python tools/draw_documentation.py

Curves are those of `benchmarks/results/`; schemes are drawn from the lists in this file.
`tests/tools/test_draw_documentation.py` holds the pictures to their sources.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from svg_parts import box, line, picture, text

from primesvt_deploy.edge.whole_file import write_whole

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
COLOURS = {
    "greedy": "#0072b2",
    "prioritized": "#d55e00",
    "uniform": "#009e73",
    "global-l2": "#cc79a7",
}
PAPER = (26.68, 3.0)
"""Percent saved and points lost, as the paper reports them."""
HEAT = ((0.5, "#dceef8"), (1.5, "#f7f3d7"), (3.0, "#fbe0b0"), (10.0, "#f4b183"), (101.0, "#d9795f"))
"""Most points lost, and the colour of a cell up to that."""
STAGES = (
    ("load", "a checkpoint,\na module, a name"),
    ("groups", "channels that\nleave together"),
    ("robustness", "each layer\npruned alone"),
    ("plan", "which channels\nstay"),
    ("recover, cut", "what stays makes\nup for what left"),
    ("quantize", "8 or 4 bits,\nif asked for"),
    ("export", "ONNX, or a file\nfor the C engine"),
    ("verify", "every spike against\nthe model"),
    ("bundle", "artifact, report,\nrun.py"),
)
"""Stages of a build for a reader, in two rows."""


def results(name: str) -> Any:
    """Content of a result file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def accuracy_and_size() -> str:
    """Accuracy against size by policy, recovered, with the paper's point."""
    found = results("frontier")
    series = [s for s in found["series"] if s["recovery"] == "all" and s["policy"] in COLOURS]
    left, top, width, height, most = 70.0, 40.0, 560.0, 250.0, 20.0

    def at(saved: float, lost: float) -> tuple[float, float]:
        return left + width * saved / 90.0, top + height * (lost + 1.0) / (most + 1.0)

    def parts() -> Iterator[str]:
        yield text(left, 22, "Top-1 against the dense model, points; no retraining", "title")
        for lost in range(0, int(most) + 1, 5):
            yield line([at(0, lost), at(90, lost)], "grid")
            yield text(left - 8, at(0, lost)[1] + 4, f"-{lost}" if lost else "0", "small", "end")
        for saved in range(0, 91, 10):
            x, y = at(saved, most)
            yield text(x, y + 18, f"{saved}%", "small", "middle")
        yield text(left + width / 2, top + height + 38, "of the weights' bytes saved", "", "middle")
        for one in series:
            colour = COLOURS[one["policy"]]
            points = [
                (p["saved_percent"], p["drop"]["points"])
                for p in sorted(one["points"], key=lambda p: p["saved_percent"])
                if p["met"] and p["drop"]["points"] <= most
            ]
            places = [at(*point) for point in [(0.0, 0.0), *points]]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            yield f'<polyline fill="none" stroke="{colour}" stroke-width="2.2" points="{path}"/>'
            for x, y in places[1:]:
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
        for i, (policy, colour) in enumerate(COLOURS.items()):
            x, y = left + width + 20, top + 20 + 20 * i
            yield f'<rect x="{x:.1f}" y="{y - 9}" width="14" height="4" fill="{colour}"/>'
            yield text(left + width + 40, y - 3, policy)
        x, y = at(*PAPER)
        yield f'<path d="{_star(x, y)}" fill="#1b2430"/>'
        yield f'<path d="{_star(left + width + 27, top + 99)}" fill="#1b2430"/>'
        yield text(left + width + 40, top + 104, "the paper's point")
        yield text(
            left,
            top + height + 60,
            f"{found['model']}, held-out images, recovery without gradients",
            "small",
        )

    return picture(790, 360, "Accuracy lost at each size, by pruning policy", parts())


def _star(x: float, y: float) -> str:
    """Outline of a small star."""
    shape = (
        (0, -7),
        (2, -2),
        (7, -2),
        (3, 1),
        (4.5, 6),
        (0, 3),
        (-4.5, 6),
        (-3, 1),
        (-7, -2),
        (-2, -2),
    )
    return "M" + " L".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shape) + " z"


def robustness() -> str:
    """Heat maps of points lost by layer and rate, bare and recovered."""
    found = results("robustness")
    cell, row, left, gap = 40.0, 22.0, 176.0, 40.0
    names = {"bare": "as the paper has it", "recovered": "with recovery"}
    layers = len(found["layers"]["bare"])
    height = 96 + row * layers + 46

    def parts() -> Iterator[str]:
        yield text(12, 24, "Points lost when one layer alone is pruned", "title")
        for i, (kind, title) in enumerate(names.items()):
            x0 = left + i * (9 * cell + gap)
            yield text(x0, 50, title, "name")
            for j, curve in enumerate(found["layers"][kind]):
                y = 78 + row * j
                if i == 0:
                    share = f"{curve['size'] / 1e3:.0f} k"
                    yield text(12, y + 15, curve["layer"])
                    yield text(left - 8, y + 15, share, "small", "end")
                for k, point in enumerate(curve["curve"]):
                    yield from _cell(x0 + k * cell, y, cell, row, point["drop_points"])
            for k, point in enumerate(found["layers"][kind][0]["curve"]):
                middle = x0 + (k + 0.5) * cell
                yield text(middle, 70, f"{point['rate']:.0%}", "small", "middle")
        yield text(
            12,
            height - 34,
            "Layers from the largest to the smallest, with the parameters that leave with all "
            "their channels; columns: share of channels removed.",
            "small",
        )
        yield text(
            12,
            height - 16,
            f"{found['model']}, {found['images']} search images a point at most; a point that is "
            "hopeless after fewer is given up.",
            "small",
        )

    width = int(left + 18 * cell + gap + 14)
    return picture(width, int(height), "Robustness of each layer at each pruning rate", parts())


def _cell(x: float, y: float, width: float, height: float, lost: float) -> Iterator[str]:
    colour = next(colour for most, colour in HEAT if lost <= most)
    yield (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 2:.1f}" height="{height - 2:.1f}" '
        f'fill="{colour}"/>'
    )
    shown = f"{lost:.0f}" if lost >= 10 else f"{lost:.1f}"
    yield text(x + width / 2 - 1, y + height / 2 + 3, shown, "cell", "middle")


def pipeline() -> str:
    """The stages of a build."""
    width, height, gap = 132.0, 66.0, 24.0
    first = 5

    def parts() -> Iterator[str]:
        for i, (name, what) in enumerate(STAGES):
            down, across = divmod(i, first)
            x, y = 16 + across * (width + gap), 16 + down * (height + 40)
            yield box(x, y, width, height, "once" if name == "bundle" else "box")
            yield text(x + width / 2, y + 21, name, "name", "middle")
            for j, part in enumerate(what.split("\n")):
                yield text(x + width / 2, y + 38 + 14 * j, part, "small", "middle")
            middle = y + height / 2
            if i == first - 1:
                end, low = 16 + width / 2, y + height + 20
                path = [(x + width / 2, y + height), (x + width / 2, low), (end, low)]
                yield line([*path, (end, y + height + 39)], tip=True)
            elif i + 1 < len(STAGES):
                yield line([(x + width, middle), (x + width + gap - 1, middle)], tip=True)

    total = int(32 + first * width + (first - 1) * gap)
    return picture(total, int(72 + 2 * height), "From a checkpoint to a bundle", parts())


def groups() -> str:
    """Which channels of a block leave together."""
    rows = (
        ("stem.2", ("convolution", "norm", "neuron"), "the next convolution's inputs"),
        ("residual", ("stem's last", "projections", "fc2 of MLPs"), "q, k, v, fc1, head: inputs"),
        ("attn.qk", ("q", "k"), "multiplied channel by channel"),
        ("attn.v", ("v",), "the projection's inputs"),
        ("mlp", ("fc1", "norm", "neuron"), "fc2's inputs"),
    )
    titles = ("group", "outputs that lose a channel", "and with it")

    def parts() -> Iterator[str]:
        for x, title in zip((16, 130, 500), titles, strict=True):
            yield text(x, 26, title, "small")
        for i, (name, members, consumers) in enumerate(rows):
            y = 40.0 + 46 * i
            yield text(16, y + 22, name, "name")
            for j, member in enumerate(members):
                x = 130 + j * 116.0
                yield box(x, y, 104, 34)
                yield text(x + 52, y + 22, member, "", "middle")
            yield line([(130 + 116.0 * len(members) - 8, y + 17), (492, y + 17)], tip=True)
            yield box(496, y, 236, 34, "gone")
            yield text(614, y + 22, consumers, "", "middle")

    return picture(748, 40 + 46 * len(rows) + 10, "Groups of channels in a Spikformer", parts())


def masking() -> str:
    """What of a network runs again for a candidate."""
    names = ("stem", "block 0", "block 1: q, k", "block 1: MLP", "head")
    pruned = 2
    width, gap = 128.0, 20.0

    def parts() -> Iterator[str]:
        for i, name in enumerate(names):
            x = 16 + i * (width + gap)
            kind = "once" if i < pruned else "gone" if i == pruned else "box"
            yield box(x, 40, width, 48, kind)
            yield text(x + width / 2, 69, name, "name", "middle")
            if i + 1 < len(names):
                yield line([(x + width, 64), (x + width + gap - 1, 64)], tip=True)
        middle = 16 + pruned * (width + gap) + width / 2
        behind = 16 + (pruned + 1) * (width + gap)
        yield text(16, 24, "computed once, and kept", "small")
        yield text(middle, 24, "channels switched off", "small", "middle")
        yield text(behind, 24, "computed again for each candidate", "small")
        yield text(16, 116, "A channel whose neurons never fire gives the next layer nothing: the")
        yield text(16, 134, "logits are those of the network without it, so nothing is cut to try.")

    total = int(32 + len(names) * width + (len(names) - 1) * gap)
    return picture(total, 150, "A candidate is tried by masking channels", parts())


def neuron() -> str:
    """Membrane of a LIF neuron over four timesteps, and the integers that its layer adds."""
    weights, inputs = (6, -2, 9, 4), ((1, 0, 1, 0), (0, 1, 1, 0), (1, 0, 0, 1), (1, 0, 1, 1))
    scale, tau, threshold = 2.0**-3, 2.0, 1.0
    sums = [sum(w * s for w, s in zip(weights, spikes, strict=True)) for spikes in inputs]
    width, left, base, unit = 120.0, 190.0, 246.0, 80.0

    def parts() -> Iterator[str]:
        yield text(16, 26, "Spikes select weights, and the sum is a whole number", "title")
        yield text(16, 186, "membrane", "name")
        yield text(16, 202, f"tau = {tau:g}, threshold = {threshold:g}", "small")
        height = base - unit * threshold
        yield line([(left, height), (left + 4 * width, height)], "threshold")
        yield line([(left, base), (left + 4 * width, base)], "grid")
        membrane, path = 0.0, [(left, base)]
        for i, total in enumerate(sums):
            x = left + i * width
            chosen = [w for w, s in zip(weights, inputs[i], strict=True) if s]
            said = " + ".join(f"({w})" if w < 0 else str(w) for w in chosen)
            yield text(x + width / 2, 54, f"t = {i + 1}", "name", "middle")
            yield text(x + width / 2, 76, "spikes " + " ".join(map(str, inputs[i])), "", "middle")
            yield text(x + width / 2, 96, f"{said} = {total}", "", "middle")
            yield text(x + width / 2, 114, f"current {total * scale:g}", "small", "middle")
            membrane += (total * scale - membrane) / tau
            path.append((x + width / 2, base - unit * membrane))
            if membrane >= threshold:
                yield line([(x + width / 2, height - 12), (x + width / 2, height - 34)], "spike")
                membrane = 0.0
                path.append((x + width / 2, base))
        yield line(path, "membrane")
        yield text(16, 60, f"weights {' '.join(map(str, weights))}", "name")
        yield text(16, 78, f"times {scale:g}, a power of two", "small")
        yield text(
            16,
            276,
            "Such sums are exact in float32, in any order: equal input spikes give equal output "
            "spikes on every machine.",
            "small",
        )

    return picture(690, 290, "A spiking neuron over four timesteps", parts())


PICTURES: dict[str, Callable[[], str]] = {
    "accuracy-and-size": accuracy_and_size,
    "groups": groups,
    "masking": masking,
    "neuron": neuron,
    "pipeline": pipeline,
    "robustness": robustness,
}


def main() -> None:
    """Write the pictures."""
    IMAGES.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        write_whole(IMAGES / f"{name}.svg", draw())


if __name__ == "__main__":
    main()
