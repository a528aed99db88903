"""Which members of the default serve which networks: every choice of up to four, by leaving one network out.

    python -m benchmarks.studies.default_members [NETWORK ...] [--shared ../shared] [--cache FOLDER] [--limit N]

Members are fitted on training data, and compared on a reference of held-out ID data, as `oodline fit` does. A choice is
judged by the AUROC of the fused score on the OOD sets of *other* networks than the one that it is reported for.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from benchmarks.accuracy.as_it_comes import IMAGES, TEXT, Known, open_network, stack
from benchmarks.studies.tune_passes import Store, open_setup
from cyclopts import App
from torch import Tensor

from oodline.cli.options import Json, print_json
from oodline.detectors.base import Detector
from oodline.detectors.catalog import create_detector
from oodline.detectors.member_rule import ENOUGH_TO_SHAPE, RECTIFIED
from oodline.detectors.member_rule import FEW as FEW_IMAGES
from oodline.detectors.member_rule import SIGNED as SIGNED_FEATURES
from oodline.detectors.parts.combining import fisher
from oodline.detectors.parts.p_values import log_p_values, scale_of
from oodline.errors import OodlineError
from oodline.evaluation.metrics import auroc
from oodline.evaluation.rendering import markdown
from oodline.model.activations import Activations
from oodline.statistics.backbone import SIGNED

POOL = {
    "msp": "msp",
    "energy": "energy",
    "gen": "gen",
    "line": "line,clip=98%,unseen=dense",
    "band-energy": "band-energy",
    "fdbd": "fdbd",
    "vim": "vim",
    "vim++": "vim,normalise=1.0",
    "mahalanobis++": "mahalanobis,normalise=1.0,unseen=skip",
    "relative-mahalanobis": "relative-mahalanobis,unseen=skip",
    "cadref": "cadref",
    "knn": "knn",
    "scale": "scale",
    "nci": "nci",
    "optfs": "optfs",
    "react": "react",
    "ora": "ora,unseen=skip",
    "ras": "ras",
}
"""Candidates, each as it comes, but for classes without an image."""

BEFORE = ("line", "gen", "fdbd", "vim")
"""The members for all networks alike, before there was a rule."""

FEW = ("densenet100_cifar10@50", "densenet100_cifar10@5", "densenet100_cifar100@1", "resnet20_cifar10@5")
"""Networks fitted on fewer images than a covariance of their features needs."""

RULE = {"rectified": RECTIFIED, "few": FEW_IMAGES, "signed": SIGNED_FEATURES}
"""What `oodline.detectors.member_rule` says."""

app = App()


def fitted_on_few(known: Known, per_class: int) -> Known:
    """The same network, with so few training images of each class."""
    activations, labels = known.sets["fit"]
    rows = torch.cat([torch.nonzero(labels == c).flatten()[:per_class] for c in labels.unique()]).sort().values
    return replace(known, sets={**known.sets, "fit": (rows_of(activations, rows), labels[rows])})


def held_out(name: str, known: Known, data: Path, cache: Path | None) -> Activations:
    """ID data that is neither fitted on nor tested on: the other half of the test queries for text."""
    if name in TEXT:
        activations, _ = known.sets["test"]
        return activations
    setup = IMAGES[name]
    classifier, load = open_setup(name, setup, data)
    path, start, stop = setup.held_out
    store = Store(cache, name, classifier.head)
    return store.activations(store.get(f"{path}.{start}.{stop}", lambda: stack(classifier, load(path, start, stop))))


def rows_of(activations: Activations, rows: Tensor) -> Activations:
    """Some samples of a set."""
    return Activations(activations.features[rows], activations.logits[rows], activations.head, rows)


def fitted(known: Known) -> dict[str, Detector]:
    """The candidates that can be fitted, in one pass."""
    activations, labels = known.sets["fit"]
    head, found = known.classifier.head, {}
    for name, reference in POOL.items():
        detector = create_detector(reference)
        wanted = detector._requests(head)
        for rows in torch.arange(len(labels)).split(500):
            for statistic in wanted.values():
                statistic.update(rows_of(activations, rows), labels[rows])
        try:
            detector._settle(wanted, head)
        except OodlineError:
            continue
        if not detector.unreliable:
            found[name] = detector
    return found


def p_values(name: str, known: Known, reference: Activations) -> tuple[dict[str, dict[str, Tensor]], str]:
    """Log p-values by set and member, and the kind of the network's features."""
    members = fitted(known)
    sets = {key: activations for key, (activations, _) in known.sets.items() if key != "fit"}
    if name in TEXT:
        halves = torch.arange(len(reference)) % 2 == 0
        reference, sets["test"] = (rows_of(reference, torch.nonzero(h).flatten()) for h in (halves, ~halves))
    found: dict[str, dict[str, Tensor]] = {key: {} for key in sets}
    with torch.no_grad():
        for member, detector in members.items():
            scale = scale_of(detector(reference).float().unsqueeze(1))
            for key, activations in sets.items():
                found[key][member] = log_p_values(detector(activations).float().unsqueeze(1), scale).squeeze(1)
    features = known.sets["fit"][0].features
    if bool((features < 0).double().mean() > SIGNED):
        return found, "signed"
    few = ENOUGH_TO_SHAPE <= len(features) < 2 * features.shape[1]
    return found, "few" if few else "rectified"


