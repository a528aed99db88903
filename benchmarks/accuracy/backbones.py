"""Every detector that reads features, and the default, on eight networks with features of different kinds.

    python -m benchmarks.accuracy.backbones [NETWORK ...] [--shared ../shared] [--cache FOLDER] [--limit N] [--json]

All are fitted as they come, on training data; fused ones are compared on held-out ID data, as `oodline fit` does.
OOD data is read in the last step alone, in which AUROC is measured.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks.accuracy.as_it_comes import IMAGES, TEXT, Known, open_network
from benchmarks.studies.default_members import held_out, rows_of
from cyclopts import App
from numpy.typing import NDArray
from torch import Tensor

from oodline import Fuse
from oodline.cli.options import Json, print_json
from oodline.detectors.base import Detector
from oodline.detectors.catalog import CATALOG, create_detector, detector_class
from oodline.errors import OodlineError
from oodline.evaluation.bootstrap import Bootstrap
from oodline.evaluation.metrics import auroc
from oodline.evaluation.rendering import markdown
from oodline.model.activations import Activations
from oodline.statistics import Backbone

RESAMPLES = Bootstrap(resamples=500)
UNSEEN = {"line": "dense", "soft-line": "dense"}
"""What becomes of a class without an image; the others leave it out, where they can."""

MORE = {
    "mahalanobis++": "mahalanobis,normalise=1.0",
    "relative-mahalanobis++": "relative-mahalanobis,normalise=1.0",
    "vim++": "vim,normalise=1.0",
}
"""Settings that are methods of their own."""

app = App()


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores of every detector on one network, by set; the groups of its OOD sets; what its features are like."""

    scores: Mapping[str, Mapping[str, Tensor]]
    groups: Mapping[str, Sequence[str]]
    backbone: Backbone

    def areas(self, detector: str) -> dict[str, float]:
        """AUROC in % by group."""
        s = self.scores[detector]
        return {g: float(np.mean([100 * auroc(s["test"], s[k]) for k in keys])) for g, keys in self.groups.items()}

    def mean(self, detector: str) -> float:
        """Mean over near and far, in %."""
        return float(np.mean(list(self.areas(detector).values())))

    def resampled(self, detector: str) -> NDArray[np.float64]:
        """The same mean of every resample; the same resamples for every detector."""
        s = self.scores[detector]
        drawn = RESAMPLES.resample(s["test"].numpy(), {k: v.numpy() for k, v in s.items() if k != "test"})
        means = [np.mean([100 * drawn[k]["auroc"] for k in keys], axis=0) for keys in self.groups.values()]
        found: NDArray[np.float64] = np.mean(means, axis=0)
        return found

    def gain(self, one: str, other: str) -> str:
        """By how much one detector's mean is above another's, with its 95 % interval."""
        found = RESAMPLES.interval(self.resampled(one) - self.resampled(other))
        return f"{self.mean(one) - self.mean(other):+.2f} [{found.low:+.1f}, {found.high:+.1f}]"


def reference_of(name: str) -> str:
    """The detector as it comes, but for classes without an image."""
    if "unseen" in inspect.signature(detector_class(name)).parameters:
        return f"{name},unseen={UNSEEN.get(name, 'skip')}"
    return name


def measure(name: str, known: Known, reference: Activations) -> Measured:
    """Fit every detector that reads features, and score all sets."""
    activations, labels = known.sets["fit"]
    head = known.classifier.head
    sets = {key: found for key, (found, _) in known.sets.items() if key != "fit"}
    if name in TEXT:  # there, half of the test queries are the reference
        even = torch.arange(len(reference)) % 2 == 0
        reference, sets["test"] = (rows_of(reference, torch.nonzero(h).flatten()) for h in (even, ~even))
    every = {each: create_detector(reference_of(each)) for each in CATALOG}
    every |= {each: create_detector(text + ",unseen=skip" * ("maha" in text)) for each, text in MORE.items()}
    scores: dict[str, dict[str, Tensor]] = {}
    profile = fill(Backbone.statistics(), activations, labels)
    for each, detector in every.items():
        if detector.needs_network:
            continue
        try:
            detector._settle(fill(detector._requests(head), activations, labels), head)
            with torch.no_grad():
                if isinstance(detector, Fuse):
                    detector._take_scale([detector.member_scores(reference)])
                scores[each] = {key: scored(detector, found) for key, found in sets.items()}
        except OodlineError:
            continue
    backbone = Backbone.of(profile, head)
    assert backbone is not None
    return Measured(scores, known.groups, backbone)


