"""Tables of `results/scaling.json`."""

from __future__ import annotations

from typing import Any

__all__ = ["scaling_table"]


def scaling_table(found: dict[str, Any]) -> str:
    """Workers measured here, what Ray costs, and a projection to more workers."""
    engines = found["engines"]
    alone = next(iter(engines.values()))["seconds"]
    lines = [
        "| evaluated | seconds (least to most) | images a second | against this process |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['seconds']:.1f} ({row['least_seconds']:.1f} to "
        f"{row['most_seconds']:.1f}) | {row['images_a_second']:.0f} "
        f"| {alone / row['seconds']:.2f} |"
        for name, row in engines.items()
    ]
    return "\n".join([*lines, "", _measured(found), "", *_projected(found)])


def _measured(found: dict[str, Any]) -> str:
    """What was measured, and what a call costs."""
    row, ray, machine = next(iter(found["engines"].values())), found["messages"], found["machine"]
    once = ray["once"]
    return (
        f"{row['candidates']} candidates of `{found['model']}` that do not depend on one another "
        f"({row['images']:,} images in all), medians of {found['rounds']} rounds in turns; "
        f"{'all ledgers are equal' if found['ledgers_equal'] else 'LEDGERS DIFFER'}. The workers "
        f"share {machine['cores']} cores, all of which this process has for itself otherwise. "
        f"A call to two workers and back takes {ray['median_ms']:.1f} ms (median of "
        f"{ray['calls']}; 95%: {ray['p95_ms']:.1f} ms); a candidate is {ray['request_bytes']:,} "
        f"bytes, the logits of a chunk of {ray['images_of_a_chunk']} images are "
        f"{ray['logits_bytes']:,}. Once: the model {once['model_bytes'] / 1e6:.1f} MB, statistics "
        f"of the calibration {once['moments_bytes'] / 1e6:.1f} MB, {once['image_bytes']:,} bytes "
        f"an image. {machine['cpu']}, Ray {found['ray']}, PyTorch {machine['torch']}."
    )


def _projected(found: dict[str, Any]) -> list[str]:
    """The projection, by number of workers."""
    large, projection = found["large"], found["projection"]
    lines = [
        "| **projection**, workers | s a candidate | of it evaluation | recovery | messages "
        "| hours | images of the fullest shard | its states, GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for workers, row in projection["workers"].items():
        share = row["share"]
        fits = "" if row["states_fit"] else " (do not fit)"
        lines.append(
            f"| {workers} | {row['seconds_a_candidate']:,.0f} | {share['evaluation']:.0%} "
            f"| {share['recovery']:.0%} | {share['messages']:.1%} | {row['hours']:,.1f} "
            f"| {row['shard_images']:,} | {row['shard_states_gb']:,.0f}{fits} |"
        )
    note = (
        f"Not measured: {projection['candidates']} candidates of {large['name']} (224 pixels, "
        f"T = 4), each on all {projection['images']:,} images, one after another, by workers of "
        f"one core each, from {large['seconds_an_image']:.2f} s an image measured here on one core "
        "with random weights. It is the worst case: most candidates are decided on some hundred "
        "images, and those that do not depend on one another run side by side. What bounds it: "
        "recovery, which each worker does by itself on 64 images, and the fullest shard; states "
        "of prefixes do not fit a worker's 4 GB before there are hundreds of workers; the "
        "driver's queue does not count."
    )
    return [*lines, "", note]