def areas(
    found: Mapping[str, Mapping[str, Tensor]], groups: Mapping[str, Sequence[str]], members: Sequence[str]
) -> dict[str, float]:
    """AUROC in % by group of OOD sets, of the members fused."""
    fused = {key: fisher(torch.stack([each[m] for m in members], 1)) for key, each in found.items()}
    return {g: float(np.mean([100 * auroc(fused["test"], fused[k]) for k in keys])) for g, keys in groups.items()}


Tables = Mapping[str, Mapping[tuple[str, ...], Mapping[str, float]]]


def in_use(known: Mapping[tuple[str, ...], object], members: Sequence[str]) -> tuple[str, ...]:
    """Those of the members that could be fitted on this network."""
    return tuple(m for m in POOL if m in members and (m,) in known)


def mean_of(tables: Tables, name: str, members: Sequence[str]) -> float:
    """Mean over near and far of the members that this network has, in %; 0 where it has none."""
    found = tables[name].get(in_use(tables[name], members))
    return float(np.mean(list(found.values()))) if found else 0.0


def best(tables: Tables, names: Sequence[str]) -> tuple[str, ...]:
    """The choice of the largest mean gain over `BEFORE`, plus the smallest one, over these networks."""
    every = {members for name in names for members in tables[name]}

    def gain(members: tuple[str, ...]) -> float:
        gains = [mean_of(tables, name, members) - mean_of(tables, name, BEFORE) for name in names]
        return float(np.mean(gains) + min(gains))

    return max(sorted(every), key=gain)


def rows(tables: Tables, kinds: Mapping[str, str]) -> list[list[str]]:
    """A line for each network: the default, before and now, the best single detector, and the choice of the others."""
    found = []
    for name, known in tables.items():
        single = max((c for c in known if len(c) == 1), key=lambda c, n=name: mean_of(tables, n, c))
        others = [other for other in tables if other != name]
        chosen = best(tables, others) if others else ()
        cells = [name, kinds[name]]
        for members in (BEFORE, RULE[kinds[name]], single, chosen, ("msp",)):
            values = known.get(in_use(known, members), {}).values()
            cells.append(" / ".join(f"{value:.2f}" for value in values))
        found.append([*cells, single[0], " + ".join(chosen)])
    return found


@app.default
def main(
    *names: str,
    shared: Path = Path("../shared"),
    cache: Path | None = None,
    limit: int = 1000,
    most: int = 4,
    as_json: Json = False,
) -> None:
    """Score, choose and print.

    Parameters
    ----------
    names
        Networks, NAME@K to fit on K images of each class; all, and `FEW`, if omitted.
    shared
        Folder with `data`.
    cache
        Folder for the networks' features.
    limit
        Test samples at most.
    most
        Members of a choice at most; 4 or more.
    as_json
        Print one JSON document in place of the table.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tables: dict[str, dict[tuple[str, ...], dict[str, float]]] = {}
    kinds: dict[str, str] = {}
    for name in names or (*IMAGES, *TEXT, *FEW):
        data, (network, _, per_class) = shared / "data", name.partition("@")
        known = open_network(network, data, cache, limit)
        if per_class:
            known = fitted_on_few(known, int(per_class))
        found, kinds[name] = p_values(network, known, held_out(network, known, data, cache))
        members = [m for m in POOL if m in found["test"]]
        tables[name] = {c: areas(found, known.groups, c) for c in choices(members, most)}
    if as_json:
        print_json({n: {"+".join(c): a for c, a in known.items()} for n, known in tables.items()})
        return
    titles = ["network", "features", "before", "now", "best single", "chosen without it", "MSP", "which", "chosen"]
    print("\n".join(markdown(titles, rows(tables, kinds))))


def choices(members: Sequence[str], most: int) -> Iterable[tuple[str, ...]]:
    """Every choice of up to `most` members."""
    for size in range(1, most + 1):
        yield from itertools.combinations(members, size)


if __name__ == "__main__":
    app()
