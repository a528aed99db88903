"""A finished run with images, in which every name that is free to be anything is an attack on a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodline import testing
from oodline.evaluation.benchmark import run_protocol
from oodline.evaluation.protocol import parse_protocol
from oodline.evaluation.run import Run

EVIL = "<script>window.bad = 1</script>"
EVIL_CLASS = "<img src=x onerror='window.bad=1'>"
"""A class is a folder here, whose name has no slash."""
EVIL_LABEL = '"><script>window.bad++&amp;{{ 7*7 }}'
SETS = ("train", "held-out", "test", "shifted", "near", "far")


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Run:
    """Three classes of noise; two detectors, a calibration set, a shifted ID set, a near and a far OOD set."""
    folder = tmp_path_factory.mktemp("report")
    for seed, name in enumerate(SETS):
        testing.toy_images(folder / name, count=40, seed=seed)
        (folder / name / "images" / "0").rename(folder / name / "images" / EVIL_CLASS)
    path = {name: {"data": str(folder / name / "images"), "name": name} for name in SETS}
    protocol = parse_protocol(
        {
            "name": f"{EVIL} & co",
            "classifier": {"model": f"python:{Path(testing.__file__)}:toy_network", "preprocessing": {}},
            "fit": path["train"],
            "calibration": path["held-out"],
            "test": path["test"],
            "csid": [path["shifted"]],
            "ood": [{**path["near"], "group": EVIL}, {**path["far"], "group": "far", "source": EVIL}],
            "detectors": ["energy", f"{EVIL_LABEL}=knn,k=5", "too-many=knn,k=5000"],
            "batch_size": 20,
            "tpr": 0.9,
        }
    )
    return run_protocol(protocol, folder / "run", cache=folder / "cache", device="cpu")
