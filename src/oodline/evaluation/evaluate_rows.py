"""Metrics per pixel (or token, or box) of data with both ID and OOD rows, in one pass and without keeping scores."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Self

import torch
from torch import Tensor

from oodline._util.checked import checked
from oodline.data.batch import Loader
from oodline.detectors.base import Detector
from oodline.detectors.named import Detectors, name_detectors
from oodline.errors import InputError, LabelError
from oodline.evaluation.metrics import EXACT, Metrics
from oodline.evaluation.rank_counts import RankCounts
from oodline.evaluation.table import Table
from oodline.model.activations import Activations
from oodline.model.rows.row_classifier import RowClassifier
from oodline.passes.engine import Engine
from oodline.passes.fit import check_served, reads
from oodline.passes.local import Local
from oodline.scoring.score import check_fitted_on
from oodline.scoring.score_collector import fingerprint


@checked
def evaluate_rows(
    detectors: Detectors,
    classifier: RowClassifier,
    loaders: Mapping[str, Loader],
    *,
    engine: Engine | None = None,
    progress: bool = False,
) -> Table:
    """Metrics per row, of data sets whose inputs have ID and OOD rows, each in one forward pass.

    How well detectors rank pixels; `evaluate` measures how well they tell images apart, by the score of an image.
    Every pixel of a mask counts, with the score of the row nearest to it.

    Parameters
    ----------
    detectors : Detector, name, iterable of them, or mapping from names to them
        Fitted.
    classifier : RowClassifier
        The classifier that they were fitted on.
    loaders : mapping of str to iterable
        Batches of inputs and labels, by name of the data set; for pixels, masks (N, H, W) of any height and width:
        0 for ID, 1 for OOD, anything else is left out.
    engine : Engine, optional
        Who makes the pass.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Table
        One column per data set. Scores are not kept: they are counted by `RankCounts`, in at most 6 MB per detector,
        exactly where a data set has at most 262,144 different scores. `n_id` and `n_ood` count pixels.

    Raises
    ------
    InputError
        A data set has no ID or no OOD row, or a score is NaN.
    LabelError
        Labels are missing, or not of the inputs' rows.
    MismatchError, NotFittedError
        As `oodline.score`.

    Examples
    --------
    >>> import oodline as ol
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 1))
    >>> classifier = ol.RowClassifier(model, "pixels")
    >>> detector = ol.Mahalanobis(by="all").fit(classifier, torch.randn(40, 1, 8, 8))
    >>> images, masks = torch.randn(4, 1, 8, 8), torch.zeros(4, 16, 16, dtype=torch.int64)
    >>> images[:, :, 4:], masks[:, 8:] = 9.0, 1
    >>> table = evaluate_rows(detector, classifier, {"halves": [(images, masks)]})
    >>> table.value("mahalanobis", "auroc", "halves"), table.cells["mahalanobis"]["halves"].n_ood
    (1.0, 512)
    """
    named = name_detectors(detectors)
    if not loaders:
        raise InputError("an evaluation needs at least one data set.")
    check_served(named.values(), classifier)
    check_fitted_on(named, classifier)
    filled = {}
    for data, loader in loaders.items():
        filled[data] = RowCounts(named)
        (engine or Local()).fill(
            [filled[data]], classifier.marking(), loader, reads(named.values()), task=data, progress=progress
        )
    inputs = sum(each.inputs for each in filled.values())
    spent = {name: sum(each.seconds[name] for each in filled.values()) for name in named}
    return Table(
        {name: {data: each.metrics(name, data) for data, each in filled.items()} for name in named},
        milliseconds={name: 1000 * seconds / inputs for name, seconds in spent.items()},
    )


class RowCounts:
    """The collector behind `evaluate_rows`: for each detector, how many ID and OOD rows have each score."""

    def __init__(self, detectors: Mapping[str, Detector]) -> None:
        self.detectors = detectors
        self.load_state_dict({})

    @property
    def key(self) -> tuple[object, ...]:
        """The class and the detectors with their state."""
        return (type(self).__name__, fingerprint(self.detectors))

    def fresh(self) -> Self:
        """Empty counts of the same detectors."""
        return type(self)(self.detectors)

    def update(self, activations: Activations, labels: Tensor | None) -> None:
        """Score one batch; labels say how many ID and OOD places each row stands for (M, 2)."""
        if labels is None:
            raise LabelError(
                "the loader yields no labels; batches of inputs and masks of 0 (ID) and 1 (OOD) are needed."
            )
        self.inputs += len(activations.samples)
        for name, detector in self.detectors.items():
            started = perf_counter()
            with torch.no_grad():
                scores = detector.score_rows(activations)
            self.seconds[name] += perf_counter() - started
            self.ranks[name].add(scores, labels)

    def metrics(self, name: str, data: str) -> Metrics:
        """All metrics of a detector; `data` is what to call the data set in a message."""
        counts = self.ranks[name].counts()
        for side, total in (("ID", counts.n_id), ("OOD", counts.n_ood)):
            if not total:
                raise InputError(f"'{data}' has no {side} row. Masks must be 0 where ID and 1 where OOD.")
        rates = {metric: float(value) for metric, value in EXACT.rates(counts).items()}
        return Metrics(**rates, n_id=int(counts.n_id), n_ood=int(counts.n_ood))

    def merge(self, other: Self) -> Self:
        """Take in all that `other` has counted."""
        for name, ranks in self.ranks.items():
            ranks.merge(other.ranks[name])
            self.seconds[name] += other.seconds[name]
        self.inputs += other.inputs
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """Counts by detector, seconds, and how many inputs were seen."""
        state = {f"{key}/{name}": value for name, r in self.ranks.items() for key, value in r.state_dict().items()}
        seconds = torch.tensor([*self.seconds.values()], dtype=torch.float64)
        return {**state, "seconds": seconds, "inputs": torch.tensor(self.inputs)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore from `state_dict()`."""
        self.ranks = {name: RankCounts() for name in self.detectors}
        self.inputs = int(state["inputs"]) if state else 0
        spent = state["seconds"].tolist() if state else [0.0] * len(self.detectors)
        self.seconds = dict(zip(self.detectors, spent, strict=True))
        for name, ranks in self.ranks.items() if state else ():
            ranks.load_state_dict({key: state[f"{key}/{name}"] for key in ranks.state_dict()})
