"""What the study of `Fuse` is made of: member scores on every set, the criterion, the choice; see fuse_study.py.

Nothing here is given an OOD score except `Scored.real`, and the choice never reads it.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from benchmarks.studies.tune_passes import Passes, Setup
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from oodline.detectors.base import Detector
from oodline.detectors.catalog import create_detector
from oodline.detectors.parts.combining import fisher
from oodline.detectors.parts.p_values import log_p_values, scale_of
from oodline.errors import FewSamplesWarning, OodlineError
from oodline.model.activations import Activations
from oodline.passes.fit import share_equal
from oodline.tuning.pseudo_outliers import FAR, NEAR
from oodline.tuning.trial import take

POOL = {
    "energy": "energy",
    "msp": "msp",
    "gen": "gen",
    "line": "line,clip=98%,unseen=dense",
    "line (absolute)": "line,clip=98%,unseen=dense,contribution=absolute",
    "react": "react",
    "react 98%": "react,clip=98%",
    "ash-s": "ash-s",
    "scale": "scale",
    "vra": "vra",
    "optfs": "optfs",
    "dice": "dice",
    "knn": "knn,k=10",
    "fdbd": "fdbd",
    "nnguide": "nnguide",
    "vim": "vim",
    "residual": "residual",
    "mahalanobis": "mahalanobis",
    "relative-mahalanobis": "relative-mahalanobis",
    "cadref": "cadref",
    "nci": "nci",
    "neco": "neco",
    "feature-norm": "feature-norm",
    "she": "she",
}
"""Members that may be fused: one setting each, its own default unless that is in units that differ by classifier."""

Rule = Callable[[Tensor], Tensor]
CHUNK = 500


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of every member that could be fitted (rows, members), on every set of one classifier."""

    setup: Setup
    members: tuple[str, ...]
    failures: dict[str, str]
    fit: Tensor
    held_out: Tensor
    pseudo: dict[str, Tensor]
    test: Tensor
    real: dict[str, Tensor]
    predicted: dict[str, Tensor]
    """Predicted classes of `fit`, `test` and the real OOD sets."""

    def columns(self, members: Sequence[str]) -> list[int]:
        """Which columns are of these members."""
        return [self.members.index(name) for name in members]


def score_members(setup: Setup, passes: Passes) -> Scored:
    """Fit every member on the fit data in one pass, and score everything by it."""
    head = passes.test.head
    detectors = {name: create_detector(reference) for name, reference in POOL.items()}
    requests = {name: detector._requests(head) for name, detector in detectors.items()}
    shared = share_equal(requests.values())
    activations, labels = passes.fit
    for rows in torch.arange(len(activations)).split(CHUNK):
        for statistic in shared:
            statistic.update(take(activations, rows), labels[rows])
    failures: dict[str, str] = {}
    able: dict[str, Detector] = {}
    for name, detector in detectors.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FewSamplesWarning)
                detector._settle(requests[name], head)
            able[name] = detector
        except OodlineError as error:
            failures[name] = str(error)

    def scores(of: Activations) -> Tensor:
        parts = [take(of, rows) for rows in torch.arange(len(of)).split(CHUNK)]
        with torch.no_grad():
            return torch.cat([torch.stack([d(part).double() for d in able.values()], 1) for part in parts])

    return Scored(
        setup,
        tuple(able),
        failures,
        scores(passes.fit[0]),
        scores(passes.held_out[0]),
        {name: scores(passes.pseudo[name]) for name in (*NEAR, *FAR)},
        scores(passes.test),
        {name: scores(a) for name, a in passes.real.items()},
        {k: a.logits.argmax(1) for k, a in {"fit": passes.fit[0], "test": passes.test, **passes.real}.items()},
    )


def halves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Which held-out samples are the reference, and which stand for ID data: a random half each."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: count // 2], order[count // 2 :]


def log_p(scored: Scored, seed: int) -> dict[str, Tensor]:
    """Log p-values (rows, members) of the half that stands for ID data, and of its pseudo-outliers."""
    reference, ids = halves(len(scored.held_out), seed)
    scale = scale_of(scored.held_out[reference])
    return {
        "ids": log_p_values(scored.held_out[ids], scale),
        **{name: log_p_values(scores[ids], scale) for name, scores in scored.pseudo.items()},
    }


def placements(p: Mapping[str, Tensor], columns: Sequence[int]) -> NDArray[np.float64]:
    """Of each held-out image, its part in the criterion (images,): their mean is twice the criterion.

    An image has a part as ID sample, and one through the pseudo-outliers that were made of it (DeLong et al., 1988).
    """
    ids = fisher(p["ids"][:, columns]).numpy()
    ascending, found = np.sort(ids), np.zeros(len(ids))
    for group in (NEAR, FAR):
        for name in group:
            outliers = fisher(p[name][:, columns]).numpy()
            own = np.searchsorted(np.sort(outliers), ids) / len(outliers)
            others = 1 - np.searchsorted(ascending, outliers, side="right") / len(ids)
            found += (own + others) / len(group) / 2
    return found


def criterion(p: Mapping[str, Tensor], columns: Sequence[int]) -> float:
    """AUROC of ID data against near and far pseudo-outliers in [0, 1], each group counting the same, as in `tune`."""
    fused = {name: fisher(p[name][:, columns]).numpy() for name in ("ids", *NEAR, *FAR)}
    ascending = np.sort(fused["ids"])
    below = {k: np.searchsorted(ascending, v, side="right").mean() / len(ascending) for k, v in fused.items()}
    return float(1 - (np.mean([below[k] for k in NEAR]) + np.mean([below[k] for k in FAR])) / 2)


def subsets(members: Sequence[str], most: int) -> Iterator[tuple[str, ...]]:
    """Every choice of up to `most` members."""
    for size in range(1, most + 1):
        yield from itertools.combinations(members, size)


def criteria(scored: Sequence[Scored], seeds: int, most: int) -> dict[tuple[str, ...], float]:
    """The criterion of every combination of up to `most` members, in %, mean over classifiers and seeds; best first."""
    common = [name for name in scored[0].members if all(name in s.members for s in scored)]
    known = [(s, log_p(s, seed)) for s in scored for seed in range(seeds)]
    values = {
        members: 100 * float(np.mean([criterion(p, s.columns(members)) for s, p in known]))
        for members in subsets(common, most)
    }
    return dict(sorted(values.items(), key=lambda item: -item[1]))


def margin(scored: Sequence[Scored], one: Sequence[str], other: Sequence[str]) -> tuple[float, float]:
    """By how much the criterion of one combination is above another's, in points, and the standard error of that.

    The error is that of images: other kinds of outliers than these may differ by more.
    """
    gains, variances = [], []
    for s in scored:
        p = log_p(s, 0)
        difference = placements(p, s.columns(one)) - placements(p, s.columns(other))
        gains.append(difference.mean() / 2)
        variances.append(difference.var() / len(difference))
    return 100 * float(np.mean(gains)), 100 * float(np.sqrt(sum(variances))) / len(scored)


def dependence(scored: Scored, members: Sequence[str]) -> float:
    """Mean rank correlation of the members' scores of held-out ID data."""
    columns = scored.held_out[:, scored.columns(members)].numpy()
    pairs = list(itertools.combinations(range(len(members)), 2))
    return float(np.mean([spearmanr(columns[:, i], columns[:, j]).statistic for i, j in pairs])) if pairs else 1.0
