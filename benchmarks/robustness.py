"""Robustness curves of the reference model: what is lost when one layer alone is pruned.

    python benchmarks/robustness.py

On `common.MEASURED`, with the paper's settings (L2 norm, no recovery) and with recovery, on search
images: what the policies see. `tools/draw_documentation.py` draws them.
"""

from __future__ import annotations

from common import MEASURED, write

from primesvt_deploy import SearchSettings, analyze, load, open_data

SETTINGS = {"bare": SearchSettings(recover=()), "recovered": SearchSettings()}


def main() -> None:
    """Measure the curves and write `results/robustness.json`."""
    model = load(MEASURED)
    data = open_data(model)
    found = {name: analyze(model, settings, data=data) for name, settings in SETTINGS.items()}
    write(
        "robustness",
        {
            "model": model.name,
            "data": data.name,
            "images": SETTINGS["bare"].robustness_images,
            "max_drop_points": SETTINGS["bare"].max_drop,
            "dense": found["bare"].dense.to_dict(),
            "layers": {name: [c.to_dict() for c in one.curves] for name, one in found.items()},
            "firing_rates": [layer.to_dict() for layer in found["bare"].firing],
        },
    )


if __name__ == "__main__":
    main()