def fill(statistics: dict, activations: Activations, labels: Tensor) -> dict:
    """The statistics, filled from activations."""
    for rows in torch.arange(len(labels)).split(500):
        for statistic in statistics.values():
            statistic.update(rows_of(activations, rows), labels[rows])
    return statistics


def scored(detector: Detector, activations: Activations) -> Tensor:
    """Scores of a set."""
    parts = [detector(rows_of(activations, rows)) for rows in torch.arange(len(activations)).split(250)]
    return torch.cat(parts).double()


def kind(found: Measured) -> str:
    """The kind of network, for the ranks."""
    few = found.backbone.per_class * found.backbone.classes < 2 * found.backbone.features
    return "few images" if few else found.backbone.kind


@app.default
def main(
    *names: str, shared: Path = Path("../shared"), cache: Path | None = None, limit: int = 1000, as_json: Json = False
) -> None:
    """Fit, score and print.

    Parameters
    ----------
    names
        Networks; all if omitted.
    shared
        Folder with `data`.
    cache
        Folder for the networks' features.
    limit
        Test samples at most.
    as_json
        Print one JSON document in place of the tables.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, Measured] = {}
    for name in names or (*IMAGES, *TEXT):
        data = shared / "data"
        known = open_network(name, data, cache, limit)
        found[name] = measure(name, known, held_out(name, known, data, cache))
    if as_json:
        print_json({name: {d: m.areas(d) for d in m.scores} for name, m in found.items()})
        return
    print("\n".join([*summary(found), "", *ranks(found), "", *everything(found)]))


def summary(found: Mapping[str, Measured]) -> list[str]:
    """The default and band-energy on each network, beside what they are to be compared with."""
    rows, networks = [], []
    for name, m in found.items():
        single = max((d for d in m.scores if d != "fuse"), key=m.mean)
        cells = [" / ".join(f"{value:.2f}" for value in m.areas(d).values()) for d in ("fuse", single)]
        band = " / ".join(f"{value:.2f}" for value in m.areas("band-energy").values())
        gains = [m.gain("fuse", single), m.gain("fuse", "msp")]
        own = [m.gain("band-energy", "energy"), m.gain("band-energy", "line") if "line" in m.scores else ""]
        rows.append([name, cells[0], f"{single} {cells[1]}", *gains, band, *own])
        networks.append([name, m.backbone.summary])
    titles = ["network", "default near / far", "best single", "default - it", "default - MSP"]
    titles += ["band-energy near / far", "- energy", "- LINe"]
    return [*markdown(["network", "its features"], networks), "", *markdown(titles, rows)]


def ranks(found: Mapping[str, Measured]) -> list[str]:
    """Mean rank of every detector among all, by kind of network; the ten first of each kind."""
    kinds: dict[str, list[Measured]] = {}
    for m in found.values():
        kinds.setdefault(kind(m), []).append(m)
    rows = []
    for each, networks in kinds.items():
        common = [d for d in networks[0].scores if all(d in m.scores for m in networks)]
        places = {d: np.mean([1 + sum(m.mean(o) > m.mean(d) for o in m.scores) for m in networks]) for d in common}
        first = sorted(places, key=lambda d, p=places: p[d])[:10]
        rows.append([f"{each} ({len(networks)})", ", ".join(f"{d} {places[d]:.1f}" for d in first)])
    return markdown(["features (networks)", "mean rank"], rows)


def everything(found: Mapping[str, Measured]) -> list[str]:
    """Near / far AUROC of every detector on every network, the best in the mean first."""
    names = {d: None for m in found.values() for d in m.scores}

    def mean(d: str) -> float:
        return float(np.mean([m.mean(d) if d in m.scores else 50.0 for m in found.values()]))

    rows = []
    for d in sorted(names, key=mean, reverse=True):
        cells = [" / ".join(f"{v:.1f}" for v in m.areas(d).values()) if d in m.scores else "" for m in found.values()]
        rows.append(["default (fuse)" if d == "fuse" else d, *cells])
    return markdown(["detector", *found], rows)


if __name__ == "__main__":
    app()
