"""Settings of band energy on eight networks, and fitted on one image of each class, beside energy, LINe and its kin.

python -m benchmarks.studies.band_energy [NETWORK ...] [--shared ../shared] [--cache FOLDER] [--limit N] [--json]
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from benchmarks.accuracy.as_it_comes import IMAGES, TEXT, Known, open_network
from benchmarks.accuracy.backbones import fill, scored
from benchmarks.studies.default_members import fitted_on_few
from cyclopts import App

from oodline.cli.options import Json, print_json
from oodline.detectors.catalog import create_detector
from oodline.evaluation.metrics import auroc
from oodline.evaluation.rendering import markdown

VARIANTS = {
    "energy": "energy",
    "line": "line,unseen=dense",
    "itp": "itp",
    "cadref": "cadref",
    "bats": "bats",
    "band-energy": "band-energy",
    "missing 0": "band-energy,missing=0.0",
    "missing 0.25": "band-energy,missing=0.25",
    "missing 1": "band-energy,missing=1.0",
    "width 0.7": "band-energy,width=0.7",
    "width 1.5": "band-energy,width=1.5",
    "width 2": "band-energy,width=2.0",
    "strength 0.3": "band-energy,strength=0.3",
    "strength 1": "band-energy,strength=1.0",
    "strength 2": "band-energy,strength=2.0",
}
"""Nearest known methods, and band energy with one setting changed."""

app = App()


@app.default
def main(
    *names: str, shared: Path = Path("../shared"), cache: Path | None = None, limit: int = 1000, as_json: Json = False
) -> None:
    """Fit, score and print AUROC near / far in %.

    Parameters
    ----------
    names
        Networks, NAME@K to fit on K images of each class; all, and each on one image, if omitted.
    shared
        Folder with `data`.
    cache
        Folder for the networks' features.
    limit
        Test samples at most.
    as_json
        Print one JSON document in place of the table.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in names or (*IMAGES, *TEXT, *(f"{each}@1" for each in IMAGES if "imagenet" not in each)):
        network, _, per_class = name.partition("@")
        data = shared / "data"
        known = open_network(network, data, cache, limit)
        found[name] = areas(fitted_on_few(known, int(per_class)) if per_class else known)
    if as_json:
        print_json(found)
        return
    rows = [
        [variant, *(" / ".join(f"{v:.2f}" for v in each.get(variant, {}).values()) for each in found.values())]
        for variant in VARIANTS
    ]
    print("\n".join(markdown(["", *found], rows)))


def areas(known: Known) -> dict[str, dict[str, float]]:
    """AUROC in % by variant and group."""
    activations, labels = known.sets["fit"]
    head, found = known.classifier.head, {}
    for variant, reference in VARIANTS.items():
        detector = create_detector(reference)
        try:
            detector._settle(fill(detector._requests(head), activations, labels), head)
        except ValueError:  # ITP needs two samples of each class
            continue
        with torch.no_grad():
            scores = {k: scored(detector, each) for k, (each, _) in known.sets.items() if k != "fit"}
        found[variant] = {
            group: float(np.mean([100 * auroc(scores["test"], scores[key]) for key in keys]))
            for group, keys in known.groups.items()
        }
    return found


if __name__ == "__main__":
    app()
